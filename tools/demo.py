"""Run the panel with demo data: database, web server, worker, servers, in one tree.

    python -m tools.demo [--reset]

PORT is where it listens on 127.0.0.1, DATA_DIR the folder of everything it keeps.
Ctrl-C or SIGTERM ends all of it in order. If it is killed, the kernel ends its
children, and `tools.demo_guard` the QEMU processes that are meant to outlive a worker.
"""

import argparse
import fcntl
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tools.children import ask_for_death_signal, end_with_parent
from tools.postgres import Postgres, PostgresError
from tools.tiny_linux import TinyLinuxError, base_image

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DATABASE = "controlpanel"
# What the panel and this module keep in DATA_DIR; a reset deletes nothing else.
KEPT = (
    "images",
    "jobs.lock",
    "log",
    "postgres",
    "secret-key",
    "servers",
    "snapshots",
    "static",
)

SECONDS_TO_ANSWER = 60
SECONDS_TO_STOP = 10
SECONDS_TO_SHUT_OFF = 15  # all servers together
LONGEST_PAUSE = 30  # before a program is started once more
STEADY = 60  # seconds after which a program counts as healthy again


class DemoError(RuntimeError):
    """Why the demo cannot run, in a sentence."""


@dataclass
class Program:
    """A child that is started again when it dies."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    # What the kernel sends it if we are killed.
    last_signal: signal.Signals
    process: subprocess.Popen[bytes] | None = None
    _started: float = 0
    _pause: float = 1
    _start_again_at: float | None = field(default=None)

    def start(self) -> None:
        self._started, self._start_again_at = time.monotonic(), None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who end it in order
                preexec_fn=end_with_parent(self.last_signal),  # noqa: PLW1509
            )

    def look_after(self) -> None:
        now = time.monotonic()
        if self._start_again_at is not None:
            if now >= self._start_again_at:
                self.start()
        elif self.process and self.process.poll() is not None:
            if now - self._started > STEADY:
                self._pause = 1
            say(
                f"The {self.name} has ended ({_outcome(self.process.returncode)}) and "
                f"is started again in {self._pause:.0f} s; see {self.log}"
            )
            self._start_again_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def ask_to_end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def end(self, seconds: float) -> None:
        if not self.process:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Demo:
    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.port = port
        self.address = f"http://{HOST}:{port}/"
        self.log_dir = data_dir / "log"
        self.database = Postgres(data_dir / "postgres")
        self.programs: list[Program] = []
        self.environment: dict[str, str] = {}
        self.guard: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        with running_alone(self.data_dir, self.address):
            _check_port(self.port)
            self.log_dir.mkdir(exist_ok=True)
            try:
                self._set_up()
                while True:
                    self._look_after()
                    time.sleep(0.2)
            finally:
                self._end()

    # Up

    def _set_up(self) -> None:
        self.guard = _start_guard(self.data_dir)
        with step("database"):
            self.database.start()
            self.database.create_database(DATABASE)
        self.environment = self._settings()
        with step("tables"):
            self._manage("migrate", "--verbosity=0")
        with step("static files"):
            self._manage("collectstatic", "--noinput", "--verbosity=0")
        image = self._base_image()
        with step("demo data"):
            chosen = ["--base-image", str(image)] if image else []
            sign_ins = self._manage("demo_data", *chosen)
        with step("web server and worker"):
            self.programs = [self._web_server(), self._worker()]
            for program in self.programs:
                program.start()
            self._wait_for_an_answer()
        print(f"\n{sign_ins.strip()}\n")
        print(
            f"{self.address}   (mail and messages: {_short(self.log_dir)}; Ctrl-C ends)"
        )

    def _settings(self) -> dict[str, str]:
        return {
            **os.environ,
            "ALLOWED_HOSTS": f"{HOST},localhost",
            "DATABASE_URL": self.database.url(DATABASE),
            "DATA_DIR": str(self.data_dir),
            "DEBUG": "false",
            "PLAIN_HTTP": "true",
            "PYTHONUNBUFFERED": "1",
            "SECRET_KEY": _secret_key(self.data_dir / "secret-key"),
        }

    def _base_image(self) -> Path | None:
        with step("base image"):
            try:
                return base_image(ROOT / "var" / "cache")
            except TinyLinuxError as error:
                problem = str(error)
        say(f"There is no base image to boot servers from. {problem}")
        return None

    def _manage(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGKILL),
            check=False,
        )
        if done.returncode:
            raise DemoError(f"`manage.py {command[0]}` failed.\n{done.stderr[-3000:]}")
        return done.stdout

    def _web_server(self) -> Program:
        # Its control socket would lie in the user's home folder.
        command = [
            *(sys.executable, "-m", "gunicorn", "controlpanel.wsgi"),
            *("--bind", f"{HOST}:{self.port}", "--no-control-socket"),
            *("--worker-class", "gthread", "--workers", "2", "--threads", "4"),
            *("--graceful-timeout", "5"),
        ]
        return self._program("web server", "web", command, signal.SIGQUIT)

    def _worker(self) -> Program:
        command = [
            *(sys.executable, "manage.py", "worker", "--grace", "5"),
        ]
        # At once, so that it starts no server behind the guard's back.
        return self._program("worker", "worker", command, signal.SIGKILL)

    def _program(
        self, name: str, log: str, command: list[str], last_signal: signal.Signals
    ) -> Program:
        path = self.log_dir / f"{log}.log"
        return Program(name, command, path, self.environment, last_signal)

    def _wait_for_an_answer(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while not _answers(self.port):
            for program in self.programs:
                if program.process and program.process.poll() is not None:
                    last_words = program.log.read_text(errors="replace")[-2000:]
                    raise DemoError(f"The {program.name} does not start.\n{last_words}")
            if time.monotonic() > deadline:
                raise DemoError(f"The web server does not answer; see {self.log_dir}.")
            time.sleep(0.1)

    def _look_after(self) -> None:
        if not self.database.is_running:
            say("PostgreSQL has ended and is started again.")
            self.database.start()
        for program in self.programs:
            program.look_after()

    # Down

    def _end(self) -> None:
        # From here on Ctrl-C changes nothing: each step has its time limit.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with step("end"):
            for program in self.programs:
                program.ask_to_end()
            for program in self.programs:
                program.end(SECONDS_TO_STOP)
            if self.programs:
                self._shut_off_servers()
            if self.guard:
                self._dismiss_guard(self.guard)
            self.database.stop()

    def _shut_off_servers(self) -> None:
        try:
            subprocess.run(
                [sys.executable, "manage.py", "stop_servers"],
                cwd=ROOT,
                env=self.environment,
                capture_output=True,
                timeout=SECONDS_TO_SHUT_OFF,
                check=False,
            )
        except subprocess.TimeoutExpired:
            say("Some servers did not shut down in time and are cut off.")

    def _dismiss_guard(self, guard: subprocess.Popen[bytes]) -> None:
        if guard.stdin:
            guard.stdin.close()
        guard.wait()


@contextmanager
def running_alone(data_dir: Path, address: str = "") -> Iterator[None]:
    """Hold the folder: one demo at a time, and none while it is reset."""
    data_dir.mkdir(parents=True, exist_ok=True)
    # Not truncated on opening: it says where the other one listens.
    with (data_dir / "demo.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            where = lock.read().strip() or "being set up or reset"
            raise DemoError(
                f"The demo of {data_dir} runs already: {where}\n"
                "End it first by Ctrl-C; or give another one its own folder and "
                "port, as in: make demo DATA_DIR=var/second PORT=8001"
            ) from None
        lock.truncate(0)
        lock.write(address)
        lock.flush()
        yield


def reset(data_dir: Path) -> None:
    if not (data_dir / "demo.lock").exists():
        print(f"There is no demo in {data_dir}.")
        return
    with running_alone(data_dir):
        for name in KEPT:
            path = data_dir / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    (data_dir / "demo.lock").unlink()
    left = sorted(path.name for path in data_dir.iterdir())
    if left:
        print(f"Left alone in {data_dir}: {', '.join(left)}")
    else:
        data_dir.rmdir()
    print("The demo starts over with the next `make demo`.")


@contextmanager
def step(name: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"{name:.<24}", end=" ", flush=True)
    try:
        yield
    except BaseException:
        print("stopped", flush=True)
        raise
    print(f"{time.monotonic() - started:5.1f} s", flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _start_guard(data_dir: Path) -> subprocess.Popen[bytes]:
    # It holds the other end of a pipe, which closes however we end.
    return subprocess.Popen(
        [sys.executable, "-m", "tools.demo_guard", data_dir / "servers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        # As the web server does it: a connection that lingers is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise DemoError(
                f"Port {port} is not open to you. Choose one above 1023, as in: "
                "make demo PORT=8001"
            ) from None
        except OSError:
            raise DemoError(
                f"Port {port} is taken. Choose another, as in: make demo PORT=8001"
            ) from None


def _secret_key(path: Path) -> str:
    if not path.exists():
        new = path.with_name("secret-key.new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(secrets.token_urlsafe(64))
        new.rename(path)
    return path.read_text()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _outcome(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _port() -> int:
    given = os.environ.get("PORT") or "8000"
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 65536):
        raise DemoError(f"PORT must be a number from 1 to 65535, not {given!r}.")
    return int(given)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo")
    parser.add_argument("--reset", action="store_true", help="throw its data away")
    arguments = parser.parse_args()
    data_dir = Path(os.environ.get("DATA_DIR") or ROOT / "var" / "demo").resolve()
    if os.environ.get("MAKELEVEL"):
        ask_for_death_signal(signal.SIGTERM)  # we end with the make that runs us
    # SIGINT too: a shell that runs us in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        if arguments.reset:
            reset(data_dir)
        else:
            Demo(data_dir, _port()).run()
    except (DemoError, PostgresError) as error:
        say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

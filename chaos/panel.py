"""The panel as it is run in production, in a folder of its own, with all its processes.

Whatever dies is started again a second later, as systemd would. Only the main thread
starts programs: the kernel ends them with the thread that did (see tools.children).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from uuid import UUID

import psycopg

from chaos import processes
from tools import demo

# Room for everything that a run makes, and little enough to be filled in a moment.
DISK_MIB = 1536
LIBFAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class Program(demo.Program):
    """A program that is back a second after its end, however often it ends."""

    ended_at: float = 0

    def look_after(self) -> None:
        if self.process is None or self.process.poll() is None:
            self.ended_at = 0
        elif not self.ended_at:
            self.ended_at = time.monotonic()
        elif time.monotonic() - self.ended_at > 1:
            self.start()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0


class Panel(demo.Demo):
    """`with Panel(folder, port) as panel:`, and `panel.wait` instead of sleep."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self.folder = folder
        # The database is not on the disk that gets full.
        self.data_dir = folder / "data"
        self.clock = folder / "clock"
        self.has_own_disk = False

    def __enter__(self) -> Self:
        if self.folder.exists():
            if not (self.folder / "chaos").exists():
                raise demo.DemoError(f"{self.folder} is not a folder of this program.")
            shutil.rmtree(self.folder)
        self.data_dir.mkdir(parents=True)
        self.log_dir.mkdir()
        (self.folder / "chaos").touch()
        self.has_own_disk = self._mount_disk()
        try:
            self._set_up()
        except BaseException:
            self._end()
            raise
        self.web, self.worker = (cast(Program, each) for each in self.programs)
        self.spare_worker = cast(Program, self._worker())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.spare_worker.end(0)
        self._end()

    def wait(self, seconds: float, until: Callable[[], object] = lambda: False) -> bool:
        """Look after the programs for a while; whether it has come to the condition."""
        deadline = time.monotonic() + seconds
        while not (come := bool(until())) and time.monotonic() < deadline:
            self._look_after()
            time.sleep(0.05)
        return come

    # Its world

    @contextmanager
    def own_clock(self) -> Iterator[Callable[[str], None]]:
        """Start web and worker anew with a clock that can be set, as in "+2d"."""
        usual = self.environment
        self._set_clock("+0")
        self._start_anew(
            usual
            | {
                "LD_PRELOAD": libfaketime(),
                "PYTHONPATH": str(Path(__file__).with_name("clock")),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_RESET": "1",
            }
        )
        try:
            yield self._set_clock
        finally:
            self._start_anew(usual)

    def _set_clock(self, offset: str) -> None:
        draft = self.clock.with_suffix(".new")
        draft.write_text(offset)
        draft.rename(self.clock)

    def _start_anew(self, environment: dict[str, str]) -> None:
        for program in (self.web, self.worker):
            program.environment = environment
            program.ask_to_end()
        for program in (self.web, self.worker):
            program.end(demo.SECONDS_TO_STOP)
            program.start()

    def sweep(self) -> None:
        """Have the worker do what it does every hour."""
        task = "servers.reconciling.reconcile_all"
        queue = ("--queue", "housekeeping", "--lock", "reconcile-all")
        self._manage("procrastinate", "defer", *queue, task, '{"timestamp": 0}')

    def differences(self) -> list[str]:
        """What the panel itself finds, looking at all files however young."""
        done = subprocess.run(
            [sys.executable, "manage.py", "reconcile", "--older-than", "0", "--json"],
            cwd=demo.ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or not done.stdout:
            return [f"it fails: {done.stderr[-300:]}"]
        return [each["sentence"] for each in json.loads(done.stdout)]

    def _settings(self) -> dict[str, str]:
        more = {
            "MIN_FREE_MIB": "64",
            "OFFERS_PER_DAY": "1000000",
            "SERVERS_PER_ACCOUNT": "100",
            "MAX_SERVERS": "100",
            # Less than the visitors' patience.
            "UPLOAD_WAIT_SECONDS": "10",
        }
        return super()._settings() | more

    def _program(
        self, name: str, log: str, command: list[str], last_signal: signal.Signals
    ) -> Program:
        path = self.log_dir / f"{log}.log"
        return Program(name, command, path, self.environment, last_signal)

    def _mount_disk(self) -> bool:
        """Give the panel's data a small disk, which ends with us; only root can."""
        try:
            # The mounts below are seen by nobody else, and go with our last process.
            os.unshare(os.CLONE_NEWNS)
            _run("mount", "--make-rprivate", "/")
            size = f"size={DISK_MIB}m,mode=0711"
            _run("mount", "-t", "tmpfs", "-o", size, "tmpfs", self.data_dir)
            # Of its own, so that it can be read-only for itself.
            images = self.data_dir / "images"
            images.mkdir(mode=0o755)
            _run("mount", "--bind", images, images)
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def remount(self, folder: Path, how: str) -> bool:
        """Make a disk of its own "ro" or "rw"; not while somebody writes there."""
        try:
            _run("mount", "-o", f"remount,bind,{how}", folder)
        except subprocess.CalledProcessError:
            return False
        return True

    def end_spare_worker(self) -> None:
        self.spare_worker.ask_to_end()
        self.spare_worker.end(demo.SECONDS_TO_STOP)
        self.spare_worker.process = None

    # Its processes

    def web_workers(self) -> list[int]:
        return processes.children(self.web.pid)

    def workers(self) -> list[int]:
        programs = (self.worker, self.spare_worker)
        return [each.pid for each in programs if each.process]

    def postgres_backends(self) -> list[int]:
        """Only those that serve somebody."""
        master = self.database.process
        return [
            pid
            for pid in processes.children(master.pid if master else 0)
            if b"postgres: app" in processes.command_line(pid)
        ]

    def qemus(self) -> Iterator[tuple[UUID, int]]:
        """Every QEMU that has a file of ours open, and which server it says to be."""
        for pid in processes.named("qemu-system-x86"):
            if processes.uses(pid, self.data_dir):
                words = processes.command_line(pid).split(b"\0")
                with suppress(ValueError, IndexError):
                    yield UUID(words[words.index(b"-uuid") + 1].decode()), pid

    def qemu_imgs(self) -> list[int]:
        """What the panel has running; not those of the visitors."""
        return [
            pid
            for pid in processes.named("qemu-img")
            if os.fsencode(self.data_dir) in processes.command_line(pid)
        ]


class Database:
    """Questions to the panel's database, past the panel, also while it goes up and
    down."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + 60
        while True:
            try:
                if self._connection is None:
                    url = self._panel.environment["DATABASE_URL"]
                    self._connection = psycopg.connect(
                        url, autocommit=True, connect_timeout=5
                    )
                return self._connection.execute(query, values).fetchall()
            except psycopg.OperationalError:
                self._connection = None
                if time.monotonic() > deadline:
                    raise
                self._panel.wait(0.1)

    def one(self, query: str, *values: object) -> Any:
        found = self.rows(query, *values)
        return found[0][0] if found else None


def libfaketime() -> str:
    found = sorted(Path("/").glob(LIBFAKETIME.lstrip("/")))
    return str(found[0]) if found else ""


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)

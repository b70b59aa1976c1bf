"""A whole panel of the bench's own: the demo's processes, on new data."""

import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psycopg

from bench.report import say
from bench.visitor import REGION, Visitor
from tools import demo
from tools.demo_guard import end_servers

ACCOUNT = "Acme Research"
PATIENCE = 300  # seconds
GLANCE = 0.005


class Panel(demo.Demo):
    """`with Panel(folder) as panel:`; nothing of it runs on afterwards."""

    alice: Visitor

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _free_port())

    def __enter__(self) -> Self:
        say("a panel of its own")
        end_servers(self.data_dir / "servers")
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.log_dir.mkdir(parents=True)
        try:
            self._set_up()
            url = self.environment["DATABASE_URL"]
            self._connection = psycopg.connect(url, autocommit=True)
            number = "SELECT number FROM accounts_account WHERE name = %s"
            self.alice = Visitor(self.port, self.ask(number, ACCOUNT))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        before = signal.getsignal(signal.SIGINT)
        self._end()
        signal.signal(signal.SIGINT, before)

    def manage(self, *command: str) -> str:
        return self._manage(*command)

    def pids(self, name: str) -> list[int]:
        """Of the programs whose name holds this word."""
        return [
            program.process.pid
            for program in self.programs
            if name in program.name and program.process
        ]

    # What the bench sees of it

    def all(self, query: str, *values: object) -> list[Any]:
        return [row[0] for row in self._connection.execute(query, values).fetchall()]

    def ask(self, query: str, *values: object) -> Any:
        rows = self.all(query, *values)
        return rows[0] if rows else None

    def wait(self, query: str, wanted: object, *values: object) -> None:
        wait_until(lambda: self.ask(query, *values) == wanted, query)

    def base_image(self, name: str) -> str:
        query = (
            "SELECT id::text FROM images_image"
            " WHERE owner_id IS NULL AND region_id = %s AND name = %s"
        )
        return str(self.ask(query, REGION, name))

    def blob(self, image: str) -> Path:
        query = (
            "SELECT digest FROM images_blob b JOIN images_image i ON i.blob_id = b.id"
            " WHERE i.id = %s"
        )
        return next(self.data_dir.glob(f"images/blobs/*/{self.ask(query, image)}.*"))

    def folder(self, server: str) -> Path:
        return self.data_dir / "servers" / server

    def delete_servers(self) -> None:
        for server in self.all("SELECT id::text FROM servers_server"):
            self.alice.post(f"servers/{server}/delete/")
        self.wait("SELECT count(*) FROM servers_server", 0)


def wait_for_prompt(console: Path) -> None:
    """On the console itself, which is earlier than the panel's page says so."""
    wait_until(
        lambda: console.exists() and b"login:" in console.read_bytes(), str(console)
    )


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"not seen in {PATIENCE} s: {what}")
        time.sleep(GLANCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((demo.HOST, 0))
        port: int = probe.getsockname()[1]
        return port

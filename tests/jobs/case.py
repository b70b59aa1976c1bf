"""Real workers, and what they find and leave in the table of jobs."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.db import connection
from procrastinate.contrib.django.models import ProcrastinateJob
from psycopg.conninfo import make_conninfo

PATIENCE = 300  # seconds; usually it takes a second


def empty_queues() -> None:
    """Other tests leave jobs, since theirs are no tables of the panel."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_jobs")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, list(ProcrastinateJob.objects.values())
        time.sleep(0.05)


class WorkersMixin:
    """Workers of the test's database, which end with the test."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        empty_queues()
        self.workers: list[subprocess.Popen[bytes]] = []

    def tearDown(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()
        empty_queues()
        super().tearDown()  # type: ignore[misc]

    def start_worker(
        self, *, options: str = "", **environment: str
    ) -> subprocess.Popen[bytes]:
        """`options` are for its connections to the database."""
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "worker", "--grace", "1"],
            cwd=settings.BASE_DIR,
            env={
                **os.environ,
                "DATABASE_URL": database_url(options=options),
                "DATA_DIR": str(settings.DATA_DIR),
                **environment,
            },
        )
        self.workers.append(worker)
        return worker


def database_url(name: str = "", *, options: str = "") -> str:
    """The database of the tests, or another one of the same server."""
    found = connection.get_connection_params()
    if name:
        found["dbname"] = name
    if options:
        found["options"] = options
    words = ("dbname", "user", "password", "host", "port", "options")
    return make_conninfo(**{word: found[word] for word in words if word in found})


class MailServer:
    """Takes mails in when it is told to; until then whoever sends one has to wait."""

    def __init__(self) -> None:
        self.callers = 0
        self.mails = 0
        self.may_answer = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self.may_answer.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self.callers += 1
            threading.Thread(target=self._answer, args=(caller,), daemon=True).start()

    def _answer(self, caller: socket.socket) -> None:
        self.may_answer.wait()
        with caller, caller.makefile("rwb", 0) as lines:
            try:
                lines.write(b"220 here\r\n")
                while line := lines.readline():
                    self._reply(lines, line)
            except OSError:
                return  # it was killed

    def _reply(self, lines: socket.SocketIO, line: bytes) -> None:
        if line.upper().startswith(b"DATA"):
            lines.write(b"354 go on\r\n")
            while lines.readline().strip() != b".":
                pass
            self.mails += 1
        lines.write(b"250 done\r\n")

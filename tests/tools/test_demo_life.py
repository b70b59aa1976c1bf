import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.qemu
class DemoLifeTests(unittest.TestCase):
    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="demo-"))
        self.data_dir = Path(folder).resolve()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(self) -> subprocess.Popen[str]:
        demo = subprocess.Popen(
            [sys.executable, "-m", "tools.demo"],
            cwd=ROOT,
            env={**os.environ, "DATA_DIR": str(self.data_dir), "PORT": str(self.port)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert demo.stdout
        self.addCleanup(demo.stdout.close)
        self.addCleanup(demo.wait)
        self.addCleanup(demo.kill)
        shown = ""
        for line in demo.stdout:
            shown += line
            if line.startswith(f"http://127.0.0.1:{self.port}/"):
                return demo
        raise AssertionError(f"the demo has ended:\n{shown}")

    def processes(self) -> set[str]:
        """Who still lives with our folder as its DATA_DIR."""
        mark = f"DATA_DIR={self.data_dir}".encode()
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.add((process / "cmdline").read_bytes().decode())
            except OSError:
                continue  # it has just ended
        return found

    def test_it_answers_and_leaves_nothing_behind_however_it_ends(self):
        for number in (signal.SIGINT, signal.SIGKILL):
            with self.subTest(number.name):
                demo = self.start()
                assert self.get("/") < 500
                assert len(self.processes()) >= 4
                demo.send_signal(number)
                demo.wait(60)
                wait_until(lambda: not self.processes())
        assert (self.data_dir / "secret-key").exists()

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()


class GuardTests(unittest.TestCase):
    def test_it_ends_the_servers_once_the_demo_is_gone(self):
        servers = Path(self.enterContext(tempfile.TemporaryDirectory()))
        server_id = str(uuid4())
        # What the worker starts is found by its folder, its pid and its arguments.
        server = subprocess.Popen(
            ["sh", "-c", "sleep 100", "sh", "-machine", "pc", "-uuid", server_id]
        )
        self.addCleanup(server.kill)
        (servers / server_id).mkdir()
        (servers / server_id / "pid").write_text(str(server.pid))
        guard = subprocess.Popen(
            [sys.executable, "-m", "tools.demo_guard", servers],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        self.addCleanup(guard.kill)
        time.sleep(0.5)
        assert server.poll() is None
        assert guard.stdin
        guard.stdin.close()
        assert guard.wait(30) == 0
        assert server.wait(30) == -signal.SIGKILL


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)

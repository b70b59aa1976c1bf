import os
import signal
import socket
import stat
import tempfile
import time
import unittest
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tools import demo


class DemoTestCase(unittest.TestCase):
    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="demo-"))
        self.data_dir = Path(folder, "data")
        self.printed = self.enterContext(redirect_stdout(StringIO()))
        self.said = self.enterContext(redirect_stderr(StringIO()))


class AloneTests(DemoTestCase):
    def test_a_second_demo_of_a_folder_is_told_where_the_first_listens(self):
        with (
            demo.running_alone(self.data_dir, "http://127.0.0.1:8000/"),
            pytest.raises(demo.DemoError, match=r"http://127\.0\.0\.1:8000/"),
            demo.running_alone(self.data_dir),
        ):
            pass

    def test_the_folder_is_free_again_afterwards(self):
        for _ in range(2):
            with demo.running_alone(self.data_dir):
                pass

    def test_a_taken_port_is_told(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(demo.DemoError, match=f"Port {port} is taken"):
                demo.Demo(self.data_dir, port).run()


class ResetTests(DemoTestCase):
    def test_it_deletes_what_the_demo_made_and_nothing_else(self):
        with demo.running_alone(self.data_dir):
            (self.data_dir / "postgres" / "data-18").mkdir(parents=True)
            (self.data_dir / "secret-key").write_text("secret")
            (self.data_dir / "thesis.txt").write_text("years of work")
        demo.reset(self.data_dir)
        assert [path.name for path in self.data_dir.iterdir()] == ["thesis.txt"]
        assert "Left alone in" in self.printed.getvalue()

    def test_it_deletes_nothing_where_no_demo_has_been(self):
        (self.data_dir / "images").mkdir(parents=True)
        demo.reset(self.data_dir)
        assert (self.data_dir / "images").exists()

    def test_it_refuses_while_the_demo_runs(self):
        with (
            demo.running_alone(self.data_dir),
            pytest.raises(demo.DemoError, match="runs already"),
        ):
            demo.reset(self.data_dir)


class SecretKeyTests(DemoTestCase):
    def test_it_is_long_private_and_kept(self):
        self.data_dir.mkdir()
        path = self.data_dir / "secret-key"
        key = demo._secret_key(path)
        assert len(key) > 50
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert demo._secret_key(path) == key


class PortTests(unittest.TestCase):
    def test_it_comes_from_the_environment(self):
        for given, port in (("", 8000), ("8123", 8123)):
            with self.subTest(given), pytest.MonkeyPatch.context() as patch:
                patch.setenv("PORT", given)
                assert demo._port() == port

    def test_what_is_no_port_is_told(self):
        for given in ("http", "0", "70000", "-1"):
            with self.subTest(given), pytest.MonkeyPatch.context() as patch:
                patch.setenv("PORT", given)
                with pytest.raises(demo.DemoError, match="PORT must be"):
                    demo._port()


class ProgramTests(DemoTestCase):
    def program(self, script: str) -> demo.Program:
        log = Path(self.data_dir.parent, "log")
        program = demo.Program(
            "worker", ["sh", "-c", script], log, dict(os.environ), signal.SIGKILL
        )
        self.addCleanup(program.end, 0)
        program.start()
        return program

    def test_one_that_dies_is_started_again_after_a_pause(self):
        program = self.program("exit 3")
        assert program.process
        program.process.wait()
        first = program.process.pid
        program.look_after()
        assert "ended (exit status 3)" in self.said.getvalue()
        assert program.process.pid == first
        wait_for_another(program, first)

    def test_the_pauses_grow(self):
        program = self.program("exit 3")
        for _ in range(2):
            assert program.process
            program.process.wait()
            program.look_after()
            wait_for_another(program, program.process.pid)
        assert "in 1 s" in self.said.getvalue()
        assert "in 2 s" in self.said.getvalue()

    def test_one_that_does_not_end_when_asked_is_killed(self):
        program = self.program("trap '' TERM; echo ready; while :; do sleep 0.1; done")
        wait_until_written(program.log, "ready")
        program.ask_to_end()
        program.end(0.3)
        assert program.process
        assert program.process.returncode == -signal.SIGKILL


def wait_for_another(program: demo.Program, pid: int) -> None:
    deadline = time.monotonic() + 60
    while program.process and program.process.pid == pid:
        assert time.monotonic() < deadline, "it was not started again"
        program.look_after()
        time.sleep(0.05)


def wait_until_written(log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < deadline, f"no {text!r} in {log}"
        time.sleep(0.02)

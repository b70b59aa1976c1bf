from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from django.test import SimpleTestCase

from images.stores.base import Refused
from images.stores.checking import fault_of
from images.stores.children import Limits, run_limited
from tests.images.stores.case import needs_qemu


@needs_qemu
class LimitTests(SimpleTestCase):
    def test_a_child_has_only_so_much_memory(self):
        ended = run_limited(_python("bytearray(2 << 30)"), Limits(memory=1 << 30))
        assert ended.failed
        assert "MemoryError" in ended.err

    def test_a_child_has_only_so_much_time(self):
        began = time.monotonic()
        ended = run_limited(["sleep", "30"], Limits(seconds=0.2))
        assert ended.timed_out
        assert time.monotonic() - began < 5

    def test_a_child_that_never_stops_talking_is_stopped_and_not_remembered(self):
        ended = run_limited(["yes"], Limits(seconds=0.3))
        assert ended.timed_out
        ended = run_limited(_python("print('x' * 1_000_000)"), Limits())
        assert len(ended.out) <= 64 * 1024

    def test_a_child_has_only_so_much_cpu(self):
        ended = run_limited(_python("while True: pass"), Limits(cpu_seconds=1))
        assert ended.exhausted
        assert not ended.timed_out

    def test_a_child_that_somebody_killed_is_no_fault_of_the_file(self):
        ended = run_limited(_python("import os; os.kill(os.getpid(), 9)"), Limits())
        assert ended.was_killed
        assert not ended.exhausted
        assert not isinstance(fault_of(ended), Refused)

    def test_a_child_writes_only_so_much(self):
        ended = run_limited(
            ["dd", "if=/dev/zero", "of=/dev/shm/never-written", "bs=1k", "count=1"],
            Limits(file_bytes=0),
        )
        Path("/dev/shm/never-written").unlink(missing_ok=True)  # noqa: S108
        assert ended.failed
        assert ended.lacked_space

    def test_a_child_gets_none_of_our_secrets(self):
        os.environ["SECRET_OF_THE_PANEL"] = "swordfish"
        self.addCleanup(os.environ.pop, "SECRET_OF_THE_PANEL")
        assert "swordfish" not in run_limited(["env"], Limits()).out

    def test_a_child_dies_with_a_killed_worker(self):
        seconds = f"4711.{os.getpid()}"
        worker = subprocess.Popen(
            [
                *(sys.executable, "-c"),
                "from images.stores.children import *;"
                f"run_limited(['sleep', '{seconds}'], Limits(seconds=60))",
            ],
            cwd=Path(__file__).parents[3],
        )
        _wait_for(lambda: _is_running(seconds))
        worker.kill()
        worker.wait()
        _wait_for(lambda: not _is_running(seconds))


def _python(code):
    return [sys.executable, "-I", "-c", code]


def _is_running(word):
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if process.read_bytes().startswith(b"sleep\0" + word.encode()):
                return True
        except OSError:
            continue
    return False


def _wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

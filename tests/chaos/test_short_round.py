"""A few kills of every kind, as `make chaos` does hundreds of them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import pytest

from tests.images.stores.case import needs_qemu
from tools.tiny_linux import TinyLinuxError, base_image

pytestmark = [pytest.mark.chaos, pytest.mark.qemu, needs_qemu]
ROOT = Path(__file__).parents[2]
# Of a busy machine; a quiet one takes a minute.
PATIENCE = 900


class ShortRoundTests(unittest.TestCase):
    def setUp(self):
        try:
            base_image()
        except TinyLinuxError as error:
            pytest.skip(f"Tiny Linux cannot be built here: {error}")
        # Short, since sockets lie below it, and open to the user that servers run as.
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.folder.chmod(0o711)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        chaos = subprocess.Popen(
            [sys.executable, "-u", "-m", "chaos", "--kills-only", *arguments],
            cwd=ROOT,
            env={**os.environ, "DATA_DIR": str(self.folder / "run")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert chaos.stdout
        self.addCleanup(chaos.stdout.close)
        self.addCleanup(chaos.wait)
        self.addCleanup(chaos.kill)
        limit = threading.Timer(PATIENCE, chaos.kill)
        limit.start()
        self.addCleanup(limit.cancel)
        return chaos

    def test_a_panel_that_is_killed_loses_nothing_and_leaves_nothing(self):
        chaos = self.start("--kills", "7", "--stay")
        shown = ""
        for line in chaos.stdout:
            shown += line
            if "stays up" in line:
                break
        # Which kinds they are is up to the dice and to what runs at the moment.
        assert "| **all** | 7 | 0 | 0 | 0 | 0 |" in shown
        for trouble in ("never", "FAULT"):
            assert trouble not in shown

        # All of it is still up, and ends with the program.
        assert len(processes_of(self.folder)) > 5, shown
        chaos.send_signal(signal.SIGKILL)
        chaos.wait()
        wait_until(lambda: not processes_of(self.folder), seconds=60)


def processes_of(folder: Path) -> list[str]:
    """Who has the folder among its settings, or a file of it open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            settings = (process / "environ").read_bytes()
            files = [
                os.fsencode(each.readlink()) for each in (process / "fd").iterdir()
            ]
            name = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if any(os.fsencode(folder) in each for each in [settings, *files]):
            found.append(name.decode())
    return found


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)

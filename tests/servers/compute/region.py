"""A region of its own for a test: real QEMU, empty folder, the guest of one sector."""

import os
import shutil
import signal
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from servers.compute import process
from servers.compute.base import ImageFile, ServerSpec
from servers.compute.folder import ServerFolder
from servers.compute.launch import QemuSettings
from servers.compute.qemu import QemuCompute
from tests.servers.compute import guest

needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-system-x86_64") and shutil.which("qemu-img")),
    reason="needs QEMU: apt-get install qemu-system-x86 qemu-utils",
)


class RegionTestCase(unittest.TestCase):
    def setUp(self):
        # A temporary folder is 0700: as root, QEMU's user cannot even enter it.
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.image = ImageFile(
            path=guest.write_image(self.folder / "image.raw"), format="raw"
        )
        self.settings = QemuSettings(folder=self.folder / "servers")
        self.compute = QemuCompute(self.settings)
        self.addCleanup(self.destroy_all)

    def destroy_all(self):
        for server_id in self.compute.server_ids():
            self.compute.destroy(server_id)

    def use(self, **changes):
        self.settings = replace(self.settings, **changes)
        self.compute = QemuCompute(self.settings)

    def spec(self, **changes):
        facts = {
            "id": uuid4(),
            "hostname": "web-1",
            "memory_mb": 32,
            "vcpus": 1,
            "disk_gb": 0,
            "image": self.image,
        }
        return ServerSpec(**(facts | changes))

    def spawn(self, **changes):
        spec = self.spec(**changes)
        self.compute.spawn(spec)
        self.wait_for_console(spec)
        return spec

    def detach(self, spec):
        wait_until(lambda: self.compute.detach(spec), "a disk that stands alone")

    def wait_until_it_answers(self, spec):
        """A machine that does much else may keep it from that for some seconds."""
        wait_until(
            lambda: self.compute.observe(spec.id).reason == "", "a control that answers"
        )

    def wait_for_console(self, spec, text=guest.GREETING, times=1, seconds=300):
        text = text.decode().strip()
        wait_until(
            lambda: self.compute.console_log(spec.id).count(text) >= times,
            f"{text!r} on the console",
            seconds,
        )


class ServerTestCase(RegionTestCase):
    def server_folder(self, spec):
        return ServerFolder(self.settings.folder, spec.id)

    def pid(self, spec):
        found = process.find(self.server_folder(spec).pid, spec.id)
        return found and found.pid

    def kill(self, spec):
        os.kill(self.pid(spec), signal.SIGKILL)
        wait_until(lambda: self.pid(spec) is None, "the end of the process")


def wait_until(is_so, what, seconds=300):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not seen in {seconds} s"
        time.sleep(0.02)

import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from django.test import SimpleTestCase

from servers.compute import disks
from servers.compute.base import (
    ComputeError,
    ImageFile,
    ImageGone,
    PowerState,
    SnapshotFailed,
)
from tests.servers.compute import guest
from tests.servers.compute.region import (
    ServerTestCase,
    needs_qemu,
)

pytestmark = [pytest.mark.qemu, needs_qemu]


class SnapshotTests(ServerTestCase):
    def assert_whole(self, path):
        content = guest.read_disk(path)
        assert content[:512] == self.image.path.read_bytes()[:512]
        greeting = guest.GREETING
        assert content[512 : 512 + len(greeting)] == greeting
        # What the server itself has written.
        assert content[1024 : 1024 + len(greeting)] == greeting
        assert path.stat().st_mode & 0o777 == 0o444
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)

    def test_of_a_running_server(self):
        spec = self.spawn()
        seen = []

        self.compute.snapshot(
            spec, self.folder / "new.qcow2", lambda *step: seen.append(step)
        )

        self.assert_whole(self.folder / "new.qcow2")
        assert seen[-1] == (guest.SIZE, guest.SIZE)
        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

    def test_of_a_server_that_is_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)

        self.compute.snapshot(spec, self.folder / "new.qcow2")

        self.assert_whole(self.folder / "new.qcow2")
        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN

    def test_it_is_written_once(self):
        spec = self.spawn()
        with mock.patch.object(disks, "copy_to", side_effect=AssertionError):
            self.compute.snapshot(spec, self.folder / "running.qcow2")
            self.compute.power_off(spec.id)
            self.compute.snapshot(spec, self.folder / "off.qcow2")

        self.assert_whole(self.folder / "running.qcow2")
        self.assert_whole(self.folder / "off.qcow2")

    def test_a_snapshot_boots_by_itself(self):
        spec = self.spawn()
        path = self.folder / "new.qcow2"
        self.compute.snapshot(spec, path)
        self.compute.destroy(spec.id)

        self.spawn(image=ImageFile(path=path, format="qcow2"))

    def test_one_left_by_a_dead_worker_is_cleared_away(self):
        spec = self.spawn()
        folder = self.server_folder(spec)
        folder.snapshot.write_bytes(b"half")

        self.compute.observe(spec.id)

        assert not folder.snapshot.exists()

    def test_no_place_for_the_image_leaves_the_server_alone(self):
        spec = self.spawn()

        with pytest.raises(SnapshotFailed, match="No image could be made"):
            self.compute.snapshot(spec, self.folder / "missing" / "new.qcow2")

        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING
        assert not self.server_folder(spec).snapshot.exists()


class DetachTests(ServerTestCase):
    def detach_and_lose_the_image(self, spec):
        self.compute.detach(spec)
        if self.pid(spec):
            self.kill(spec)
        self.image.path.unlink()
        assert self.compute.observe(spec.id).is_detached

    def test_a_running_server_survives_kill_and_loss_of_its_image(self):
        spec = self.spawn()

        self.detach_and_lose_the_image(spec)

        self.compute.power_on(replace(spec, image=None))
        self.wait_for_console(spec, times=2)

    def test_so_does_one_that_is_off_though_the_panel_has_not_heard_of_it(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)

        self.detach_and_lose_the_image(spec)

        self.compute.power_on(spec)
        self.wait_for_console(spec, times=2)

    def test_detaching_twice_is_one_detachment(self):
        spec = self.spawn()

        self.compute.detach(spec)
        self.compute.detach(replace(spec, image=None))

    def test_without_detachment_a_lost_image_keeps_the_server_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        self.image.path.unlink()

        with pytest.raises(ImageGone):
            self.compute.power_on(spec)

        seen = self.compute.observe(spec.id)
        assert seen.power_state is PowerState.SHUTDOWN
        assert "image" in seen.reason


class KilledTests(SimpleTestCase):
    """qemu-img is killed, as by a host that is short of memory."""

    def setUp(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.disk = folder / "disk.qcow2"
        self.calls = folder / "calls"
        program = folder / "qemu-img"
        program.write_text(
            f"#!/bin/sh\necho >>{self.calls}\n"
            f'[ $(wc -l <{self.calls}) -ge "$ENOUGH" ] || kill -9 $$\n'
            f'exec {shutil.which("qemu-img")} "$@"\n'
        )
        program.chmod(0o755)
        self.path = f"{folder}:{os.environ['PATH']}"

    def create(self, enough):
        changes = {"PATH": self.path, "ENOUGH": str(enough)}
        with mock.patch.dict(os.environ, changes):
            disks.create_empty(self.disk, 1 << 20)

    def test_the_disk_is_made_all_the_same(self):
        self.create(enough=2)
        assert disks.read_header(self.disk).virtual_size == 1 << 20

    def test_again_and_again_it_is_given_up_with_a_reason(self):
        with pytest.raises(ComputeError, match="its program was killed"):
            self.create(enough=9)
        assert len(self.calls.read_text()) == 3

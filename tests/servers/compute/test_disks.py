import os
import shutil
import signal
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
    NoCapacity,
    PowerState,
    SnapshotFailed,
)
from servers.compute.qmp import Monitor
from tests.servers.compute import guest
from tests.servers.compute.region import (
    ServerTestCase,
    needs_qemu,
    wait_until,
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

    def test_one_of_a_process_that_falls_silent_is_ended_afterwards(self):
        spec = self.spawn()
        pid = self.pid(spec)
        folder = self.server_folder(spec)
        with pytest.raises(SnapshotFailed):
            self.compute.snapshot(
                spec,
                self.folder / "new.qcow2",
                lambda *_: os.kill(pid, signal.SIGSTOP),
            )
        os.kill(pid, signal.SIGCONT)
        wait_until(
            lambda: not self.compute.observe(spec.id).reason and self.pid(spec) == pid,
            "the control to answer",
        )
        assert not folder.snapshot.exists()
        with Monitor(folder.path) as monitor:
            assert monitor.execute("query-jobs") == []
            nodes = monitor.execute("query-named-block-nodes")
        assert "snapshot" not in {node["node-name"] for node in nodes}

    def test_no_place_for_the_image_leaves_the_server_alone(self):
        spec = self.spawn()

        with pytest.raises(SnapshotFailed, match="No image could be made"):
            self.compute.snapshot(spec, self.folder / "missing" / "new.qcow2")

        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING
        assert not self.server_folder(spec).snapshot.exists()


class DetachTests(ServerTestCase):
    def detach_and_lose_the_image(self, spec):
        self.detach(spec)
        if self.pid(spec):
            self.kill(spec)
        self.image.path.unlink()
        assert self.compute.observe(spec.id).is_detached

    def large_image(self):
        """Of some seconds, at a mebibyte a second."""
        image = self.image.path
        image.chmod(0o644)
        with image.open("ab") as file:
            file.write(os.urandom(16 << 20))
        image.chmod(0o444)
        self.use(detach_mib=1)

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

        self.detach(spec)
        assert self.compute.detach(replace(spec, image=None))

    def test_without_detachment_a_lost_image_keeps_the_server_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        self.image.path.unlink()

        with pytest.raises(ImageGone):
            self.compute.power_on(spec)

        seen = self.compute.observe(spec.id)
        assert seen.power_state is PowerState.SHUTDOWN
        assert "image" in seen.reason

    def test_a_running_server_can_be_saved_from_a_lost_image(self):
        spec = self.spawn()
        self.image.path.unlink()

        self.detach(spec)

        self.kill(spec)
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=2)

    def test_a_slow_detachment_holds_up_nothing(self):
        self.large_image()
        spec = self.spawn()
        assert not self.compute.detach(spec)
        # Each of these finds it in the midst of its work.
        self.compute.reboot(spec.id, hard=True)
        self.wait_for_console(spec, times=2)
        target = self.folder / "new.qcow2"
        self.compute.snapshot(spec, target)
        assert guest.read_disk(target)[1024:].startswith(guest.GREETING)
        assert not self.compute.detach(spec)
        self.compute.power_off(spec.id)
        assert self.pid(spec) is None
        # Off, it is copied while the call lasts, and what was copied stays so.
        before = disks.allocated(self.server_folder(spec).disk)
        assert not self.compute.detach(spec, patience=1)
        assert disks.allocated(self.server_folder(spec).disk) > before
        assert self.pid(spec) is None
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=3)

        self.use(detach_mib=0)
        self.compute.power_off(spec.id)
        self.detach_and_lose_the_image(spec)
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=4)

    def test_a_server_killed_in_the_midst_of_it_loses_nothing(self):
        self.large_image()
        spec = self.spawn()
        assert not self.compute.detach(spec)
        self.kill(spec)

        self.compute.power_on(spec)
        self.wait_for_console(spec, times=2)
        self.use(detach_mib=0)
        self.detach_and_lose_the_image(spec)
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=3)

    def test_without_room_it_waits(self):
        spec = self.spawn()
        room = self.settings.min_free_bytes
        for prepare in (lambda: None, lambda: self.compute.power_off(spec.id)):
            prepare()
            self.use(min_free_bytes=1 << 60)
            with pytest.raises(NoCapacity):
                self.compute.detach(spec)
        self.use(min_free_bytes=room)
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=2)

    def test_one_that_would_fill_the_disk_is_ended(self):
        self.large_image()
        spec = self.spawn()
        assert not self.compute.detach(spec)
        self.use(min_free_bytes=1 << 60)
        with pytest.raises(NoCapacity):
            self.compute.detach(spec)

        with Monitor(self.server_folder(spec).path) as monitor:
            assert monitor.execute("query-jobs") == []


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

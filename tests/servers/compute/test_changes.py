"""Rebuild and resize: another disk, and another size."""

import struct
from dataclasses import replace
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest

from servers.compute import disks, life, rebuilding
from servers.compute.base import (
    ComputeError,
    ImageFile,
    ImageGone,
    NoCapacity,
    PowerOff,
    PowerState,
    ServerBusy,
)
from tests.servers.compute import guest
from tests.servers.compute.region import ServerTestCase, needs_qemu

pytestmark = [pytest.mark.qemu, needs_qemu]
OTHER = b"Hello from another image\r\n"


class RebuildTests(ServerTestCase):
    def setUp(self):
        super().setUp()
        path = guest.write_image(self.folder / "other.raw", greeting=OTHER)
        self.other = ImageFile(path=path, format="raw")

    def rebuild(self, spec, image=None, order=None):
        spec = replace(spec, image=image or self.other)
        self.compute.rebuild(spec, order=order or uuid4())
        return spec

    def test_the_server_starts_from_the_other_image_and_keeps_its_port(self):
        spec, order = self.spawn(), uuid4()
        port = self.compute.observe(spec.id).ssh_port

        spec = self.rebuild(spec, order=order)

        seen = self.compute.observe(spec.id)
        assert (seen.power_state, seen.rebuilt_by) == (PowerState.SHUTDOWN, order)
        assert self.compute.power_on(spec).ssh_port == port
        self.wait_for_console(spec, OTHER)
        # The old system's console went with it.
        assert guest.GREETING.decode().strip() not in self.compute.console_log(spec.id)

    def test_nothing_of_the_old_disk_is_left(self):
        spec = self.spawn(disk_gb=1)
        self.compute.power_off(spec.id)
        folder = self.server_folder(spec)
        assert self.written(spec) == guest.GREETING

        spec = self.rebuild(spec, self.image)

        assert self.written(spec) == bytes(len(guest.GREETING))
        assert disks.read_header(folder.disk).virtual_size == 1 << 30
        assert not folder.rebuilt.exists()

    def written(self, spec):
        """What the guest has written of itself."""
        target = self.folder / f"{uuid4()}.qcow2"
        self.compute.snapshot(spec, target)
        return guest.read_disk(target)[1024 : 1024 + len(guest.GREETING)]

    def test_the_new_server_is_told_a_new_password(self):
        spec = self.spawn()
        seed = self.server_folder(spec).seed.read_bytes()

        self.rebuild(replace(spec, password_hash="$6$salt$" + "y" * 86))

        assert b"y" * 86 in self.server_folder(spec).seed.read_bytes()
        assert b"y" * 86 not in seed

    def test_an_order_that_is_done_is_not_done_again(self):
        spec, order = self.spawn(), uuid4()
        spec = self.rebuild(spec, order=order)
        self.compute.power_on(spec)
        self.wait_for_console(spec, OTHER)
        pid = self.pid(spec)

        self.rebuild(spec, order=order)

        assert self.pid(spec) == pid

    def test_a_missing_image_leaves_the_server_running_on_its_disk(self):
        spec = self.spawn()
        pid = self.pid(spec)
        gone = ImageFile(path=self.folder / "gone.raw", format="raw")

        with pytest.raises(ImageGone):
            self.rebuild(spec, gone)
        with pytest.raises(ComputeError, match="from an image"):
            self.compute.rebuild(replace(spec, image=None), order=uuid4())

        seen = self.compute.observe(spec.id)
        assert (seen.power_state, seen.rebuilt_by) == (PowerState.RUNNING, None)
        assert self.pid(spec) == pid
        assert not list(self.server_folder(spec).path.glob("rebuilt*"))

    def test_a_server_that_does_not_end_keeps_its_disk(self):
        spec = self.spawn()
        with (
            mock.patch.object(life, "end", side_effect=ComputeError("stuck")),
            pytest.raises(ComputeError, match="stuck"),
        ):
            self.rebuild(spec)

        self.kill(spec)
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=2)

    def test_an_exchange_that_was_cut_short_is_ended_by_the_next_deed(self):
        spec = self.spawn()
        with (
            mock.patch.object(rebuilding, "put_right", side_effect=[None, OSError]),
            pytest.raises(ComputeError),
        ):
            self.rebuild(spec)
        folder = self.server_folder(spec)
        assert folder.rebuilt.is_dir()
        assert self.compute.images_needed() == {"image", "other"}
        # Of an exchange that has only to be ended nobody must hear that it is not done.
        with folder.locked(patience=0), pytest.raises(ServerBusy):
            self.compute.observe(spec.id)

        self.compute.power_on(replace(spec, image=self.other))

        self.wait_for_console(spec, OTHER)
        assert not self.server_folder(spec).rebuilt.exists()

    def test_a_server_that_the_region_has_lost_is_made_anew(self):
        spec = self.rebuild(self.spec())

        assert self.compute.power_on(spec).power_state is PowerState.RUNNING
        self.wait_for_console(spec, OTHER)

    def test_a_disk_is_never_put_upon_another_image(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)

        with pytest.raises(ComputeError, match="another image"):
            self.compute.power_on(replace(spec, image=self.other))

        assert self.compute.power_on(spec).power_state is PowerState.RUNNING


class ResizeTests(ServerTestCase):
    def arguments(self, spec):
        path = Path(f"/proc/{self.pid(spec)}/cmdline")
        return path.read_text().split("\0")

    def test_a_running_server_is_shut_off_and_starts_with_the_new_size(self):
        spec = self.spawn()
        larger = replace(spec, memory_mb=48, vcpus=2)

        assert self.compute.resize(larger) is PowerOff.IN_ORDER

        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN
        self.compute.power_on(larger)
        self.wait_for_console(spec, times=2)
        arguments = self.arguments(spec)
        assert arguments[arguments.index("-m") + 1] == "48"
        assert arguments[arguments.index("-smp") + 1] == "2"

    def test_a_server_that_is_off_stays_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)

        larger = replace(spec, memory_mb=48)
        assert self.compute.resize(larger) is PowerOff.ALREADY_OFF
        assert self.compute.resize(larger) is PowerOff.ALREADY_OFF

        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN
        assert self.server_folder(spec).state().memory_mb == 48

    def test_the_disk_grows_and_never_shrinks(self):
        spec = self.spawn(disk_gb=1)
        for disk_gb, found in [(2, 2), (1, 2)]:
            self.compute.resize(replace(spec, disk_gb=disk_gb))
            header = self.server_folder(spec).disk.read_bytes()[:32]
            assert struct.unpack(">Q", header[24:])[0] == found << 30
        self.compute.power_on(spec)
        self.wait_for_console(spec, times=2)

    def test_a_disk_that_stands_alone_grows_as_well(self):
        spec = self.spawn()
        self.detach(spec)

        self.compute.resize(replace(spec, image=None, disk_gb=1))

        size = disks.read_header(self.server_folder(spec).disk).virtual_size
        assert size == 1 << 30

    def test_a_region_without_room_leaves_the_server_running(self):
        spec = self.spawn()
        self.use(max_memory_mb=64)
        pid = self.pid(spec)

        with pytest.raises(NoCapacity, match="64 MB of memory are free"):
            self.compute.resize(replace(spec, memory_mb=65))

        assert self.pid(spec) == pid
        self.compute.resize(replace(spec, memory_mb=64))

    def test_one_that_would_not_come_back_is_not_shut_down(self):
        spec = self.spawn()
        self.server_folder(spec).disk.unlink()
        with pytest.raises(ComputeError, match="disk is missing"):
            self.compute.resize(replace(spec, memory_mb=48))
        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

    def test_a_region_that_is_over_full_lets_a_server_shrink(self):
        spec = self.spawn()
        self.use(max_memory_mb=8)

        self.compute.resize(replace(spec, memory_mb=16))

        assert self.server_folder(spec).state().memory_mb == 16

    def test_the_place_taken_grows_with_the_server(self):
        spec = self.spawn()
        self.use(max_memory_mb=96)
        self.compute.resize(replace(spec, memory_mb=65))

        with pytest.raises(NoCapacity):
            self.compute.spawn(self.spec())

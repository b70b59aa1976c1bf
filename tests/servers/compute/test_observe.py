import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest

from servers.compute import process
from servers.compute.base import (
    ComputeError,
    ImageFile,
    PowerOff,
    PowerState,
    ServerBusy,
)
from servers.compute.folder import ServerFolder, Wanted
from servers.compute.launch import QemuSettings
from servers.compute.qemu import QemuCompute
from servers.compute.qmp import Monitor
from tests.servers.compute import guest
from tests.servers.compute.region import (
    ServerTestCase,
    needs_qemu,
    wait_until,
)

pytestmark = [pytest.mark.qemu, needs_qemu]


class ObserveTests(ServerTestCase):
    def test_a_server_that_switches_itself_off_has_not_crashed(self):
        image = guest.write_image(self.folder / "brief.raw", at_once=True)
        spec = self.spec(image=ImageFile(path=image, format="raw"))
        self.compute.spawn(spec)

        wait_until(
            lambda: self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN,
            "the server off",
        )

        seen = self.compute.observe(spec.id)
        assert seen.reason == "Shut down from inside the server."
        assert self.pid(spec) is None

    def test_what_a_full_disk_left_half_written_is_cleared_away(self):
        spec = self.spawn()
        half = self.server_folder(spec).path / "state.new"
        half.touch()
        rest = self.server_folder(spec).path / "rebuilt.new"
        rest.mkdir()
        (rest / "disk.qcow2").touch()

        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING
        assert not half.exists()
        assert not rest.exists()

    def test_a_killed_process_is_a_crash(self):
        spec = self.spawn()
        self.kill(spec)

        seen = self.compute.observe(spec.id)

        assert seen.power_state is PowerState.CRASHED
        assert "without being asked" in seen.reason

    def test_a_crashed_server_starts_again_on_its_disk(self):
        spec = self.spawn()
        self.kill(spec)

        assert self.compute.power_on(spec).power_state is PowerState.RUNNING

        self.wait_for_console(spec, times=2)

    def test_a_restart_of_the_host_is_no_crash(self):
        spec = self.spawn()
        self.kill(spec)
        folder = self.server_folder(spec)
        folder.save(replace(folder.state(), host="before"))

        seen = self.compute.observe(spec.id)

        assert seen.power_state is PowerState.SHUTDOWN
        assert seen.reason == "Shut off by a restart of the region."

    def test_an_unknown_server_has_no_state(self):
        assert self.compute.observe(uuid4()).power_state is PowerState.NOSTATE

    def test_ended_children_do_not_stay_as_zombies(self):
        spec = self.spawn()
        pid = self.pid(spec)
        self.kill(spec)

        def is_gone():
            # Its last threads may still be ending at the first look.
            self.compute.observe(spec.id)
            return not Path(f"/proc/{pid}").exists()

        wait_until(is_gone, "the end of the zombie")

    def test_a_new_worker_adopts_what_runs(self):
        # An own process spawns the server and ends; it keeps running.
        spec = self.spec()
        script = (
            "import sys; from pathlib import Path; from uuid import UUID\n"
            "from servers.compute.base import ImageFile, ServerSpec\n"
            "from servers.compute.launch import QemuSettings\n"
            "from servers.compute.qemu import QemuCompute\n"
            "folder, image, server_id = sys.argv[1:]\n"
            "image = ImageFile(path=Path(image), format='raw')\n"
            "QemuCompute(QemuSettings(folder=Path(folder))).spawn(ServerSpec(\n"
            "    id=UUID(server_id), hostname='web-1', memory_mb=32, vcpus=1,\n"
            "    disk_gb=0, image=image))\n"
        )
        arguments = [self.settings.folder, self.image.path, str(spec.id)]
        subprocess.run([sys.executable, "-c", script, *arguments], check=True)

        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

        self.wait_for_console(spec)
        assert self.compute.power_off(spec.id) is PowerOff.IN_ORDER

    def test_a_pid_that_another_process_has_now_is_not_the_server(self):
        spec = self.spawn()
        self.kill(spec)
        # Another server's QEMU has the number now; then something quite different.
        other = self.spawn()
        bystander = subprocess.Popen(["/bin/sleep", "60"])
        self.addCleanup(bystander.wait)
        self.addCleanup(bystander.kill)
        for pid in (self.pid(other), bystander.pid):
            with self.subTest(pid=pid):
                self.server_folder(spec).pid.write_text(f"{pid}\n")

                assert self.compute.observe(spec.id).power_state is PowerState.CRASHED
                assert self.compute.power_off(spec.id) is PowerOff.ALREADY_OFF
                folder = self.server_folder(spec)
                folder.save(replace(folder.state(), wanted=Wanted.ON))
        assert bystander.poll() is None
        assert self.compute.observe(other.id).power_state is PowerState.RUNNING

    def test_a_server_whose_note_is_lost_is_adopted_and_not_started_twice(self):
        spec = self.spawn()
        pid = self.pid(spec)
        for verb in (self.compute.observe, lambda _: self.compute.power_on(spec)):
            self.server_folder(spec).pid.unlink()

            assert verb(spec.id).power_state is PowerState.RUNNING
            assert self.pid(spec) == pid
        self.server_folder(spec).pid.unlink()
        self.compute.power_off(spec.id)
        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN
        assert process.running_in(self.settings.folder) == {}

    def test_a_process_whose_folder_is_gone_is_found_and_ended(self):
        spec = self.spawn()
        other = self.spawn()
        shutil.rmtree(self.server_folder(spec).path)

        assert self.compute.server_ids() == {spec.id, other.id}
        self.compute.destroy(spec.id)
        assert self.compute.server_ids() == {other.id}
        assert process.running_in(self.settings.folder).keys() == {other.id}

    def test_processes_of_another_region_are_not_its_own(self):
        spec = self.spawn()
        elsewhere = QemuCompute(QemuSettings(folder=self.folder / "elsewhere"))

        assert elsewhere.server_ids() == set()
        elsewhere.destroy(spec.id)
        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

    def test_a_disk_removed_by_hand_is_told_while_the_server_runs_and_after(self):
        spec = self.spawn()
        disk = self.server_folder(spec).disk
        kept = disk.with_name("kept")
        disk.rename(kept)

        seen = self.compute.observe(spec.id)
        assert seen.power_state is PowerState.RUNNING
        assert "its disk file is missing" in seen.reason
        self.compute.power_off(spec.id)
        seen = self.compute.observe(spec.id)
        assert seen.power_state is PowerState.NOSTATE
        assert seen.reason == "The server's disk is missing, so it cannot be started."
        kept.rename(disk)
        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN

    def test_a_damaged_disk_of_a_server_that_is_off_is_told(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        self.server_folder(spec).disk.write_bytes(b"rubbish")

        seen = self.compute.observe(spec.id)
        assert seen.power_state is PowerState.NOSTATE
        assert seen.reason == "The disk file is damaged."

    def test_a_server_in_somebodys_hands_is_still_seen(self):
        spec = self.spawn()
        with self.server_folder(spec).locked(patience=0):
            seen = self.compute.observe(spec.id)
        assert (seen.power_state, seen.at_a_glance) == (PowerState.RUNNING, True)
        assert not self.compute.observe(spec.id).at_a_glance

    def test_so_is_one_that_is_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        with self.server_folder(spec).locked(patience=0):
            assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN

    def test_it_is_told_which_images_are_needed(self):
        image = self.spawn().image
        (self.folder / "servers" / str(uuid4())).mkdir()
        assert self.compute.images_needed() == {image.path.stem}

    def test_whose_disk_cannot_be_read_is_told(self):
        spec = self.spawn()
        broken = OSError(errno.EIO, "Input/output error")
        with (
            mock.patch("servers.compute.disks.read_header", side_effect=broken),
            pytest.raises(ComputeError, match=f"{spec.id}: its disk cannot be read"),
        ):
            self.compute.images_needed()

    def test_a_folder_that_cannot_be_read_is_told_of_the_host(self):
        broken = OSError(errno.EIO, "Input/output error")
        with mock.patch("servers.compute.qemu.all_folders", side_effect=broken):
            for verb in (self.compute.images_needed, self.compute.server_ids):
                with pytest.raises(ComputeError, match="host has failed"):
                    verb()

    def test_of_one_that_is_being_started_nothing_is_said(self):
        spec = self.spawn()
        self.kill(spec)
        with self.server_folder(spec).locked(patience=0), pytest.raises(ServerBusy):
            self.compute.observe(spec.id)

    def test_a_stuck_process_still_runs(self):
        spec = self.spawn()
        os.kill(self.pid(spec), signal.SIGSTOP)

        seen = self.compute.observe(spec.id)

        assert seen.power_state is PowerState.RUNNING
        assert "does not answer" in seen.reason
        os.kill(self.pid(spec), signal.SIGCONT)
        self.wait_until_it_answers(spec)

    def test_a_state_that_cannot_be_read_is_written_anew(self):
        spec, other = self.spawn(), self.spawn()
        self.compute.power_off(other.id)
        state = self.server_folder(spec).path / "state.json"
        for power in (PowerState.RUNNING, PowerState.SHUTDOWN):
            with self.subTest(power):
                before = self.server_folder(spec).state()
                state.write_text("")
                # It holds up nobody else meanwhile.
                self.compute.power_on(other)
                self.compute.power_off(other.id, patience=0)
                found = self.compute.observe(spec.id)
                assert found.power_state is power
                if power is PowerState.RUNNING:
                    after = self.server_folder(spec).state()
                    assert (after.port, after.memory_mb) == (before.port, 32)
                self.compute.power_off(spec.id, patience=0)
        assert "could not be read" in found.reason
        found = self.compute.power_on(spec)
        assert found.power_state is PowerState.RUNNING
        assert found.ssh_port
        assert self.server_folder(spec).state().memory_mb == spec.memory_mb

    def test_so_is_one_that_is_lost(self):
        spec = self.spawn()
        for power in (PowerState.RUNNING, PowerState.SHUTDOWN):
            (self.server_folder(spec).path / "state.json").unlink()
            assert self.compute.observe(spec.id).power_state is power
            self.compute.power_off(spec.id, patience=0)
        assert self.server_folder(spec).disk.exists()

    def test_one_on_a_bad_sector_or_without_sense_holds_up_nobody_else(self):
        spec = self.spawn()
        state = self.server_folder(spec).path / "state.json"
        about, read_text = json.loads(state.read_text()), Path.read_text
        sector = state.stat().st_ino

        def read(path, *how):
            if path == state and path.stat().st_ino == sector:
                raise OSError(errno.EIO, "Input/output error")
            return read_text(path, *how)

        with mock.patch.object(Path, "read_text", read):
            other = self.spawn()
            assert self.compute.observe(spec.id).ssh_port == about["port"]
        for wrong in ({"memory_mb": None}, {"port": 72022}, {"port": "22"}):
            with self.subTest(wrong):
                state.write_text(json.dumps(about | wrong))
                self.compute.power_on(other)
                self.compute.power_off(other.id, patience=0)
                assert self.compute.observe(spec.id).ssh_port == about["port"]

    def test_a_reboot_that_fails_starts_nothing_later(self):
        spec = self.spawn()
        pid = self.pid(spec)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ComputeError):
                self.compute.reboot(spec.id, hard=True)
        finally:
            os.kill(pid, signal.SIGCONT)
        with Monitor(self.server_folder(spec).path) as monitor:
            monitor.execute("system_powerdown")
            wait_until(lambda: monitor.status() == "shutdown", "the server down")
        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN

    def test_on_a_full_disk_a_server_is_shut_off_all_the_same(self):
        spec = self.spawn()
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch.object(ServerFolder, "write", side_effect=full):
            self.compute.power_off(spec.id, patience=0)
            assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN
        assert self.compute.power_on(spec).power_state is PowerState.RUNNING

    def test_nothing_is_written_of_one_that_ends_this_very_moment(self):
        spec = self.spawn()
        state = self.server_folder(spec).path / "state.json"
        state.write_text("")
        with (
            mock.patch.object(process, "argument", side_effect=ValueError),
            pytest.raises(ServerBusy),
        ):
            self.compute.power_off(spec.id)
        assert state.read_text() == ""

    def test_a_state_of_another_version_is_read_as_far_as_it_is_known(self):
        spec = self.spawn()
        folder = self.server_folder(spec)
        state = folder.path / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"new": 1}))
        assert folder.state().memory_mb == spec.memory_mb

    def test_a_soft_reboot_cut_short_is_brought_to_its_end(self):
        spec = self.spawn()
        folder = self.server_folder(spec)
        folder.save(replace(folder.state(), wanted=Wanted.REBOOT))
        with Monitor(folder.path) as monitor:
            monitor.execute("system_powerdown")
            wait_until(lambda: monitor.status() == "shutdown", "the server down")

        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

        self.wait_for_console(spec, times=2)

    def test_a_pause_that_nobody_ended_is_ended(self):
        spec = self.spawn()
        with Monitor(self.server_folder(spec).path) as monitor:
            monitor.execute("stop")

        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from servers.compute import process
from servers.compute.base import (
    ComputeError,
    ComputeUnavailable,
    ImageFile,
    ImageGone,
    NoCapacity,
    NotRunning,
    PowerOff,
    PowerState,
    ServerBusy,
    ServerNotFound,
    SnapshotFailed,
    StartFailed,
)
from servers.compute.folder import ServerFolder, Wanted
from servers.compute.qemu import QemuCompute
from servers.compute.qmp import Monitor
from tests.servers.compute import guest
from tests.servers.compute.region import RegionTestCase, needs_qemu, wait_until

pytestmark = [pytest.mark.qemu, needs_qemu]


class ServerTestCase(RegionTestCase):
    def server_folder(self, spec):
        return ServerFolder(self.settings.folder, spec.id)

    def pid(self, spec):
        found = process.find(self.server_folder(spec).pid, spec.id)
        return found and found.pid

    def kill(self, spec):
        os.kill(self.pid(spec), signal.SIGKILL)
        wait_until(lambda: self.pid(spec) is None, "the end of the process")


class SpawnTests(ServerTestCase):
    def test_a_server_boots_from_a_raw_image(self):
        spec = self.spec()

        seen = self.compute.spawn(spec)

        assert seen.power_state is PowerState.RUNNING
        assert (seen.ssh_host, seen.reason, seen.is_detached) == (
            "127.0.0.1",
            "",
            False,
        )
        self.wait_for_console(spec)
        assert self.compute.server_ids() == {spec.id}

    def test_a_server_boots_from_a_qcow2_image(self):
        path = guest.to_qcow2(self.image.path, self.folder / "image.qcow2")

        self.spawn(image=ImageFile(path=path, format="qcow2"))

    def test_the_image_stays_as_it_is(self):
        before = self.image.path.read_bytes()

        spec = self.spawn()
        self.compute.power_off(spec.id)

        assert self.image.path.read_bytes() == before

    def test_the_disk_is_as_large_as_the_flavor_says(self):
        spec = self.spawn(disk_gb=3)

        header = self.server_folder(spec).disk.read_bytes()[:32]
        assert struct.unpack(">Q", header[24:])[0] == 3 << 30

    def test_spawning_again_starts_no_second_process(self):
        spec = self.spawn()
        pid = self.pid(spec)

        assert self.compute.spawn(spec).power_state is PowerState.RUNNING

        assert self.pid(spec) == pid

    def test_spawning_again_does_not_start_what_was_switched_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)

        assert self.compute.spawn(spec).power_state is PowerState.SHUTDOWN

    def test_a_missing_image_is_named_as_the_reason(self):
        spec = self.spec(image=ImageFile(path=self.folder / "none", format="qcow2"))

        with pytest.raises(ImageGone, match="image"):
            self.compute.spawn(spec)

        assert self.compute.observe(spec.id).power_state is PowerState.NOSTATE

    def test_a_new_server_needs_an_image(self):
        with pytest.raises(ComputeError, match="needs an image"):
            self.compute.spawn(self.spec(image=None))

    def test_what_qemu_says_is_the_reason_of_a_failed_start(self):
        spec = self.spec(vcpus=1000)

        with pytest.raises(StartFailed, match="could not be started: "):
            self.compute.spawn(spec)

        seen = self.compute.observe(spec.id)
        assert seen.power_state is PowerState.NOSTATE
        assert "could not be started" in seen.reason


class IsolationTests(ServerTestCase):
    def test_as_root_the_process_runs_as_somebody_else(self):
        if os.geteuid() != 0:
            self.skipTest("only root can give up its rights")
        spec = self.spawn()

        status = Path(f"/proc/{self.pid(spec)}/status").read_text()

        assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nSeccomp:\t2\n" in status

    def test_no_secret_reaches_arguments_or_environment(self):
        hashed = self.compute.hash_password("correct horse")
        os.environ["PANEL_TEST_SECRET"] = "from-the-worker"
        self.addCleanup(os.environ.pop, "PANEL_TEST_SECRET")

        spec = self.spawn(password_hash=hashed, public_keys=("ssh-ed25519 AAAA me",))

        shown = Path(f"/proc/{self.pid(spec)}/cmdline").read_bytes()
        shown += Path(f"/proc/{self.pid(spec)}/environ").read_bytes()
        assert b"$6$" not in shown
        assert b"AAAA" not in shown
        assert b"from-the-worker" not in shown
        assert hashed not in repr(spec)
        assert self.server_folder(spec).seed.stat().st_mode & 0o777 == 0o600

    def test_a_numeric_user_needs_no_entry(self):
        if os.geteuid() != 0:
            self.skipTest("only root can give up its rights")
        self.use(user="64055")

        spec = self.spawn()

        assert Path(f"/proc/{self.pid(spec)}").stat().st_uid == 64055


class PowerTests(ServerTestCase):
    def test_a_server_that_listens_powers_off_in_order(self):
        spec = self.spawn()

        assert self.compute.power_off(spec.id) is PowerOff.IN_ORDER

        self.wait_for_console(spec, guest.GOODBYE)
        seen = self.compute.observe(spec.id)
        assert (seen.power_state, seen.reason) == (PowerState.SHUTDOWN, "")
        assert self.compute.power_off(spec.id) is PowerOff.ALREADY_OFF

    def test_a_server_that_does_not_listen_is_forced(self):
        deaf = guest.write_image(self.folder / "deaf.raw", obedient=False)
        spec = self.spawn(image=ImageFile(path=deaf, format="raw"))

        assert self.compute.power_off(spec.id, patience=0.3) is PowerOff.FORCED

    def test_a_stuck_process_is_killed(self):
        spec = self.spawn()
        os.kill(self.pid(spec), signal.SIGSTOP)

        assert self.compute.power_off(spec.id, patience=1) is PowerOff.KILLED

        assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN

    def test_a_server_keeps_disk_and_port_over_a_power_cycle(self):
        spec = self.spawn()
        port = self.compute.observe(spec.id).ssh_port
        self.compute.power_off(spec.id)

        seen = self.compute.power_on(spec)

        assert (seen.power_state, seen.ssh_port) == (PowerState.RUNNING, port)
        self.wait_for_console(spec, times=2)

    def test_a_soft_reboot_lets_the_server_say_goodbye(self):
        spec = self.spawn()
        pid = self.pid(spec)

        seen = self.compute.reboot(spec.id, hard=False)

        assert seen.power_state is PowerState.RUNNING
        self.wait_for_console(spec, guest.GOODBYE)
        self.wait_for_console(spec, times=2)
        assert self.pid(spec) == pid

    def test_a_hard_reboot_does_not_ask(self):
        spec = self.spawn()

        self.compute.reboot(spec.id, hard=True)

        self.wait_for_console(spec, times=2)
        assert "Goodbye" not in self.compute.console_log(spec.id)

    def test_a_server_that_is_off_cannot_be_rebooted(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)

        with pytest.raises(NotRunning):
            self.compute.reboot(spec.id, hard=True)

    def test_powering_on_a_running_server_changes_nothing(self):
        spec = self.spawn()
        pid = self.pid(spec)

        assert self.compute.power_on(spec).power_state is PowerState.RUNNING

        assert self.pid(spec) == pid

    def test_a_server_unknown_here_has_no_power_button(self):
        with pytest.raises(ServerNotFound):
            self.compute.power_off(uuid4())


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

        self.compute.observe(spec.id)

        assert not Path(f"/proc/{pid}").exists()

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

    def test_a_server_in_somebodys_hands_is_still_seen(self):
        spec = self.spawn()
        with self.server_folder(spec).locked(patience=0):
            assert self.compute.observe(spec.id).power_state is PowerState.RUNNING

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


class DestroyTests(ServerTestCase):
    def test_a_destroyed_server_leaves_nothing(self):
        spec = self.spawn()
        pid = self.pid(spec)

        self.compute.destroy(spec.id)
        self.compute.destroy(spec.id)

        assert not Path(f"/proc/{pid}").exists()
        assert list(self.settings.folder.iterdir()) == []
        assert self.image.path.exists()

    def test_a_deletion_that_was_cut_short_is_found_and_ended(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        folder = self.server_folder(spec)
        folder.path.rename(folder.path.with_suffix(".gone"))
        assert self.compute.server_ids() == {spec.id}

        self.compute.destroy(spec.id)

        assert self.compute.server_ids() == set()


class ScreenTests(ServerTestCase):
    def test_the_picture_is_a_png(self):
        spec = self.spawn()
        assert self.compute.screen(spec.id) is None

        assert self.compute.screenshot(spec.id)

        picture, taken_at = self.compute.screen(spec.id)
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert picture[16:24] == struct.pack(">II", 720, 400)
        assert abs(taken_at - time.time()) < 30

    def test_a_server_that_is_off_keeps_its_last_picture(self):
        spec = self.spawn()
        self.compute.screenshot(spec.id)
        before = self.compute.screen(spec.id)
        self.compute.power_off(spec.id)

        assert not self.compute.screenshot(spec.id)

        assert self.compute.screen(spec.id) == before

    def test_a_server_unknown_here_has_no_picture(self):
        assert not self.compute.screenshot(uuid4())
        assert self.compute.screen(uuid4()) is None
        assert self.compute.console_log(uuid4()) == ""


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


class LimitTests(ServerTestCase):
    def test_the_number_of_servers(self):
        self.use(max_servers=1)
        spec = self.spawn()

        with pytest.raises(NoCapacity, match="no capacity left: all of its 1"):
            self.compute.spawn(self.spec())

        self.compute.spawn(spec)
        self.compute.destroy(spec.id)
        self.spawn()

    def test_the_sum_of_memory(self):
        self.use(max_memory_mb=48)
        self.spawn()

        with pytest.raises(NoCapacity, match="16 MB of memory are free"):
            self.compute.spawn(self.spec())

    def test_two_who_come_at_once_do_not_share_the_last_place(self):
        self.use(max_servers=1)
        answers = []

        def spawn():
            try:
                answers.append(self.compute.spawn(self.spec()).power_state)
            except NoCapacity:
                answers.append("full")

        threads = [threading.Thread(target=spawn) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert answers.count(PowerState.RUNNING) == 1
        assert answers.count("full") == 2

    def test_the_range_of_ports(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.use(ssh_ports=(port, port))
        spec = self.spawn()
        assert self.compute.observe(spec.id).ssh_port == port

        with pytest.raises(NoCapacity, match="no free port"):
            self.compute.spawn(self.spec())

    def test_a_second_deed_waits_for_the_first(self):
        spec = self.spawn()
        folder = self.server_folder(spec)
        with folder.locked(patience=0), pytest.raises(ServerBusy):
            folder.locked(patience=0.1).__enter__()


class ReasonTests(RegionTestCase):
    def test_a_region_that_works_gives_none(self):
        assert self.compute.unavailable_reason() is None

    def test_each_thing_that_is_missing_is_named(self):
        for changes, words in [
            ({"accelerator": "xen"}, "unknown accelerator, “xen”"),
            ({"user": "nobody-of-this-name"}, "“nobody-of-this-name”"),
            ({"folder": self.image.path / "servers"}, "cannot run servers"),
        ]:
            if "user" in changes and os.geteuid() != 0:
                continue
            with self.subTest(words):
                compute = QemuCompute(replace(self.settings, **changes))
                assert words in compute.unavailable_reason()
                with pytest.raises(ComputeUnavailable):
                    compute.spawn(self.spec())

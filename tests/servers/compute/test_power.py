import os
import signal
import struct
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from servers.compute.base import (
    ComputeError,
    ImageFile,
    NotRunning,
    PowerOff,
    PowerState,
    ServerBusy,
    ServerNotFound,
)
from servers.compute.qmp import Monitor
from tests.servers.compute import guest
from tests.servers.compute.region import (
    ServerTestCase,
    needs_qemu,
    wait_until,
)

pytestmark = [pytest.mark.qemu, needs_qemu]


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

    def test_a_lost_disk_is_named_as_the_reason(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        self.server_folder(spec).disk.unlink()

        with pytest.raises(ComputeError, match="disk is missing"):
            self.compute.power_on(spec)

    def test_powering_on_goes_on_with_a_paused_server(self):
        spec = self.spawn()
        with Monitor(self.server_folder(spec).path) as monitor:
            monitor.execute("stop")

        assert self.compute.power_on(spec).power_state is PowerState.RUNNING

    def test_powering_on_resets_what_has_just_shut_down(self):
        image = guest.write_image(self.folder / "brief.raw", at_once=True)
        spec = self.spawn(image=ImageFile(path=image, format="raw"))
        with Monitor(self.server_folder(spec).path) as monitor:
            wait_until(lambda: monitor.status() == "shutdown", "the server down")

        self.compute.power_on(spec)

        self.wait_for_console(spec, times=2)

    def test_powering_on_a_running_server_changes_nothing(self):
        spec = self.spawn()
        pid = self.pid(spec)

        assert self.compute.power_on(spec).power_state is PowerState.RUNNING

        assert self.pid(spec) == pid

    def test_a_server_unknown_here_has_no_power_button(self):
        with pytest.raises(ServerNotFound):
            self.compute.power_off(uuid4())


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


class DestroyTests(ServerTestCase):
    def test_a_destroyed_server_leaves_nothing(self):
        spec = self.spawn()
        pid = self.pid(spec)

        self.compute.destroy(spec.id)
        self.compute.destroy(spec.id)

        assert not Path(f"/proc/{pid}").exists()
        assert list(self.settings.folder.iterdir()) == []
        assert self.image.path.exists()

    def test_a_half_made_server_can_be_destroyed(self):
        spec = self.spec()
        draft = self.settings.folder / f"{spec.id}.new"
        draft.mkdir(parents=True)
        assert self.compute.server_ids() == {spec.id}

        self.compute.destroy(spec.id)

        assert not draft.exists()

    def test_whoever_waited_for_a_destroyed_server_finds_none(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        answers = []

        def power_on():
            try:
                answers.append(self.compute.power_on(spec))
            except (ServerNotFound, ServerBusy) as error:
                answers.append(type(error))

        with self.server_folder(spec).locked(patience=0):
            thread = threading.Thread(target=power_on)
            thread.start()
            time.sleep(0.2)
            self.server_folder(spec).delete()
        thread.join()

        assert answers == [ServerNotFound]

    def test_a_deletion_that_was_cut_short_is_found_and_ended(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        folder = self.server_folder(spec)
        folder.path.rename(folder.path.with_suffix(".gone"))
        assert self.compute.server_ids() == {spec.id}

        self.compute.destroy(spec.id)

        assert self.compute.server_ids() == set()

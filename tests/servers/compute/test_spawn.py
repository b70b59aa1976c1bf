import errno
import os
import shutil
import socket
import struct
import threading
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from servers.compute.base import (
    ComputeError,
    ComputeUnavailable,
    ImageFile,
    ImageGone,
    NoCapacity,
    PowerState,
    ServerBusy,
    ServerNotFound,
    StartFailed,
)
from servers.compute.folder import ServerFolder
from servers.compute.qemu import QemuCompute
from tests.servers.compute import guest
from tests.servers.compute.region import (
    RegionTestCase,
    ServerTestCase,
    needs_qemu,
)

pytestmark = [pytest.mark.qemu, needs_qemu]


class SpawnTests(ServerTestCase):
    def test_a_server_boots_from_a_raw_image(self):
        spec = self.spec()

        seen = self.compute.spawn(spec)

        assert seen.power_state is PowerState.RUNNING
        assert (seen.ssh_host, seen.is_detached) == ("127.0.0.1", False)
        self.wait_until_it_answers(spec)
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

    def test_a_process_that_is_killed_before_it_has_started_is_called_so(self):
        self.folder.chmod(0o711)
        program = self.folder / "qemu-system-x86_64"
        program.write_text(
            '#!/bin/sh\n[ "$1" != --version ] && kill -9 $$\n'
            f'exec {shutil.which(program.name)} "$@"\n'
        )
        program.chmod(0o755)
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}"}

        with (
            mock.patch.dict(os.environ, path),
            pytest.raises(StartFailed, match="was killed by signal 9"),
        ):
            self.spawn()


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

    def test_below_the_floor_of_the_disk_nothing_new_is_begun(self):
        spec = self.spawn()
        self.use(min_free_bytes=1 << 60)

        assert self.compute.capacity().free_bytes == 0
        with pytest.raises(NoCapacity, match="too little disk space"):
            self.compute.spawn(self.spec())
        with pytest.raises(NoCapacity, match="too little disk space"):
            self.compute.snapshot(spec, self.folder / "new.qcow2")
        assert self.compute.server_ids() == {spec.id}
        # What runs goes on, and what was there can be started.
        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING
        assert self.compute.spawn(spec).power_state is PowerState.RUNNING

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

    def test_a_deletion_beside_it_is_no_trouble_of_its_own(self):
        gone = self.spawn()
        usual = ServerFolder.state

        def state(folder):
            if folder.id == gone.id:  # since the list of folders was read
                raise ServerNotFound("The region does not know this server.")
            return usual(folder)

        with mock.patch.object(ServerFolder, "state", state):
            self.spawn()

    def test_a_host_that_fails_is_told_before_there_is_a_folder_and_after(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        fault = OSError(errno.EIO, "Input/output error")
        with (
            mock.patch.object(ServerFolder, "create", side_effect=fault),
            pytest.raises(ComputeError, match="host has failed"),
        ):
            self.compute.spawn(self.spec())
        with (
            mock.patch("servers.compute.process.kill_strays", side_effect=fault),
            pytest.raises(ComputeError, match="host has failed"),
        ):
            self.compute.destroy(spec.id)

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

    def say(self, version):
        """Put a QEMU first on the path that only tells this version."""
        fake = self.folder / "qemu-system-x86_64"
        fake.write_text(f"#!/bin/sh\necho '{version}'\n")
        fake.chmod(0o755)
        path = os.environ["PATH"]
        self.addCleanup(os.environ.update, PATH=path)
        os.environ["PATH"] = f"{self.folder}:{path}"

    def test_an_old_qemu_will_not_do(self):
        self.use(user="")
        self.say("QEMU emulator version 6.2.0 (Debian)")

        assert "needs 7.1 or newer" in self.compute.unavailable_reason()

    def test_a_qemu_that_the_servers_user_cannot_run_will_not_do(self):
        if os.geteuid() != 0:
            self.skipTest("only root can give up its rights")
        self.say("QEMU emulator version 9.0.0")

        assert "cannot run servers" in self.compute.unavailable_reason()

    def test_without_qemu_that_is_said(self):
        path = os.environ["PATH"]
        self.addCleanup(os.environ.update, PATH=path)
        os.environ["PATH"] = str(self.folder)

        assert "no program “qemu-system-x86_64”" in self.compute.unavailable_reason()

    def test_each_thing_that_is_missing_is_named(self):
        for changes, words in [
            ({"accelerator": "xen"}, "unknown accelerator, “xen”"),
            ({"user": "nobody-of-this-name"}, "“nobody-of-this-name”"),
            ({"folder": self.image.path / "servers"}, "cannot write"),
        ]:
            if "user" in changes and os.geteuid() != 0:
                continue
            with self.subTest(words):
                compute = QemuCompute(replace(self.settings, **changes))
                assert words in compute.unavailable_reason()
                with pytest.raises(ComputeUnavailable):
                    compute.spawn(self.spec())

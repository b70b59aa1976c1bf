"""The worker may be killed at any line: the same verb, called again, ends the deed."""

import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from servers.compute.base import ImageFile, PowerState, ServerSpec
from servers.compute.launch import QemuSettings
from servers.compute.qemu import QemuCompute
from tests.places import places
from tests.servers.compute import guest
from tests.servers.compute.region import RegionTestCase, needs_qemu

pytestmark = [pytest.mark.qemu, needs_qemu]
# Its processes are forks of one that has imported all of this, so they start at once.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def work_until(line, verb, folder, image, server_id, target, told):
    """In a process of its own: the verb, killed before the n-th line of the backend."""
    compute = QemuCompute(QemuSettings(folder=folder))
    spec = make_spec(image, server_id)
    compute.unavailable_reason()
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if "servers/compute" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    VERBS[verb](compute, spec, target)
    sys.settrace(None)
    told.send(count)


def make_spec(image, server_id):
    return ServerSpec(
        id=server_id,
        hostname="web-1",
        memory_mb=32,
        vcpus=1,
        disk_gb=0,
        image=ImageFile(path=image, format="raw"),
    )


def bigger(spec):
    return replace(spec, memory_mb=48, disk_gb=1)


ORDER = UUID(int=1)
VERBS = {
    "spawn": lambda compute, spec, target: compute.spawn(spec),
    "power_on": lambda compute, spec, target: compute.power_on(spec),
    "power_off": lambda compute, spec, target: compute.power_off(spec.id, patience=5),
    "reboot": lambda compute, spec, target: compute.reboot(spec.id, hard=True),
    "detach": lambda compute, spec, target: detach(compute, spec),
    "snapshot": lambda compute, spec, target: compute.snapshot(spec, target),
    "rebuild": lambda compute, spec, target: compute.rebuild(spec, order=ORDER),
    "resize": lambda compute, spec, target: compute.resize(bigger(spec), patience=5),
    "destroy": lambda compute, spec, target: compute.destroy(spec.id),
}


class KilledWorkerTests(RegionTestCase):
    def work(self, verb, spec, line=0):
        """Run the verb in a worker, and return how many lines that took."""
        heard, told = PROCESSES.Pipe(duplex=False)
        where = (self.settings.folder, self.image.path, spec.id, self.target)
        worker = PROCESSES.Process(
            target=work_until, args=(line, verb, *where, told), daemon=True
        )
        worker.start()
        told.close()
        worker.join(120)
        # Waiting takes now more lines and now fewer, so the last ones may not come.
        assert worker.exitcode == 0 or (line and worker.exitcode == -signal.SIGKILL)
        return heard.recv() if worker.exitcode == 0 else 0

    def check(self, verb, prepare, settle):
        self.target = self.folder / "new.qcow2"
        spec = prepare()
        lines = self.work(verb, spec)
        settle(spec)
        for line in places(lines):
            with self.subTest(verb=verb, line=line):
                spec = prepare()
                self.work(verb, spec, line)
                # What the reconciliation does meanwhile must not harm.
                self.compute.observe(spec.id)
                VERBS[verb](self.compute, spec, self.target)
                settle(spec)

    def running(self):
        return self.spawn()

    def switched_off(self):
        spec = self.spawn()
        self.compute.power_off(spec.id)
        return spec

    def settle_running(self, spec):
        assert self.compute.observe(spec.id).power_state is PowerState.RUNNING
        self.wait_until_it_answers(spec)
        assert len(processes(spec)) == 1
        self.compute.destroy(spec.id)
        self.settle_gone(spec)

    def settle_gone(self, spec):
        assert processes(spec) == []
        assert list(self.settings.folder.iterdir()) == []

    def test_spawn(self):
        self.check("spawn", self.spec, self.settle_running)

    def test_power_on(self):
        self.check("power_on", self.switched_off, self.settle_running)

    def test_power_off(self):
        def settle(spec):
            assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN
            assert processes(spec) == []
            self.compute.destroy(spec.id)

        self.check("power_off", self.running, settle)

    def test_reboot(self):
        self.check("reboot", self.running, self.settle_running)

    def test_detach(self):
        def settle(spec):
            assert self.compute.observe(spec.id).is_detached
            process_id = processes(spec)[0]
            os.kill(process_id, signal.SIGKILL)
            self.compute.power_on(replace(spec, image=None))
            self.wait_for_console(spec, times=2)
            self.settle_running(spec)

        self.check("detach", self.running, settle)

    def test_detach_while_it_is_off(self):
        def settle(spec):
            assert self.compute.observe(spec.id).is_detached
            assert processes(spec) == []
            self.compute.power_on(replace(spec, image=None))
            self.wait_for_console(spec, times=2)
            self.settle_running(spec)

        self.check("detach", self.switched_off, settle)

    def check_snapshot(self, spec, state):
        content = guest.read_disk(self.target)
        assert content[1024:].startswith(guest.GREETING)
        self.target.unlink()
        assert self.compute.observe(spec.id).power_state is state
        assert not list(self.settings.folder.glob("*/snapshot*"))
        assert not list(self.folder.glob("*.part"))
        self.compute.destroy(spec.id)
        self.settle_gone(spec)

    def test_snapshot_of_a_running_server(self):
        self.check(
            "snapshot",
            self.running,
            lambda spec: self.check_snapshot(spec, PowerState.RUNNING),
        )

    def test_snapshot_of_a_server_that_is_off(self):
        self.check(
            "snapshot",
            self.switched_off,
            lambda spec: self.check_snapshot(spec, PowerState.SHUTDOWN),
        )

    def check_rebuilt(self, spec):
        seen = self.compute.observe(spec.id)
        assert (seen.power_state, seen.rebuilt_by) == (PowerState.SHUTDOWN, ORDER)
        assert not list(self.settings.folder.glob("*/rebuilt*"))
        assert processes(spec) == []
        assert self.compute.console_log(spec.id) == ""
        self.compute.power_on(spec)
        self.wait_for_console(spec)
        self.settle_running(spec)

    def test_rebuild_of_a_running_server(self):
        self.check("rebuild", self.running, self.check_rebuilt)

    def test_rebuild_of_a_server_that_is_off(self):
        self.check("rebuild", self.switched_off, self.check_rebuilt)

    def test_resize(self):
        def settle(spec):
            assert self.compute.observe(spec.id).power_state is PowerState.SHUTDOWN
            assert processes(spec) == []
            self.compute.power_on(bigger(spec))
            self.wait_for_console(spec, times=2)
            self.settle_running(spec)

        self.check("resize", self.running, settle)

    def test_destroy(self):
        self.check("destroy", self.running, self.settle_gone)


def detach(compute, spec):
    while not compute.detach(spec):
        pass


def processes(spec):
    """Every process with the server's id in its arguments, however it is recorded."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(spec.id).encode() in arguments:
            found.append(int(path.parent.name))
    return found

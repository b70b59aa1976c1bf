"""The life of a server's process. But for `glance`, callers hold the server's lock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

from servers.compute import console, jobs, process
from servers.compute.base import (
    ComputeError,
    ImageFile,
    Observed,
    PowerOff,
    PowerState,
    ServerBusy,
    ServerSpec,
)
from servers.compute.command import DISK, ssh_port
from servers.compute.disks import GB, read_header
from servers.compute.folder import ServerFolder, State, Unreadable, Wanted
from servers.compute.launch import (
    QemuSettings,
    idle_monitor,
    needed_image,
    start_server,
)
from servers.compute.qmp import Monitor, MonitorError, MonitorGone

_POWER = {
    "running": PowerState.RUNNING,
    "internal-error": PowerState.CRASHED,
    "guest-panicked": PowerState.CRASHED,
}
_REASONS = {
    "io-error": "Paused, because its disk could not be read or written.",
    "internal-error": "The emulated machine has failed.",
    "guest-panicked": "The server's kernel has panicked.",
}
_DISK_GONE = "The server's disk is missing, so it cannot be started."
_DISK_GONE_WHILE_IT_RUNS = (
    "It runs on, but its disk file is missing: all of it is lost once the server is "
    "shut off. Copy what matters, and tell the operator of the region."
)
_FROM_INSIDE = "Shut down from inside the server."
_BY_RESTART = "Shut off by a restart of the region."
_STATE_LOST = "What the region had noted of it could not be read; its disk is there."
_MUTE = "The server runs, but its control does not answer."


def is_running(folder: ServerFolder) -> bool:
    found = process.find(folder.pid, folder.id)
    return found is not None and not found.is_idle


def observed(
    settings: QemuSettings, folder: ServerFolder, power: PowerState, reason: str = ""
) -> Observed:
    detached = False
    with contextlib.suppress(OSError, ComputeError):
        detached = read_header(folder.disk).backing is None
    return Observed(
        power_state=power,
        ssh_host=settings.ssh_bind,
        ssh_port=folder.state().port,
        reason=reason,
        is_detached=detached,
        rebuilt_by=folder.rebuilt_by(),
    )


def look(settings: QemuSettings, folder: ServerFolder) -> Observed:
    """Find out how the server is, and end what the server itself has ended."""
    console.trim(folder.console)
    console.trim(folder.log)
    if folder.state().wanted in {Wanted.ON, Wanted.REBOOT}:
        adopt(folder)
    if not is_running(folder):
        end(folder)
        folder.snapshot.unlink(missing_ok=True)
        return observed(settings, folder, *_look_back(folder))
    try:
        with Monitor(folder.path, patience=3) as monitor:
            status = _mend(folder, monitor)
    except (MonitorError, MonitorGone):
        if is_running(folder):
            return observed(settings, folder, PowerState.RUNNING, _MUTE)
        return observed(settings, folder, *_look_back(folder))
    if status == "shutdown":
        return _look_after_shutdown(settings, folder)
    power = _POWER.get(status, PowerState.PAUSED)
    reason = _REASONS.get(status, "")
    if not reason and not folder.disk.exists():
        reason = _DISK_GONE_WHILE_IT_RUNS
    return observed(settings, folder, power, reason)


def glance(settings: QemuSettings, folder: ServerFolder) -> Observed:
    """What can be seen while somebody else works with the server."""
    if folder.rebuilt.is_dir():
        raise ServerBusy("The server's disk is being exchanged.")
    if is_running(folder):
        found = observed(settings, folder, PowerState.RUNNING)
        return replace(found, at_a_glance=True)
    state = folder.state()
    if state.wanted is Wanted.OFF:
        return observed(settings, folder, PowerState.SHUTDOWN, state.reason)
    # It may be about to start, or have crashed: only the other one can tell.
    raise ServerBusy("Something else is being done with this server.")


def adopt(folder: ServerFolder) -> None:
    """Take up a process that runs on the folder although its note has been lost."""
    if process.find(folder.pid, folder.id) is None:
        for pid in process.running_in(folder.root).get(folder.id, []):
            folder.write(folder.pid, b"%d\n" % pid)


def recover(folder: ServerFolder) -> None:
    """Write the state anew if it cannot be read, as far as it can be seen."""
    try:
        folder.state()
    except Unreadable:
        adopt(folder)
        wanted = Wanted.OFF if folder.disk.exists() else Wanted.NEW
        state = State(memory_mb=0, wanted=wanted, reason=_STATE_LOST)
        found = process.find(folder.pid, folder.id)
        if found and not found.is_idle:
            try:
                memory_mb = int(process.argument(found, "-m"))
                port = ssh_port(process.argument(found, "-netdev"))
            except (OSError, ValueError):
                raise ServerBusy("The server is just coming to its end.") from None
            state = State(memory_mb=memory_mb, port=port, wanted=Wanted.ON)
        folder.save(replace(state, host=process.host_start()))


def turn_on(settings: QemuSettings, folder: ServerFolder, spec: ServerSpec) -> None:
    """Start the server, or let the one that is there go on."""
    adopt(folder)
    if is_running(folder):
        try:
            _go_on(folder)
            return
        except MonitorGone:
            # It may have come to its end this very moment.
            if is_running(folder):
                raise
    end(folder)
    start_server(settings, folder, spec)


def press_power_button(folder: ServerFolder, patience: float) -> bool:
    """True if the guest went down by itself in that time (seconds)."""
    deadline = time.monotonic() + patience
    press_at = time.monotonic()
    try:
        with Monitor(folder.path, patience=min(10, patience)) as monitor:
            while monitor.status() != "shutdown":
                if time.monotonic() >= deadline:
                    return False
                # Again and again, since a guest that is still booting misses it.
                if time.monotonic() >= press_at:
                    monitor.execute("system_powerdown")
                    press_at = time.monotonic() + 10
                time.sleep(0.1)
            return True
    except (MonitorError, MonitorGone):
        return False


def power_off(folder: ServerFolder, patience: float) -> PowerOff:
    adopt(folder)
    folder.save(replace(folder.state(), wanted=Wanted.OFF, reason=""))
    in_order = is_running(folder) and press_power_button(folder, patience)
    how = end(folder)
    return PowerOff.IN_ORDER if in_order else how


def reset(folder: ServerFolder) -> None:
    """Press the reset button, and make sure that the machine runs."""
    with Monitor(folder.path) as monitor:
        monitor.execute("system_reset")
        deadline = time.monotonic() + 10
        while True:
            # QEMU resets a little later, and until then may refuse to go on.
            with contextlib.suppress(MonitorError):
                monitor.execute("cont")
            if monitor.status() == "running":
                break
            if time.monotonic() > deadline:
                raise ComputeError("The server does not start again after a reset.")
            time.sleep(0.05)
    folder.save(replace(folder.state(), wanted=Wanted.ON, reason=""))


def end(folder: ServerFolder) -> PowerOff:
    """End the process, whatever the guest is doing; its disk file is left in order."""
    found = process.find(folder.pid, folder.id)
    if found is None:
        return PowerOff.ALREADY_OFF
    has_greeted = False
    # The connection may well end before the answer to `quit` has come.
    with (
        contextlib.suppress(MonitorError, MonitorGone),
        Monitor(folder.path, patience=5) as monitor,
    ):
        has_greeted = True
        monitor.execute("quit")
    if process.wait(found, 10 if has_greeted else 0.2):
        return PowerOff.FORCED
    if process.kill(found, folder.pid, folder.id):
        return PowerOff.KILLED
    raise ComputeError("The server's process cannot be ended.")


@contextlib.contextmanager
def disk_monitor(
    settings: QemuSettings, folder: ServerFolder, image: ImageFile | None
) -> Iterator[Monitor]:
    """For work on the server's disk, whether the server runs or not."""
    if is_running(folder):
        with Monitor(folder.path) as monitor:
            yield monitor
        return
    end(folder)
    with idle_monitor(settings, folder, image) as monitor:
        yield monitor


def grow_disk(settings: QemuSettings, folder: ServerFolder, spec: ServerSpec) -> None:
    """Make the disk as large as the spec says, unless it is already."""
    image = needed_image(folder, spec)
    size = spec.disk_gb * GB
    if size > read_header(folder.disk).virtual_size:
        with disk_monitor(settings, folder, image) as monitor:
            monitor.execute("block_resize", {"node-name": DISK, "size": size})


def _mend(folder: ServerFolder, monitor: Monitor) -> str:
    """Undo what a worker that died in the midst of something has left."""
    if folder.snapshot.exists():
        jobs.abandon_snapshot(monitor)
        folder.snapshot.unlink()
    status = monitor.status()
    # Nobody can ask for a pause: it is one of our own that was never ended.
    if status in {"paused", "prelaunch"} and folder.state().wanted is not Wanted.OFF:
        monitor.execute("cont")
        return monitor.status()
    return status


def _go_on(folder: ServerFolder) -> None:
    with Monitor(folder.path) as monitor:
        status = monitor.status()
        if status in {"paused", "io-error"}:
            monitor.execute("cont")
    if status not in {"running", "paused", "io-error"}:
        reset(folder)
    elif folder.state().wanted is not Wanted.ON:
        folder.save(replace(folder.state(), wanted=Wanted.ON, reason=""))


def _look_after_shutdown(settings: QemuSettings, folder: ServerFolder) -> Observed:
    state = folder.state()
    if state.wanted is Wanted.REBOOT:
        reset(folder)
        return observed(settings, folder, PowerState.RUNNING)
    if state.wanted is not Wanted.OFF:
        state = replace(state, wanted=Wanted.OFF, reason=_FROM_INSIDE)
        folder.save(state)
    end(folder)
    return observed(settings, folder, PowerState.SHUTDOWN, state.reason)


def _look_back(folder: ServerFolder) -> tuple[PowerState, str]:
    """Without a process: how it came to that, and why."""
    state: State = folder.state()
    if state.wanted is Wanted.NEW:
        return PowerState.NOSTATE, state.reason
    try:
        read_header(folder.disk)
    except FileNotFoundError:
        return PowerState.NOSTATE, _DISK_GONE
    except ComputeError as error:
        return PowerState.NOSTATE, str(error)
    if state.wanted is Wanted.OFF:
        return PowerState.SHUTDOWN, state.reason
    if state.host != process.host_start():
        return PowerState.SHUTDOWN, _BY_RESTART
    said = console.clean(console.read_end(folder.log, 500)).strip().rpartition("\n")[2]
    reason = "The server's process ended without being asked to."
    return PowerState.CRASHED, f"{reason} {said}".strip()

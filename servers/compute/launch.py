"""Bring QEMU up on a server's folder, or find the one that runs already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from servers.compute import console, disks, ports, process, qmp
from servers.compute.base import (
    ComputeError,
    ImageFile,
    ServerSpec,
    StartFailed,
)
from servers.compute.command import OpenFiles, idle_command, server_command
from servers.compute.folder import ServerFolder, Wanted, other_states
from servers.compute.qmp import Monitor, MonitorError, MonitorGone

QEMU = "qemu-system-x86_64"
# Seconds until QEMU must have said that it is up. One that dies is noticed at once,
# so this only matters on a host that can hardly breathe.
_GREETING = 120


@dataclass(frozen=True, kw_only=True)
class QemuSettings:
    """What the operator decides."""

    folder: Path
    accelerator: str = "tcg"
    ssh_bind: str = "127.0.0.1"
    ssh_ports: tuple[int, int] = (0, 0)
    max_servers: int = 20
    max_memory_mb: int = 8192
    # Left free, so that servers that run can go on writing.
    min_free_bytes: int = 256 << 20
    # How fast disks are detached from their images, in MiB a second; 0: no limit.
    detach_mib: int = 100
    # A name or a number. Takes effect when the worker runs as root; empty: as whoever
    # the worker is.
    user: str = "nobody"


def start_server(
    settings: QemuSettings, folder: ServerFolder, spec: ServerSpec
) -> None:
    """Start a server that does not run; the caller holds its lock."""
    before = folder.state()
    others = other_states(settings.folder, folder.id)
    taken = {state.port for state in others}
    # Written first: a server that then ends without being asked to has crashed.
    state = replace(
        before,
        memory_mb=spec.memory_mb,
        wanted=Wanted.ON,
        host=process.host_start(),
        reason="",
    )
    console.trim(folder.log)
    try:
        for port in ports.candidates(
            settings.ssh_bind, settings.ssh_ports, last=before.port, taken=taken
        ):
            folder.save(replace(state, port=port))
            try:
                _launch_server(settings, folder, spec, port)
                return
            except StartFailed as error:
                if "host forwarding" not in str(error):
                    raise
    except ComputeError as error:
        # It never ran, so this is no crash.
        folder.save(replace(before, reason=str(error)))
        raise


@contextlib.contextmanager
def idle_monitor(
    settings: QemuSettings, folder: ServerFolder, image: ImageFile | None
) -> Iterator[Monitor]:
    """A QEMU without a machine on the disk of a server that is off."""

    def command(files: OpenFiles) -> list[str]:
        return idle_command(process.program(QEMU), folder.id, files)

    with ExitStack() as opened:
        _launch(settings, folder, image, command, opened, ())
    try:
        with Monitor(folder.path) as monitor:
            yield monitor
            with contextlib.suppress(MonitorError, MonitorGone):
                # In order, so that all tables are written.
                monitor.execute("quit")
    finally:
        found = process.find(folder.pid, folder.id)
        if found is not None and not process.wait(found, 30):
            process.kill(found, folder.pid, folder.id)
        folder.pid.unlink(missing_ok=True)


def needed_image(folder: ServerFolder, spec: ServerSpec) -> ImageFile | None:
    """The image that the disk rests on. The disk's own header has the last word, as
    a detachment may have ended without the panel having heard of it."""
    try:
        backing = disks.read_header(folder.disk).backing
    except FileNotFoundError:
        raise ComputeError("The server's disk is missing.") from None
    if backing is None:
        return None
    if spec.image is None:
        raise disks.image_gone()
    # On any other image the disk would be garbage.
    if backing != spec.image.path.name:
        raise ComputeError("The server's disk rests on another image. Rebuild it.")
    return spec.image


def _launch_server(
    settings: QemuSettings, folder: ServerFolder, spec: ServerSpec, port: int
) -> None:
    with ExitStack() as opened:
        seed = _open(opened, folder.seed, os.O_RDONLY)
        serial = _open(opened, folder.console, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def command(files: OpenFiles) -> list[str]:
            return server_command(
                process.program(QEMU),
                spec,
                files,
                seed=seed,
                console=serial,
                accelerator=settings.accelerator,
                ssh=f"{settings.ssh_bind}:{port}",
            )

        image = needed_image(folder, spec)
        _launch(settings, folder, image, command, opened, (seed, serial))


def _launch(
    settings: QemuSettings,
    folder: ServerFolder,
    image: ImageFile | None,
    command: Callable[[OpenFiles], list[str]],
    opened: ExitStack,
    others: tuple[int, ...],
) -> None:
    disk = _open(opened, folder.disk, os.O_RDWR)
    blob: int | None = None
    if image is not None:
        try:
            blob = _open(opened, image.path, os.O_RDONLY)
        except FileNotFoundError:
            raise disks.image_gone() from None
    listener = opened.enter_context(qmp.listen(folder.path))
    files = OpenFiles(
        monitor=listener.fileno(),
        disk=disk,
        image=blob,
        image_format=image.format if image else "qcow2",
    )
    before = folder.log.stat().st_size if folder.log.exists() else 0
    child = process.start(
        command(files),
        pid_file=folder.pid,
        log=folder.log,
        fds=[*others, listener.fileno(), disk, *([] if blob is None else [blob])],
        user=settings.user,
        kvm=settings.accelerator == "kvm",
    )
    # Ours must be closed, else nobody would notice that QEMU has ended.
    opened.close()
    try:
        with Monitor(folder.path, patience=_GREETING):
            return
    except MonitorGone as error:
        found = process.find(folder.pid, folder.id)
        if found is not None:
            process.kill(found, folder.pid, folder.id)
        status = child.wait(10)
        folder.pid.unlink(missing_ok=True)
        said = console.clean(folder.log.read_bytes()[before:][-500:]).strip()
        why = said or _how_it_ended(status, is_mute=found is not None)
        raise StartFailed(f"The server could not be started: {why}") from error


def _how_it_ended(status: int, *, is_mute: bool) -> str:
    """Of a QEMU that gave no reason itself."""
    if is_mute:
        return "its control did not answer."
    if status < 0:
        return f"its process was killed by signal {-status}."
    return f"its process ended without a word, with status {status}."


def _open(opened: ExitStack, path: Path, flags: int) -> int:
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    opened.callback(os.close, handle)
    return handle

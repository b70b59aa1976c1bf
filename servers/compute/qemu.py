"""Servers as QEMU processes on this host. See folder.py for where things lie.

No process of the panel owns a server: each verb finds the server's process by its
folder. So a worker that is started anew simply goes on with what it finds.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from servers.compute import console, disks, jobs, life, process, rebuilding, region
from servers.compute.base import (
    Capacity,
    ComputeError,
    ComputeUnavailable,
    NoCapacity,
    NotRunning,
    Observed,
    PowerOff,
    PowerState,
    Progress,
    ServerBusy,
    ServerNotFound,
    ServerSpec,
    SnapshotFailed,
)
from servers.compute.folder import ServerFolder, Wanted, all_folders
from servers.compute.launch import QemuSettings, needed_image
from servers.compute.qmp import Monitor, MonitorError, MonitorGone
from servers.compute.seed import seed_archive

_MAX_SCREEN = 4 << 20
# Seconds for which an answer about the region counts, and for which a deed waits
# for the one before it.
_FRESH = 60.0
_QUEUE = 60.0


class QemuCompute:
    """The local backend."""

    def __init__(self, settings: QemuSettings) -> None:
        self._settings = settings
        self._reason: str | None = None
        self._asked_at = -_FRESH

    def unavailable_reason(self) -> str | None:
        if time.monotonic() - self._asked_at >= _FRESH:
            self._reason = region.find_reason(self._settings)
            self._asked_at = time.monotonic()
        return self._reason

    def capacity(self) -> Capacity:
        return region.capacity(self._settings)

    def server_ids(self) -> set[UUID]:
        root = self._settings.folder
        with _telling_trouble():
            folders = {folder.id for folder in all_folders(root)}
            return folders | process.running_in(root).keys()

    def images_needed(self) -> set[str]:
        with _telling_trouble():
            folders = all_folders(self._settings.folder)
        return {
            Path(backing).stem
            for folder in folders
            for place in (folder.path, folder.rebuilt)
            if (backing := _backing_of(folder.id, place / folder.disk.name))
        }

    def spawn(self, spec: ServerSpec) -> Observed:
        self._check_available()
        # Before any place is taken, for a seed may be refused.
        seed = seed_archive(spec)
        folder = self._folder(spec.id)
        with _telling_trouble():
            region.reserve(self._settings, folder, spec)
        with _deed(folder):
            if not folder.seed.exists():
                folder.write(folder.seed, seed)
            if not folder.disk.exists():
                if spec.image is None:
                    raise ComputeError("A new server needs an image.")
                disks.create_overlay(folder.disk, spec.image, spec.disk_gb)
            if folder.state().wanted is not Wanted.OFF:
                life.turn_on(self._settings, folder, spec)
            return life.look(self._settings, folder)

    def observe(self, server_id: UUID) -> Observed:
        folder = self._folder(server_id)
        try:
            try:
                with _deed(folder, patience=0):
                    return life.look(self._settings, folder)
            except ServerBusy:
                return life.glance(self._settings, folder)
        except ServerNotFound:
            return Observed(power_state=PowerState.NOSTATE)

    def power_on(self, spec: ServerSpec) -> Observed:
        self._check_available()
        folder = self._folder(spec.id)
        with _deed(folder):
            if not folder.seed.exists():
                folder.write(folder.seed, seed_archive(spec))
            life.turn_on(self._settings, folder, spec)
            return life.look(self._settings, folder)

    def power_off(self, server_id: UUID, *, patience: float = 30) -> PowerOff:
        folder = self._folder(server_id)
        with _deed(folder):
            return life.power_off(folder, patience)

    def reboot(self, server_id: UUID, *, hard: bool, patience: float = 30) -> Observed:
        folder = self._folder(server_id)
        with _deed(folder):
            if not life.is_running(folder):
                raise NotRunning("The server is not running. Start it instead.")
            # Should this be cut short, the next look starts what has gone down.
            folder.save(replace(folder.state(), wanted=Wanted.REBOOT, reason=""))
            try:
                if not hard:
                    life.press_power_button(folder, patience)
                life.reset(folder)
            except Exception:
                # Else it would be started again whenever its user shuts it down.
                folder.save(replace(folder.state(), wanted=Wanted.ON))
                raise
            return life.look(self._settings, folder)

    def rebuild(self, spec: ServerSpec, *, order: UUID) -> None:
        self._check_available()
        seed = seed_archive(spec)
        folder = self._folder(spec.id)
        # One that could not be built has lost its place.
        with _telling_trouble():
            region.reserve(self._settings, folder, spec)
        with _deed(folder):
            rebuilding.rebuild(folder, spec, seed, order)

    def resize(self, spec: ServerSpec, *, patience: float = 30) -> PowerOff:
        folder = self._folder(spec.id)
        with _deed(folder):
            region.check_memory(self._settings, folder, spec)
            # What runs without its files would not come back.
            needed_image(folder, spec)
            how = life.power_off(folder, patience)
            life.grow_disk(self._settings, folder, spec)
            region.reserve_memory(self._settings, folder, spec)
            return how

    def destroy(self, server_id: UUID) -> None:
        folder = self._folder(server_id)
        with contextlib.suppress(ServerNotFound), _deed(folder):
            life.end(folder)
            folder.delete()
        # What an earlier call that was cut short has left.
        with _telling_trouble():
            process.kill_strays(folder.root, folder.id)
            folder.delete()

    def detach(self, spec: ServerSpec, *, patience: float = 10) -> bool:
        folder = self._folder(spec.id)
        with _deed(folder):
            image = needed_image(folder, spec)
            if image is None:
                return True
            runs = life.is_running(folder)
            try:
                region.check_space(self._settings, disks.missing(folder.disk, image))
            except NoCapacity:
                # It would fill the disk by itself.
                if runs:
                    with life.disk_monitor(self._settings, folder, image) as monitor:
                        jobs.abandon_detachment(monitor)
                raise
            with life.disk_monitor(self._settings, folder, image) as monitor:
                speed = self._settings.detach_mib << 20
                is_done = jobs.detach(
                    monitor, speed=speed, patience=0 if runs else patience
                )
                if not (is_done or runs):
                    jobs.abandon_detachment(monitor)
                return is_done

    def snapshot(
        self, spec: ServerSpec, target: Path, progress: Progress | None = None
    ) -> None:
        folder = self._folder(spec.id)
        draft = folder.snapshot
        with _deed(folder):
            image = needed_image(folder, spec)
            needed = disks.allocated(folder.disk)
            needed += disks.allocated(image.path) if image else 0
            region.check_space(self._settings, needed)
            try:
                size = disks.read_header(folder.disk).virtual_size
                disks.create_empty(draft, size)
                with (
                    draft.open("r+b") as file,
                    life.disk_monitor(self._settings, folder, image) as monitor,
                ):
                    jobs.snapshot(monitor, file.fileno(), progress)
                disks.hand_over(draft, target)
                draft.unlink(missing_ok=True)
            except MonitorGone as error:
                # By the draft the next look sees that there is a job to be ended.
                raise _no_image(error) from error
            except (MonitorError, OSError) as error:
                draft.unlink(missing_ok=True)
                raise _no_image(error) from error

    def console_log(self, server_id: UUID, *, max_bytes: int = 65536) -> str:
        log = self._folder(server_id).console
        return console.clean(console.read_end(log, max_bytes))

    def screenshot(self, server_id: UUID) -> bool:
        folder = self._folder(server_id)
        try:
            with folder.locked(patience=2):
                if not life.is_running(folder):
                    return False
                draft = folder.screen.with_suffix(".new")
                with draft.open("wb") as picture, Monitor(folder.path) as monitor:
                    files = monitor.execute("add-fd", fd=picture.fileno())["fdset-id"]
                    name = f"/dev/fdset/{files}"
                    monitor.execute("screendump", {"filename": name, "format": "png"})
                draft.rename(folder.screen)
                return True
        except (ServerNotFound, ServerBusy, MonitorError, MonitorGone):
            return False

    def screen(self, server_id: UUID) -> tuple[bytes, float] | None:
        try:
            with self._folder(server_id).screen.open("rb") as picture:
                taken_at = os.fstat(picture.fileno()).st_mtime
                data = picture.read(_MAX_SCREEN)
        except OSError:
            return None
        return (data, taken_at) if data.startswith(b"\x89PNG") else None

    def hash_password(self, plain: str) -> str:
        if "\n" in plain:
            raise ValueError("A password has one line.")
        # By standard input, since every user of the host can read arguments.
        done = subprocess.run(
            [process.program("openssl"), "passwd", "-6", "-stdin"],
            input=plain + "\n",
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout.strip()

    def _check_available(self) -> None:
        reason = self.unavailable_reason()
        if reason is not None:
            raise ComputeUnavailable(reason)

    def _folder(self, server_id: UUID) -> ServerFolder:
        return ServerFolder(self._settings.folder, server_id)


def _no_image(error: Exception) -> SnapshotFailed:
    return SnapshotFailed(f"No image could be made from the server: {error}.")


@contextlib.contextmanager
def _deed(folder: ServerFolder, *, patience: float = _QUEUE) -> Iterator[None]:
    """One change of a server, alone with it; what goes wrong is a ComputeError."""
    with _telling_trouble(), folder.locked(patience=patience):
        folder.clear_drafts()
        life.recover(folder)
        rebuilding.put_right(folder)
        yield


def _backing_of(server_id: UUID, disk: Path) -> str | None:
    """The image that a disk rests on. Whoever has to mend the disk is told which."""
    try:
        return disks.read_header(disk).backing
    except (FileNotFoundError, NotADirectoryError, ComputeError):
        return None  # one that is damaged starts from nothing
    except OSError as error:
        why = error.strerror or error
        raise ComputeError(f"{server_id}: its disk cannot be read ({why}).") from error


@contextlib.contextmanager
def _telling_trouble() -> Iterator[None]:
    try:
        yield
    except (MonitorError, MonitorGone) as error:
        raise ComputeError(f"The server's control said: {error}.") from error
    except subprocess.SubprocessError as error:
        raise ComputeError("A program of the region did not end in time.") from error
    except OSError as error:
        raise ComputeError(f"The region's host has failed: {error}.") from error

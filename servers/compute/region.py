"""What the region can do at all, and how much of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from servers.compute import process
from servers.compute.base import Capacity, ComputeError, NoCapacity, ServerSpec
from servers.compute.folder import ServerFolder, State, other_states, region_locked
from servers.compute.launch import QEMU, QemuSettings

# The first whose `screendump` writes PNG.
_OLDEST_QEMU = (7, 1)


def find_reason(settings: QemuSettings) -> str | None:
    """Why no server can run here, as a sentence, or None."""
    if settings.accelerator not in ("tcg", "kvm"):
        return f"The region has an unknown accelerator, “{settings.accelerator}”."
    kvm = settings.accelerator == "kvm"
    if kvm and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "The region is set to use KVM, but its host does not offer it."
    try:
        # As the servers' user, who may be unable to run anything.
        said = subprocess.run(
            [process.program(QEMU), "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            timeout=20,
            **process.rights(settings.user, kvm=kvm),
        ).stdout
        for name in ("qemu-img", "openssl"):
            process.program(name)
    except ComputeError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return "The region cannot run servers: its QEMU does not answer."
    except (OSError, subprocess.SubprocessError) as error:
        return f"The region cannot run servers: {error}."
    found = re.search(r"version (\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_QEMU:
        return "The region's QEMU is too old: it needs 7.1 or newer."
    if not _can_write(settings.folder):
        return "The region cannot write to its folder for servers."
    return None


def reserve(settings: QemuSettings, folder: ServerFolder, spec: ServerSpec) -> None:
    """Take the server's place in the region, which it keeps until it is destroyed;
    so one that was switched off always finds room when it is started again."""
    with region_locked(settings.folder):
        if folder.exists():
            return
        others = list(other_states(settings.folder, folder.id))
        if len(others) >= settings.max_servers:
            raise NoCapacity(
                f"The region has no capacity left: all of its {settings.max_servers}"
                " servers are taken. Delete one, or choose another region."
            )
        _check_memory(settings, folder, spec)
        check_space(settings)
        folder.create(State(memory_mb=spec.memory_mb))


def reserve_memory(
    settings: QemuSettings, folder: ServerFolder, spec: ServerSpec
) -> None:
    """Give the server's place in the region another size."""
    with region_locked(settings.folder):
        check_memory(settings, folder, spec)
        folder.save(replace(folder.state(), memory_mb=spec.memory_mb))


def check_memory(
    settings: QemuSettings, folder: ServerFolder, spec: ServerSpec
) -> None:
    """Raise NoCapacity if the server needs more than it has, and there is no more."""
    if spec.memory_mb > folder.state().memory_mb:
        _check_memory(settings, folder, spec)


def capacity(settings: QemuSettings) -> Capacity:
    free = shutil.disk_usage(_existing(settings.folder)).free
    return Capacity(
        servers=settings.max_servers,
        memory_mb=settings.max_memory_mb,
        free_bytes=max(0, free - settings.min_free_bytes),
    )


def check_space(settings: QemuSettings, needed: int = 0) -> None:
    """Ask first, since a full disk would pause the servers that run."""
    free = capacity(settings).free_bytes
    if needed > free or not free:
        raise NoCapacity("The region has too little disk space left for this.")


def _check_memory(
    settings: QemuSettings, folder: ServerFolder, spec: ServerSpec
) -> None:
    others = other_states(settings.folder, folder.id)
    used = sum(state.memory_mb for state in others)
    free = settings.max_memory_mb - used
    if spec.memory_mb > free:
        raise NoCapacity(
            f"The region has no capacity left: {max(free, 0)} MB of memory are"
            f" free, the server needs {spec.memory_mb} MB."
        )


def _can_write(folder: Path) -> bool:
    # Asked by web pages too, so nothing is made here.
    place = _existing(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())

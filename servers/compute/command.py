"""QEMU's command line. It is public on the host, so it names no file and no secret:
everything is handed over open, as a numbered set of file descriptors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from servers.compute.base import ServerSpec

DISK = "disk0"

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_DISK_SET, _IMAGE_SET, _SEED_SET, _CONSOLE_SET = 1, 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class OpenFiles:
    """File descriptors that QEMU inherits."""

    monitor: int
    disk: int
    # None when the disk stands alone.
    image: int | None
    image_format: str = "qcow2"


def server_command(
    qemu: str,
    spec: ServerSpec,
    files: OpenFiles,
    *,
    seed: int,
    console: int,
    accelerator: str,
    ssh: str,
) -> list[str]:
    """A running server; `ssh` is the host's "address:port" for the guest's port 22."""
    kvm = accelerator == "kvm"
    seed_disk = {
        "driver": "raw",
        "node-name": "seed0",
        "read-only": True,
        "file": {"driver": "file", "filename": f"/dev/fdset/{_SEED_SET}"},
    }
    return [
        *_begin(qemu, spec.id, "pc", files),
        # Unbounded, the translated code grows beyond the memory of the guest.
        *("-accel", "kvm" if kvm else "tcg,tb-size=64"),
        *("-cpu", "host" if kvm else "Nehalem"),
        *("-m", str(spec.memory_mb), "-smp", str(spec.vcpus), "-vga", "std"),
        # A server that switches itself off waits for the panel, which so can tell
        # that from a crash.
        *("-action", "shutdown=pause"),
        *("-device", f"virtio-blk-pci,drive={DISK},bootindex=1"),
        *("-add-fd", f"fd={seed},set={_SEED_SET}"),
        *("-blockdev", json.dumps(seed_disk)),
        *("-device", "virtio-blk-pci,drive=seed0"),
        *("-add-fd", f"fd={console},set={_CONSOLE_SET}"),
        "-chardev",
        f"file,id=serial0,path=/dev/fdset/{_CONSOLE_SET},append=on",
        *("-serial", "chardev:serial0"),
        # Without `restrict` the guest reaches what listens on the host's 127.0.0.1.
        *("-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:{ssh}-:22"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
    ]


def ssh_port(netdev: str) -> int:
    """The host's port, as the argument -netdev of a running server has it."""
    return int(netdev.removesuffix("-:22").rpartition(":")[2])


def idle_command(qemu: str, server_id: UUID, files: OpenFiles) -> list[str]:
    """No machine, only the disk: for work on a server that is off. The disk was in
    the hands of the guest, so this happens behind the same walls."""
    return _begin(qemu, server_id, "none", files)


def _begin(qemu: str, server_id: UUID, machine: str, files: OpenFiles) -> list[str]:
    image: list[str] = []
    if files.image is not None:
        image = ["-add-fd", f"fd={files.image},set={_IMAGE_SET}"]
    return [
        *(qemu, "-machine", machine, "-uuid", str(server_id)),
        *("-sandbox", _SANDBOX, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-chardev", f"socket,id=qmp0,fd={files.monitor},server=on,wait=off"),
        *("-mon", "chardev=qmp0,mode=control"),
        *("-add-fd", f"fd={files.disk},set={_DISK_SET}", *image),
        *("-blockdev", json.dumps(_disk(files))),
    ]


def _disk(files: OpenFiles) -> dict[str, Any]:
    # Both layers are spelled out: the path in the overlay's header, which the guest
    # may have a hand in, is not used, and the image store may move.
    backing = None
    if files.image is not None:
        backing = {
            "driver": files.image_format,
            "node-name": "image0",
            "read-only": True,
            "file": {"driver": "file", "filename": f"/dev/fdset/{_IMAGE_SET}"},
        }
    return {
        "driver": "qcow2",
        "node-name": DISK,
        "discard": "unmap",
        "backing": backing,
        "file": {
            "driver": "file",
            "filename": f"/dev/fdset/{_DISK_SET}",
            "discard": "unmap",
        },
    }

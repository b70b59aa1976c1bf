"""Disk files: what their headers say, and new overlays."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from servers.compute.base import ComputeError, ImageFile, ImageGone, NoCapacity
from servers.compute.process import program

_QCOW2 = struct.Struct(">4sIQIIQ")
GB = 1 << 30
# Bytes that the path of an image has in a header, at most.
_LONGEST = 1023
_TRIES = 3
# Seconds that `qemu-img` has, which only writes headers here; and those of a copy: some
# in any case, and one more for so many bytes.
_SECONDS = 60
_LEAST_SECONDS = 300
_SLOWEST = 2 << 20
# Left free, so that servers that run can go on writing.
_RESERVE = 256 << 20


@dataclass(frozen=True)
class Header:
    virtual_size: int
    # The file name of the image that the disk rests on, or None if it stands alone.
    backing: str | None


def read_header(path: Path) -> Header:
    """Of a qcow2 file, also while QEMU writes to it."""
    with path.open("rb") as stream:
        data = stream.read(_QCOW2.size)
        if len(data) == _QCOW2.size:
            magic, _, name_at, name_size, _, size = _QCOW2.unpack(data)
            # The name stands in the first cluster, of 2 MiB at most.
            if magic == b"QFI\xfb" and name_at < 2 << 20:
                stream.seek(name_at)
                path = Path(os.fsdecode(stream.read(min(name_size, _LONGEST))))
                return Header(size, path.name if name_at else None)
    raise ComputeError("The disk file is damaged.")


def image_size(image: ImageFile) -> int:
    """The virtual size in bytes, which is what the server will see of its disk."""
    try:
        if image.format == "raw":
            return image.path.stat().st_size
        header = read_header(image.path)
    except FileNotFoundError:
        raise image_gone() from None
    if header.backing is not None:
        raise ComputeError("The image rests on another file and cannot be used.")
    return header.virtual_size


def create_overlay(disk: Path, image: ImageFile, disk_gb: int) -> None:
    """A disk that stores only what the server writes; it appears whole or never."""
    size = max(image_size(image), disk_gb * GB)
    draft = disk.with_suffix(".new")
    draft.unlink(missing_ok=True)
    # Unsafe (-u) means that the image is not opened, which is not needed here.
    backing = ("-u", "-b", str(image.path), "-F", image.format)
    _qemu_img("create", "-q", "-f", "qcow2", *backing, str(draft), _whole_sectors(size))
    draft.chmod(0o600)
    draft.rename(disk)


def create_empty(path: Path, size: int) -> None:
    """A file for a snapshot of that virtual size."""
    path.unlink(missing_ok=True)
    options = ("-o", "compression_type=zstd")
    _qemu_img("create", "-q", "-f", "qcow2", *options, str(path), _whole_sectors(size))
    path.chmod(0o600)


def hand_over(draft: Path, target: Path) -> None:
    """Move what QEMU wrote to a name outside the server. It appears there whole or not
    at all, and no process of the server can write to it any more.
    """
    draft.chmod(0o444)
    if _is_at_rest(draft):
        _sync(draft)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            _sync(target.parent)
            return
    copy_to(draft, target)


def copy_to(source: Path, target: Path) -> None:
    """A copy that no process of the server has open. It appears whole or not at all."""
    check_space(target.parent, allocated(source))
    draft = target.with_name(target.name + ".part")
    draft.unlink(missing_ok=True)
    try:
        with source.open("rb") as reader, draft.open("xb") as writer:
            _copy(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        draft.chmod(0o444)
        draft.rename(target)
        _sync(target.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _copy(reader: BinaryIO, writer: BinaryIO) -> None:
    seconds = _LEAST_SECONDS + os.fstat(reader.fileno()).st_size // _SLOWEST
    deadline = time.monotonic() + seconds
    while chunk := reader.read(1 << 20):
        writer.write(chunk)
        if time.monotonic() > deadline:
            minutes = seconds // 60
            raise ComputeError(f"The copy of the disk took longer than {minutes} min.")


def allocated(path: Path) -> int:
    """How many bytes of the host's disk a file takes."""
    return path.stat().st_blocks * 512


def missing(disk: Path, image: ImageFile) -> int:
    """About how many bytes a disk still takes until it needs the image no more."""
    try:
        return max(0, allocated(image.path) - allocated(disk))
    except FileNotFoundError:  # a server that runs has it open all the same
        return 0


def check_space(folder: Path, needed: int) -> None:
    """Ask first, since a full disk would pause the servers that run."""
    free = shutil.disk_usage(folder).free - _RESERVE
    if needed > free:
        raise NoCapacity("The region has too little disk space left for this.")


def image_gone() -> ImageGone:
    return ImageGone(
        "The file of the image that this server was made from is missing, so its disk"
        " cannot be read. The operator of the region can restore it."
    )


def _is_at_rest(path: Path) -> bool:
    """Whether no process has the file open for writing: only then the kernel grants a
    lease for reading. False also where the file system knows no leases.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _sync(path: Path) -> None:
    """Have the file's bytes, or a folder's names, on the disk itself."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _qemu_img(*arguments: str) -> None:
    # Killed with the worker: else it would go on writing beside the next one's.
    guarded = [program("setpriv"), "--pdeathsig", "KILL", program("qemu-img")]
    for _ in range(_TRIES):
        try:
            done = subprocess.run(
                [*guarded, *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ComputeError(
                f"The disk could not be made: it took longer than {_SECONDS} seconds."
            ) from None
        if done.returncode == 0:
            return
        # Killed from outside, as by a host short of memory, it may do better again.
        if done.returncode > 0:
            break
    said = done.stderr[-300:].strip() or "its program was killed"
    raise ComputeError(f"The disk could not be made: {said}.")


def _whole_sectors(size: int) -> str:
    return str(-(-size // 512) * 512)

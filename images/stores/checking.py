"""Decide whether a file is an image that may be kept: the header, then every byte."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from controlpanel.figures import size_text
from images.stores import header
from images.stores.base import (
    Inspection,
    Progress,
    Refused,
    StoreError,
    StoreFull,
    TooLarge,
    Unavailable,
)
from images.stores.children import Ended, Limits, run_limited

PROGRAMS = {
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
}
# What qemu calls the formats that the header knows.
DRIVERS = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vhd": "vpc",
    "vhdx": "vhdx",
    "vdi": "vdi",
}
KEPT = {"raw", "qcow2"}
NO_BOOT_SECTOR = (
    "The disk in the image has no boot sector, so no server could start from it."
)
DAMAGED = "The image is damaged or incomplete: please upload it again."
# What qemu-img check exits with besides 0 for a usable image.
LEAKS_ONLY = 3
NO_SUCH_CHECK = 63


def missing_program() -> str:
    """Which program is needed and not there, as a sentence; empty if all are."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return (
                f"Images cannot be checked here, because {program} is not installed "
                f"(package {package})."
            )
    return ""


@dataclass(frozen=True, slots=True)
class Checker:
    """The checks, for disks of at most so many bytes."""

    max_virtual_bytes: int

    def look(self, path: Path, *, any_data: bool = False) -> Inspection:
        """Whatever can be told within a second; raises Refused."""
        if reason := missing_program():
            raise Unavailable(reason)
        said, unbootable = self._read_header(path), ""
        if "refused" in said:
            refusal = str(said["refused"])
            if said["is_disk"] or not any_data:
                raise Refused(refusal)
            return Inspection("raw", path.stat().st_size, False, refusal)
        found, claimed = str(said["format"]), int(said["virtual_size"])
        self._refuse_size(claimed)
        size = claimed
        if found != "raw":
            size = self._ask_size(path, found)
            self._refuse_size(size)
            if not self._has_boot_sector(path, found):
                unbootable = NO_BOOT_SECTOR
        if unbootable and not any_data:
            raise Refused(unbootable)
        return Inspection(found, size, found not in KEPT, unbootable)

    def read_all(
        self, path: Path, found: Inspection, *, progress: Progress | None = None
    ) -> None:
        """Read a qcow2 from end to end, so that no later boot meets damage first."""
        limits = self._limits_for(found.virtual_size)
        self._refuse_inconsistent(path, found, limits)
        # The blocks go nowhere: this costs time, but no space.
        read = run_limited(
            [
                *_qemu_img("convert", "-p", "-n", "--target-is-zero", "-f", "qcow2"),
                *("--target-image-opts", str(path)),
                f"driver=null-co,size={found.virtual_size}",
            ],
            limits,
            progress=progress,
        )
        if read.failed:
            raise fault_of(read)

    def convert(
        self,
        path: Path,
        found: Inspection,
        to: Path,
        *,
        room: int,
        progress: Progress | None = None,
    ) -> None:
        """Write the image anew as compressed qcow2, in at most `room` bytes."""
        limits = self._limits_for(found.virtual_size)
        self._refuse_inconsistent(path, found, limits)
        wanted = found.virtual_size + found.virtual_size // 8 + (64 << 20)
        done = run_limited(
            [
                *_qemu_img("convert", "-p", "-f", DRIVERS[found.format]),
                *("-O", "qcow2", "-c", "-o", "compression_type=zstd"),
                *(str(path), str(to)),
            ],
            Limits(
                cpu_seconds=limits.cpu_seconds,
                seconds=limits.seconds,
                file_bytes=min(wanted, max(room, 0)),
            ),
            progress=progress,
        )
        if done.failed:
            raise fault_of(done)

    def _read_header(self, path: Path) -> dict[str, str | int]:
        # -I keeps the child from importing anything that lies about in a folder.
        ended = run_limited(
            [sys.executable, "-I", "-B", str(header.__file__), str(path)],
            Limits(memory=1 << 30),
        )
        if ended.timed_out or ended.was_killed:
            raise fault_of(ended)
        try:
            said: dict[str, str | int] = json.loads(ended.out)
        except ValueError:
            # The parser fell over the file, or had to be stopped.
            raise Refused(header.NOT_A_DISK, ended.err) from None
        return said

    def _ask_size(self, path: Path, found: str) -> int:
        asked = run_limited(
            _qemu_img("info", "-f", DRIVERS[found], "--output=json", path), Limits()
        )
        if asked.failed:
            raise fault_of(asked)
        return int(json.loads(asked.out)["virtual-size"])

    def _has_boot_sector(self, path: Path, found: str) -> bool:
        read = run_limited(
            [
                *("qemu-io", "-r", "-f", DRIVERS[found]),
                *("-c", "read -q -P 0x55 -s 510 -l 1 0 512"),
                *("-c", "read -q -P 0xaa -s 511 -l 1 0 512"),
                str(path),
            ],
            Limits(),
        )
        if "verification failed" in read.out + read.err:
            return False
        if read.failed:
            raise fault_of(read)
        return True

    def _refuse_inconsistent(
        self, path: Path, found: Inspection, limits: Limits
    ) -> None:
        checked = run_limited(
            _qemu_img("check", "-f", DRIVERS[found.format], path), limits
        )
        if checked.code not in {0, LEAKS_ONLY, NO_SUCH_CHECK}:
            raise fault_of(checked)

    def _refuse_size(self, virtual_size: int) -> None:
        if virtual_size <= 0:
            raise Refused("The image does not say how large its disk is.")
        if virtual_size > self.max_virtual_bytes:
            raise TooLarge(
                f"The disk in the image has {size_text(virtual_size)}; at most "
                f"{size_text(self.max_virtual_bytes)} are allowed."
            )

    def _limits_for(self, virtual_size: int) -> Limits:
        # Measured at about 8 s of CPU per GiB, compression included. The hour bounds
        # files made to unpack into far more than they hold.
        seconds = min(120 + 30 * (virtual_size >> 30), 3600)
        return Limits(cpu_seconds=seconds, seconds=2 * seconds)


def _qemu_img(*arguments: str | Path) -> list[str]:
    return ["qemu-img", *map(str, arguments)]


def fault_of(ended: Ended) -> StoreError:
    """What to raise for a child that failed; its own words are kept for the log."""
    if ended.lacked_space:
        return StoreFull("There is no room left for images at the moment.")
    if ended.timed_out:
        # By the clock, so that a busy machine may be the cause.
        return StoreError("Checking the image took too long: please try again later.")
    if ended.was_killed:
        return StoreError("Checking the image was interrupted: please try again.")
    if ended.exhausted:
        return Refused("The image takes too much time or memory to be read.")
    return Refused(DAMAGED, ended.err[-500:])

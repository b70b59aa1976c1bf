"""Say what kind of disk image a file is, from its first and last bytes alone.

Run as a script, in a limited child process: the file may have been made to mislead or
to hurt whoever parses it. It imports nothing of the panel.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

from oslo_utils.imageutils import format_inspector

HEAD = 4 << 20
TAIL = 4096
CHUNK = 64 * 1024

KINDS = {
    "raw": "raw",
    "gpt": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vhd": "vhd",
    "vhdx": "vhdx",
    "vdi": "vdi",
}
NOT_A_DISK = (
    "This is not a disk image that a server can start from: it is in none of the known "
    "formats and has no boot sector."
)
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
    b"\x04\x22\x4d\x18": "lz4",
}
CUT_OFF = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"conectix": "VHD",
    b"vhdxfile": "VHDX",
}
UNSAFE = {
    "backing_file": "The image needs a second file, its backing file. Flatten it first "
    "(qemu-img convert), then upload the result.",
    "data_file": "The image keeps its data in a second file. Flatten it first "
    "(qemu-img convert), then upload the result.",
    "unknown_features": "The qcow2 image uses features that are not accepted. Write it "
    "anew with qemu-img convert, then upload the result.",
    "descriptor": "Of VMDK only single files are accepted (monolithicSparse and "
    "streamOptimized), since other kinds point to further files.",
    "footer": "The end of the VMDK image contradicts its beginning.",
    "mbr": "The partition table of the disk is empty or damaged.",
}
BANNED = {
    "qed": "QED images are not accepted. Convert it to qcow2 first (qemu-img convert).",
    "luks": "The image is encrypted (LUKS), so no server could start from it.",
    "iso": "This is an installation disc (ISO), not a disk. Install it on a virtual "
    "machine and upload that machine's disk.",
}


class NotAccepted(Exception):
    """The text is the sentence for the user."""


class NoDisk(NotAccepted):
    """It pretends to be no disk, so it does no harm where nothing starts from it."""


def examine(path: Path) -> dict[str, str | int]:
    """The format and the virtual size that the header claims; raises NotAccepted."""
    size = path.stat().st_size
    if not size:
        raise NotAccepted("The file is empty.")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        stream.seek(max(len(head), size - TAIL))
        tail = stream.read(TAIL)
    _refuse_packed(head)
    # The middle is left out. Of all formats only VHDX may have something there, its
    # size, and that is asked of qemu-img again.
    found = _detect(head + tail)
    name = str(found)
    if name in BANNED:
        raise NoDisk(BANNED[name])
    if name not in KINDS:
        raise NoDisk(NOT_A_DISK)
    try:
        found.safety_check()
    except format_inspector.SafetyCheckFailed as unsafe:
        reasons = [UNSAFE[check] for check in unsafe.failures if check in UNSAFE]
        raise NotAccepted(reasons[0] if reasons else NOT_A_DISK) from unsafe
    except format_inspector.ImageFormatError as error:
        raise NotAccepted(
            f"The {name.upper()} file is cut off: please upload it again."
        ) from error
    kind = KINDS[name]
    if kind == "qcow2":
        _refuse_odd_qcow2(head)
    if kind == "vmdk" and not head.startswith(b"KDMV"):
        raise NotAccepted(UNSAFE["descriptor"])
    has_vhd_footer = (tail or head)[-512:].startswith(b"conectix")
    _refuse_cut_off(name, head, size, has_vhd_footer=has_vhd_footer)
    if kind != "raw":
        return {"format": kind, "virtual_size": found.virtual_size}
    if has_vhd_footer:
        # A VHD of fixed size is the plain disk and a footer.
        return {"format": "vhd", "virtual_size": size - 512}
    _refuse_unbootable(head)
    return {"format": "raw", "virtual_size": -(-size // 512) * 512}


def _refuse_packed(head: bytes) -> None:
    if _has_boot_signature(head):
        return
    for magic, program in COMPRESSED.items():
        if head.startswith(magic):
            raise NoDisk(
                f"The file is compressed with {program}. Decompress it first, then "
                "upload the disk image."
            )
    if head[257:262] == b"ustar":
        raise NoDisk(
            "This is a tar or OVA archive. Unpack it first, then upload the disk "
            "image that is in it."
        )


def _detect(content: bytes) -> format_inspector.FileInspector:
    wrapper = format_inspector.InspectWrapper(io.BytesIO(content))
    while wrapper.read(CHUNK):
        pass
    wrapper.close()
    formats = wrapper.formats or []
    names = {str(each) for each in formats}
    if "iso" in names:
        raise NoDisk(BANNED["iso"])
    if len(formats) != 1:
        raise NotAccepted(
            "The file looks like several formats at once: " + ", ".join(sorted(names))
        )
    return formats[0]


def _refuse_odd_qcow2(head: bytes) -> None:
    if len(head) < 72:
        raise NotAccepted("The qcow2 file is cut off: please upload it again.")
    (encryption,) = struct.unpack(">I", head[32:36])
    (snapshots,) = struct.unpack(">I", head[60:64])
    if encryption:
        raise NotAccepted("The image is encrypted, so no server could start from it.")
    if snapshots:
        raise NotAccepted(
            "The image has internal snapshots, which would be shared along with it. "
            "Write it anew with qemu-img convert, then upload the result."
        )


def _refuse_cut_off(name: str, head: bytes, size: int, *, has_vhd_footer: bool) -> None:
    """Where the header tells how long the file must be. qemu-img finds some cases only,
    for it reads what lies behind the end of a file as zeros.
    """
    needed = 0
    if name == "vdi":
        (data_offset,) = struct.unpack("<I", head[0x158:0x15C])
        (block_size,) = struct.unpack("<I", head[0x178:0x17C])
        (allocated,) = struct.unpack("<I", head[0x184:0x188])
        needed = data_offset + allocated * block_size
    elif name == "vhd" and not has_vhd_footer:
        needed = size + 512
    elif name == "gpt":
        needed = 512 * _sectors_of_partitions(head)
    if needed > size:
        what = "disk" if name == "gpt" else f"{name.upper()} file"
        raise NotAccepted(
            f"The {what} is cut off: its header promises more. Please upload it again."
        )


def _sectors_of_partitions(head: bytes) -> int:
    if head[512:520] == b"EFI PART":
        (last_sector,) = struct.unpack("<Q", head[544:552])
        return int(last_sector) + 1
    # The entry that only protects a GPT (on a disk of larger sectors) may say anything.
    entries = (head[start : start + 16] for start in range(446, 510, 16))
    ends = [
        sum(struct.unpack("<II", entry[8:]))
        for entry in entries
        if entry[4] not in {0, 0xEE}
    ]
    return max(ends, default=0)


def _refuse_unbootable(head: bytes) -> None:
    if _has_boot_signature(head):
        return
    for magic, name in CUT_OFF.items():
        if head.startswith(magic):
            raise NotAccepted(f"The {name} file is cut off: please upload it again.")
    file_systems = {
        "ext": head[1080:1082] == b"\x53\xef",
        "XFS": head.startswith(b"XFSB"),
        "Btrfs": head[0x10040:0x10048] == b"_BHRfS_M",
    }
    for name, is_there in file_systems.items():
        if is_there:
            raise NoDisk(
                f"This is a bare {name} file system without a boot sector, so no "
                "server could start from it. Upload the whole disk."
            )
    raise NoDisk(NOT_A_DISK)


def _has_boot_signature(head: bytes) -> bool:
    return head[510:512] == b"\x55\xaa"


def main() -> None:
    try:
        answer = examine(Path(sys.argv[1]))
    except NotAccepted as refusal:
        answer = {"refused": str(refusal), "is_disk": not isinstance(refusal, NoDisk)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()

"""Disk images, good and bad, built on the spot, so that none is in the repository."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
import zlib
from pathlib import Path

MIB = 1 << 20
DISK = 8 * MIB
# The entry in an MBR that says "see the GPT", but for the size at its end.
PROTECTIVE = b"\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00"


def qemu_img(*arguments) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def raw_mbr(path: Path, size: int = DISK) -> Path:
    """A disk with a boot sector, one partition and a megabyte of noise in it."""
    content = bytearray(size)
    content[:3] = b"\xeb\xfe\x90"
    content[446:462] = struct.pack(
        "<B3sB3sII", 0x80, b"\x20\x21\x00", 0x83, b"\xfe\xff\xff", 2048, size // 1024
    )
    content[510:512] = b"\x55\xaa"
    content[2 * MIB : 3 * MIB] = random.Random(7).randbytes(MIB)  # noqa: S311
    path.write_bytes(content)
    return path


def raw_gpt(path: Path) -> Path:
    content = bytearray(raw_mbr(path).read_bytes())
    content[446:462] = PROTECTIVE + struct.pack("<I", DISK // 512 - 1)
    header = bytearray(
        struct.pack(
            "<8sIIIIQQQQ16sQIII",
            *(b"EFI PART", 0x10000, 92, 0, 0, 1, DISK // 512 - 1, 34, DISK // 512 - 34),
            *(bytes(range(16)), 2, 128, 128, zlib.crc32(bytes(128 * 128))),
        )
    )
    header[16:20] = struct.pack("<I", zlib.crc32(header))
    content[512 : 512 + len(header)] = header
    path.write_bytes(content)
    return path


def converted(path: Path, to: str, *options: str, size: int = DISK) -> Path:
    """The disk of `raw_mbr`, in another format."""
    disk = raw_mbr(path.with_suffix(".disk"), size)
    wanted = [part for option in options for part in ("-o", option)]
    qemu_img("convert", "-f", "raw", "-O", to, *wanted, disk, path)
    disk.unlink()
    return path


def patched(path: Path, offset: int, value: bytes) -> Path:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(value)
    return path


def cut(path: Path, size: int) -> Path:
    with path.open("r+b") as stream:
        stream.truncate(size)
    return path


# Each writes a bad file and stands beside a part of the sentence that refuses it.


def empty(path: Path) -> Path:
    path.touch()
    return path


def text(path: Path) -> Path:
    path.write_text("Dear cloud, please boot this letter.\n" * 100)
    return path


def text_with_accents_later(path: Path) -> Path:
    path.write_text("plain " * 100 + "déjà vu " * 100)
    return path


def one_byte(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def jpeg(path: Path) -> Path:
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + noise(5000))
    return path


def random_bytes(path: Path) -> Path:
    path.write_bytes(noise(MIB))
    return path


def noise(size: int) -> bytes:
    made = bytearray(random.Random(1).randbytes(size))  # noqa: S311
    made[510:512] = b"\x00\x00"
    return bytes(made)


def gzipped(path: Path) -> Path:
    path.write_bytes(gzip.compress(raw_mbr(path).read_bytes()))
    return path


def tar_archive(path: Path) -> Path:
    path.write_bytes(bytes(257) + b"ustar\x0000" + bytes(MIB))
    return path


def bare_ext4(path: Path) -> Path:
    path.write_bytes(bytes(1080) + b"\x53\xef" + bytes(MIB))
    return path


def boot_sector_without_partitions(path: Path) -> Path:
    return patched(raw_mbr(path), 446, bytes(64))


def iso(path: Path) -> Path:
    volume = b"\x01CD001\x01" + bytes(73) + struct.pack("<I", 512) + bytes(44)
    path.write_bytes(bytes(32768) + volume + struct.pack("<H", 2048) + bytes(MIB))
    return path


def hybrid_iso(path: Path) -> Path:
    disk = raw_mbr(path)
    return patched(disk, 32768, b"\x01CD001\x01")


def luks(path: Path) -> Path:
    path.write_bytes(b"LUKS\xba\xbe\x00\x01" + noise(MIB))
    return path


def encrypted_qcow2(path: Path) -> Path:
    return patched(converted(path, "qcow2"), 32, b"\x00\x00\x00\x02")


def qed(path: Path) -> Path:
    qemu_img("create", "-f", "qed", path, "8M")
    return path


def backing_file(path: Path, *, compat: str = "1.1") -> Path:
    arguments = ["-f", "qcow2", "-o", f"compat={compat}", "-u", "-F", "raw"]
    qemu_img("create", *arguments, "-b", "/etc/passwd", path, "8M")
    return path


def old_backing_file(path: Path) -> Path:
    return backing_file(path, compat="0.10")


def raw_that_begins_like_qcow2(path: Path) -> Path:
    """What a guest can write into its own first sectors to be given a host's file."""
    lure = backing_file(path.with_suffix(".lure"))
    disk = raw_mbr(path)
    return patched(disk, 0, lure.read_bytes()[: 64 * 1024])


def data_file(path: Path) -> Path:
    other = path.with_suffix(".outside")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={other}", path, "8M")
    return path


def unknown_feature(path: Path) -> Path:
    return patched(converted(path, "qcow2"), 72, b"\x00\x00\x00\x01")


def half_a_petabyte(path: Path) -> Path:
    return patched(converted(path, "qcow2"), 24, struct.pack(">Q", 500 << 40))


def internal_snapshot(path: Path) -> Path:
    converted(path, "qcow2")
    qemu_img("snapshot", "-c", "before", path)
    return path


def blank_qcow2(path: Path) -> Path:
    qemu_img("create", "-f", "qcow2", path, "8M")
    return path


def header_of_qcow2(path: Path) -> Path:
    return cut(converted(path, "qcow2"), 300)


def flat_vmdk(path: Path) -> Path:
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
        'createType="monolithicFlat"\n\nRW 16384 FLAT "/etc/passwd" 0\n'
    )
    return path


def vmdk_naming_a_host_file(path: Path) -> Path:
    made = converted(path, "vmdk")
    start = made.read_bytes().index(b'SPARSE "')
    return patched(made, start, b'SPARSE "/etc/passwd"\n#')


def cut_off_qcow2(path: Path) -> Path:
    """Only the header is whole, so that reading all of it must find out."""
    made = converted(path, "qcow2")
    return cut(made, made.stat().st_size - 512 * 1024)


def entry_of_cluster(path: Path, cluster: int) -> int:
    """Where in a qcow2 file the table's entry of one of its first clusters lies."""
    content = path.read_bytes()
    (level_one,) = struct.unpack(">Q", content[40:48])
    level_two = int.from_bytes(content[level_one : level_one + 8])
    return (level_two & ((1 << 56) - 512)) + 8 * cluster


def corrupt_qcow2(path: Path) -> Path:
    """Its table points far behind the end of the file."""
    made = converted(path, "qcow2")
    return patched(
        made, entry_of_cluster(made, 32), struct.pack(">Q", 1 << 63 | 1 << 40)
    )


def garbled_qcow2(path: Path) -> Path:
    """Its tables are in order, but one compressed cluster cannot be unpacked."""
    disk = patched(raw_mbr(path.with_suffix(".disk")), 2 * MIB, b"text" * (MIB // 4))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", disk, path)
    start = entry_of_cluster(path, 32)
    (entry,) = struct.unpack(">Q", path.read_bytes()[start : start + 8])
    return patched(path, entry & ((1 << 54) - 1), b"\xff" * 16)


def cut_off_raw(path: Path) -> Path:
    return cut(raw_mbr(path), 4 * MIB)


def cut_off_gpt(path: Path) -> Path:
    return cut(raw_gpt(path), DISK - 512)


def cut_off_vdi(path: Path) -> Path:
    made = converted(path, "vdi")
    return cut(made, made.stat().st_size - 1)


def cut_off_vhd(path: Path) -> Path:
    made = converted(path, "vpc")
    return cut(made, made.stat().st_size - 512)


def cut_off_vhdx(path: Path) -> Path:
    made = converted(path, "vhdx")
    return cut(made, made.stat().st_size // 2)


def cut_off_vmdk(path: Path) -> Path:
    made = converted(path, "vmdk", "subformat=monolithicSparse")
    return cut(made, made.stat().st_size // 2)


def cut_off_stream_vmdk(path: Path) -> Path:
    made = converted(path, "vmdk", "subformat=streamOptimized")
    return cut(made, made.stat().st_size - 512)


BAD_HEADERS = {
    empty: "is empty",
    one_byte: "not a disk image",
    text: "not a disk image",
    text_with_accents_later: "not a disk image",
    jpeg: "not a disk image",
    random_bytes: "not a disk image",
    gzipped: "compressed with gzip",
    tar_archive: "OVA archive",
    bare_ext4: "bare ext file system",
    boot_sector_without_partitions: "partition table",
    iso: "installation disc",
    hybrid_iso: "installation disc",
    luks: "encrypted",
    encrypted_qcow2: "encrypted",
    qed: "QED images are not accepted",
    backing_file: "backing file",
    old_backing_file: "backing file",
    raw_that_begins_like_qcow2: "",
    data_file: "second file",
    unknown_feature: "features",
    half_a_petabyte: "at most 64.0 GiB are allowed",
    internal_snapshot: "internal snapshots",
    blank_qcow2: "no boot sector",
    header_of_qcow2: "cut off",
    cut_off_raw: "cut off",
    cut_off_gpt: "cut off",
    cut_off_vdi: "cut off",
    cut_off_vhd: "cut off",
    cut_off_vhdx: "damaged",
    flat_vmdk: "only single files",
    vmdk_naming_a_host_file: "only single files",
}
BAD_BODIES = {
    cut_off_qcow2: "damaged",
    corrupt_qcow2: "damaged",
    garbled_qcow2: "damaged",
    cut_off_vmdk: "damaged",
    cut_off_stream_vmdk: "damaged",
}

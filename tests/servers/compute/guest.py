"""A guest of one sector, which boots in a fraction of a second.

It greets with the text in sector 1 of its disk, on the serial port and on the screen,
writes that sector to sector 2, and switches itself off when the power button is
pressed. With `obedient=False` it does not mind the button.
"""

import struct
import subprocess

GREETING = b"Hello from the boot sector\r\n"
GOODBYE = b"Goodbye\r\n"
SIZE = 1 << 20

_ORIGIN = 0x7C00
# The guest has no use for it; the panel takes no disk without one.
_PARTITION = struct.pack(
    "<B3sB3sII", 0x80, bytes(3), 0x83, bytes(3), 64, SIZE // 512 - 64
)


def write_image(path, *, greeting=GREETING, obedient=True, at_once=False):
    """A raw disk image of 1 MiB; `at_once` switches itself off after the greeting."""
    disk = bytearray(SIZE)
    disk[:512] = _boot_sector(obedient=obedient, at_once=at_once)
    disk[512 : 512 + len(greeting)] = greeting
    path.write_bytes(disk)
    path.chmod(0o444)
    return path


def to_qcow2(raw, path):
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path]
    subprocess.run(command, check=True, timeout=300)
    path.chmod(0o444)
    return path


def read_disk(path):
    """The content of a qcow2 file that stands alone."""
    raw = path.with_suffix(".content")
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw]
    subprocess.run(command, check=True, timeout=300)
    content = raw.read_bytes()
    raw.unlink()
    return content


def _boot_sector(*, obedient, at_once):
    button = 0x0100 if obedient else 0
    start = bytes.fromhex(
        "31c0 8ed8 8ec0 8ed0 bc007c"  # xor ax,ax; ds = es = ss = ax; sp = 0x7c00
        "bb007e b80102 b90200 30f6 cd13"  # read sector 1 to 0x7e00
        "b80103 b90300 cd13"  # write it to sector 2
        # Who has read the greeting may press the button, so it is enabled first.
        "ba0206 b8" + button.to_bytes(2, "little").hex() + "ef"
        "be007e"  # si = the greeting
    )
    wait = bytes.fromhex(
        "fb"  # interrupts on, so that the timer ends each halt
        "f4 ba0006 ed f6c401 74f6"  # halt until the button's bit is set
    )
    leave = bytes.fromhex("ba0406 b80020 ef f4 ebfd")  # power off by ACPI
    printer = bytes.fromhex(
        "ac 84c0 740d"  # next character, until the zero
        "baf803 ee"  # to the serial port
        "b40e bb0700 cd10"  # and to the screen
        "ebee c3"
    )
    if at_once:
        wait = b""
    # start, call print, wait, si = goodbye, call print, leave, printer, goodbye
    printer_at = len(start) + 3 + len(wait) + 3 + 3 + len(leave)
    goodbye_at = _ORIGIN + printer_at + len(printer)

    def call(at):
        return b"\xe8" + (printer_at - at - 3).to_bytes(2, "little", signed=True)

    code = start + call(len(start)) + wait
    code += b"\xbe" + goodbye_at.to_bytes(2, "little")
    code += call(len(code)) + leave + printer + GOODBYE + b"\0"
    return code.ljust(446, b"\0") + _PARTITION + bytes(48) + b"\x55\xaa"

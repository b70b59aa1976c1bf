"""The serial console: bytes from a stranger, shown as text."""

from __future__ import annotations

import io
import re
from pathlib import Path

# QEMU puts no limit on the log, so that a guest could fill the disk of its host.
LIMIT = 1 << 20

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, device strings
    r"|\x1b[ -/]*[0-~]?"
)
_BACKSPACE = re.compile(r"[^\n\x08]\x08")
# Also C1 controls, and the marks that make text read in another order than it has.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


def clean(data: bytes) -> str:
    """What a terminal would have left on paper, without anything that acts."""
    text = _SEQUENCES.sub("", data.decode(errors="replace"))
    # A lone return begins the line anew: only what was written last stays. (By a
    # pattern, a line without end would take its length squared.)
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    text = "\n".join(lines)
    for _ in range(8):
        text, changed = _BACKSPACE.subn("", text)
        if not changed:
            break
    return _CONTROLS.sub("", text)


def read_end(path: Path, max_bytes: int) -> bytes:
    """The last bytes of the log, from the start of a line if it was cut."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, io.SEEK_END)
            log.seek(max(0, size - max_bytes))
            data = log.read(max_bytes)
    except OSError:
        # None yet, or a web process that may not read what the worker wrote.
        return b""
    if size <= max_bytes:
        return data
    _, newline, rest = data.partition(b"\n")
    return rest if newline else data


def trim(path: Path, limit: int = LIMIT) -> None:
    """Keep the last half of a log that has grown too long. QEMU only appends to it,
    so the file may be cut in place while the server writes on."""
    try:
        with path.open("r+b") as log:
            size = log.seek(0, io.SEEK_END)
            if size <= limit:
                return
            log.seek(size - limit // 2)
            tail = log.read(limit // 2)
            log.seek(0)
            log.write(tail)
            log.truncate()
    except FileNotFoundError:
        return

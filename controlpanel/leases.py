"""Which jobs are really being done: a byte of one file is locked for each of them.

The kernel lets go of a lock when the process dies that holds it, and not before. So,
unlike a heartbeat, it is right about a worker that was killed this very moment, and
about one that was stopped for an hour and goes on.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from django.conf import settings

# As the kernel's struct flock: kind, whence, start, length, process.
_FLOCK = struct.Struct("hhqqi4x")


class Leased(Exception):
    """Somebody does this job at this moment."""


@contextlib.contextmanager
def lease(job_id: int) -> Iterator[None]:
    """Do a job alone among all processes of this host; raises Leased."""
    descriptor = _open()
    try:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _byte(job_id))
        except BlockingIOError:
            raise Leased(f"Job {job_id} is being done by another worker.") from None
        yield
    finally:
        os.close(descriptor)


def is_leased(job_id: int) -> bool:
    descriptor = _open()
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _byte(job_id))
    finally:
        os.close(descriptor)
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _open() -> int:
    path = settings.DATA_DIR / "jobs.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lock belongs to the open file, so each lease has one of its own.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _byte(number: int) -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)

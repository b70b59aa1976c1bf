"""An upload on its way to disk: counted, hashed, bounded, and gone if broken off."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from images.stores.base import (
    BlobGone,
    Received,
    StoreError,
    StoreFull,
    TooLarge,
    Unavailable,
)

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_WRITING = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
CANNOT_WRITE = "The folder for images cannot be written to."


class LocalReceiver:
    """Writes to `part`, and renames it to `whole` when all has come."""

    def __init__(
        self, part: Path, whole: Path, *, limit: int, free_bytes: Callable[[], int]
    ) -> None:
        self._part = part
        self._whole = whole
        self._limit = limit
        self._free_bytes = free_bytes
        self._hash = hashlib.sha256()
        self._descriptor = -1
        self.size = 0

    def __enter__(self) -> Self:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        with telling_trouble():
            self._descriptor = os.open(self._part, flags, 0o600)
        try:
            with telling_trouble():
                # What a killed process left is overwritten; what a living one writes
                # to is not. (The file is cut only once it is surely ours.)
                if not self._is_ours():
                    raise StoreError("This image is being uploaded already.")
                os.ftruncate(self._descriptor, 0)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        finished = self._descriptor < 0
        if not finished:
            with suppress(OSError):  # then it is swept a day later
                self._part.unlink(missing_ok=True)
            self._close()
        elif kind is not None:
            self._whole.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self._limit:
            raise too_large(self._limit)
        if len(chunk) > self._free_bytes():
            raise StoreFull("There is no room left for images at the moment.")
        rest = memoryview(chunk)
        with telling_trouble():
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def finish(self) -> Received:
        with telling_trouble():
            os.fsync(self._descriptor)
            if not discard_if_free(self._whole):
                raise StoreError("What was sent before is still being checked.")
            try:
                self._part.replace(self._whole)
            except FileNotFoundError:
                raise BlobGone("The upload was removed while it came.") from None
        self._close()
        sync_folder(self._whole.parent)
        return Received(self._hash.hexdigest(), self.size)

    def _is_ours(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Whose it was may have finished it since it was opened.
        return is_named(self._descriptor, self._part)

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def discard_if_free(path: Path) -> bool:
    """Remove what a killed process has left. False for what somebody is at work on,
    which stays.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_named(descriptor, path):
            path.unlink()
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        os.close(descriptor)
    return not path.exists()


def is_named(descriptor: int, path: Path) -> bool:
    """Whether the name is that of this very file, which another may have got."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The file is too large: at most {limit / (1 << 20):,.0f} MiB are allowed."
    )


@contextmanager
def telling_trouble() -> Iterator[None]:
    """Turn what the system says of a disk that is full, or broken, into our words."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            full = "There is no room left for images at the moment."
            raise StoreFull(full) from error
        if error.errno in NO_WRITING:
            raise Unavailable(CANNOT_WRITE) from error
        raise


def sync_file(path: Path) -> None:
    """Have the file's bytes (or a folder's names) on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with telling_trouble():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file

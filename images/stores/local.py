"""Image data on this machine's disk.

    uploads/<id>.part        being received
    uploads/<id>.data        received, kept until it is discarded
    uploads/<id>.work        being converted
    uploads/<id>.blob        about to become a blob
    uploads/<id>.claim       a second name of the blob it became
    blobs/ab/abcd….qcow2     the SHA-256 as name, read-only, never changed

A file gets its name in `blobs` in one step when all of it is on the disk, so that a
blob is either whole or not there. While anyone holds a claim, the file has more than
one name, and `delete` leaves it alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

from images.stores.base import (
    BlobGone,
    DiskFormat,
    Inspection,
    Progress,
    Stored,
    StoredFile,
    StoreError,
    Unavailable,
    Upload,
)
from images.stores.checking import Checker, missing_program
from images.stores.receiving import (
    CANNOT_WRITE,
    LocalReceiver,
    discard_if_free,
    is_named,
    sync_file,
    sync_folder,
    telling_trouble,
    too_large,
)

_CHUNK = 1 << 20
# Seconds that a step waits for another one with the same file. Only the check of an
# upload takes longer, which is not begun twice.
_PATIENCE = 60
_BUSY = "The image is being worked on already: please try again later."
# A file is read in so many seconds, and one more for so many of its bytes.
_LEAST_SECONDS = 300
_SLOWEST = 2 << 20
_SLOW = "Reading the image took too long: please try again later."
# Another file system, one that knows no hard links, or too many of them.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}
# What a broken disk, or a broken file system, says of a file.
_DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG}
_UPLOAD_GONE = "The uploaded file is no longer there: upload it again."
_UNREADABLE = "The image cannot be read at the moment."
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FORMATS: tuple[DiskFormat, ...] = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class LocalStore:
    """The store below one folder. All of its folders must lie on one file system."""

    root: Path
    max_upload_bytes: int
    max_virtual_bytes: int
    min_free_bytes: int

    def unavailable_reason(self) -> str:
        if reason := missing_program():
            return reason
        try:
            may_write = os.access(self._folder("uploads"), os.W_OK | os.X_OK)
        except OSError:
            may_write = False
        return "" if may_write else CANNOT_WRITE

    def free_bytes(self) -> int:
        disk = os.statvfs(self._folder("uploads"))
        return max(0, disk.f_bavail * disk.f_frsize - self.min_free_bytes)

    def receive(self, upload_id: UUID, *, limit: int) -> LocalReceiver:
        if reason := self.unavailable_reason():
            raise Unavailable(reason)
        return LocalReceiver(
            self._upload(upload_id, "part"),
            self._upload(upload_id, "data"),
            limit=min(limit, self.max_upload_bytes),
            free_bytes=self.free_bytes,
        )

    def inspect(self, upload_id: UUID, *, any_data: bool = False) -> Inspection:
        return self._checker.look(self._received(upload_id), any_data=any_data)

    @telling_trouble()
    def admit(
        self,
        upload_id: UUID,
        *,
        any_data: bool = False,
        progress: Progress | None = None,
    ) -> Stored:
        with _locked(self._received(upload_id)) as locked:
            final = data = self._received(upload_id)
            # It may have been discarded while we waited.
            _insist_on(data, locked)
            found = self._checker.look(data, any_data=any_data)
            if found.will_convert:
                final = self._upload(upload_id, "work")
                self._convert(data, found, final, progress=_part(0, 90, progress))
            with final.open("rb") as read:
                if found.will_convert:
                    sums = _sums_of(final, _part(90, 100, progress))
                elif found.format == "qcow2":
                    sums = self._read(data, found, progress)
                else:
                    sums = _sums_of(data, _part(0, 100, progress))
                stored = Stored(
                    sums.sha256,
                    os.fstat(read.fileno()).st_size,
                    found.virtual_size,
                    "raw" if found.format == "raw" else "qcow2",
                    sums.md5,
                )
                # All was done by name. A name that is still of this file was of it
                # all the time, for none comes back.
                _insist_on(data, locked)
                self._keep(upload_id, final, read.fileno(), stored)
        return stored

    def import_file(
        self, path: Path, *, upload_id: UUID, progress: Progress | None = None
    ) -> Stored:
        if not self._upload(upload_id, "data").exists():
            self._copy_in(path, upload_id)
        return self.admit(upload_id, progress=progress)

    def take_over(
        self, path: Path, *, upload_id: UUID, progress: Progress | None = None
    ) -> Stored:
        if not self._upload(upload_id, "data").exists():
            try:
                self._link_in(path, upload_id)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._copy_in(path, upload_id)
        return self.admit(upload_id, progress=progress)

    @telling_trouble()
    def discard(self, upload_id: UUID) -> None:
        discard_if_free(self._upload(upload_id, "part"))
        # The claim goes last: while anything of the upload is left, it protects.
        for kind in ("work", "blob", "data", "claim"):
            self._upload(upload_id, kind).unlink(missing_ok=True)

    def uploads(self) -> Iterator[Upload]:
        changed: dict[UUID, float] = {}
        for path in self._folder("uploads").iterdir():
            try:
                upload_id = UUID(path.stem)
                then = path.stat().st_mtime
            except (ValueError, OSError):  # not ours, gone, or the disk cannot tell
                continue
            changed[upload_id] = max(then, changed.get(upload_id, 0))
        for upload_id, then in changed.items():
            yield Upload(upload_id, datetime.fromtimestamp(then, UTC))

    def open(self, digest: str) -> BinaryIO:
        try:
            return self._find(digest).open("rb")
        except FileNotFoundError as error:
            raise _gone(digest) from error
        except OSError as error:
            raise Unavailable(_UNREADABLE, str(error)) from error

    def path(self, digest: str) -> Path:
        try:
            return self._find(digest)
        except OSError as error:
            raise Unavailable(_UNREADABLE, str(error)) from error

    def verify(self, digest: str) -> bool:
        try:
            return _sums_of(self._find(digest)).sha256 == digest
        except (BlobGone, FileNotFoundError):
            return False
        except OSError as error:
            if error.errno in _DAMAGE:
                return False
            raise Unavailable(_UNREADABLE, str(error)) from error

    @telling_trouble()
    def delete(self, digest: str, *, in_use: Callable[[], bool]) -> bool:
        try:
            path = self._find(digest)
        except BlobGone:
            return True
        with _locked(path.parent):
            if path.exists():
                if path.stat().st_nlink > 1 or in_use():
                    return False
                path.unlink()
                sync_folder(path.parent)
        return True

    def files(self) -> Iterator[StoredFile]:
        for path in sorted(self._folder("blobs").glob("??/*")):
            # Gone, or the disk cannot tell: what is not named here is left alone.
            with suppress(OSError):
                found = path.stat()
                changed_at = datetime.fromtimestamp(found.st_mtime, UTC)
                yield StoredFile(path.stem, changed_at, found.st_nlink > 1)

    @property
    def _checker(self) -> Checker:
        return Checker(self.max_virtual_bytes)

    def _copy_in(self, path: Path, upload_id: UUID) -> None:
        with (
            path.open("rb") as source,
            self.receive(upload_id, limit=self.max_upload_bytes) as receiver,
        ):
            for chunk in _chunks_of(source):
                receiver.write(chunk)
            receiver.finish()

    def _link_in(self, path: Path, upload_id: UUID) -> None:
        """Give the file a second name, under which it is an upload like any other."""
        if reason := self.unavailable_reason():
            raise Unavailable(reason)
        if path.stat().st_size > self.max_upload_bytes:
            raise too_large(self.max_upload_bytes)
        sync_file(path)
        data = self._upload(upload_id, "data")
        # Another worker may do the same.
        with telling_trouble(), suppress(FileExistsError):
            data.hardlink_to(path)
            sync_folder(data.parent)

    def _read(self, data: Path, found: Inspection, progress: Progress | None) -> _Sums:
        """Check all of a qcow2 and take its sums, both at once: they take as long."""
        with ThreadPoolExecutor(max_workers=1) as beside:
            sums = beside.submit(_sums_of, data)
            self._checker.read_all(data, found, progress=_part(0, 100, progress))
            return sums.result()

    def _convert(
        self, data: Path, found: Inspection, work: Path, *, progress: Progress | None
    ) -> None:
        # Removed, not overwritten: should a killed worker's child still write to it
        # for a moment, it writes to a file without a name.
        work.unlink(missing_ok=True)
        try:
            self._checker.convert(
                data, found, work, room=self.free_bytes(), progress=progress
            )
            sync_file(work)
        except BaseException:
            work.unlink(missing_ok=True)
            raise

    def _keep(self, upload_id: UUID, final: Path, read: int, stored: Stored) -> None:
        """Give the file that was read its name among the blobs, and claim it for the
        upload.
        """
        blob = self._blob(stored.digest, stored.disk_format)
        claim = self._upload(upload_id, "claim")
        with telling_trouble():
            folder = self._folder("blobs", blob.parent.name)
        # What is there may have been damaged, and is mended by this. It takes a while
        # to read, and meanwhile another upload of the same data may have mended it.
        looked_at = _identity(blob)
        is_sound = self.verify(stored.digest)
        os.fchmod(read, 0o444)
        with _locked(folder), telling_trouble():
            claim.unlink(missing_ok=True)
            is_new = _identity(blob) != looked_at
            if blob.exists() and (is_sound or is_new):
                claim.hardlink_to(blob)
            else:
                claim.hardlink_to(final)
                _insist_on(claim, read)
                draft = self._upload(upload_id, "blob")
                draft.unlink(missing_ok=True)
                draft.hardlink_to(claim)
                draft.rename(blob)
                sync_folder(folder)
        self._upload(upload_id, "work").unlink(missing_ok=True)

    def _received(self, upload_id: UUID) -> Path:
        path = self._upload(upload_id, "data")
        if not path.exists():
            raise BlobGone(_UPLOAD_GONE)
        return path

    def _upload(self, upload_id: UUID, kind: str) -> Path:
        return self._folder("uploads") / f"{upload_id}.{kind}"

    def _blob(self, digest: str, disk_format: DiskFormat) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise _gone(digest)
        return self.root / "blobs" / digest[:2] / f"{digest}.{disk_format}"

    def _find(self, digest: str) -> Path:
        """Raises OSError as well, where the disk cannot tell."""
        for disk_format in _FORMATS:
            path = self._blob(digest, disk_format)
            with suppress(FileNotFoundError, NotADirectoryError):
                path.stat()
                return path
        raise _gone(digest)

    def _folder(self, *names: str) -> Path:
        folder = self.root.joinpath(*names)
        if not folder.is_dir():
            if names:
                self._folder(*names[:-1])
            folder.mkdir(parents=not names, exist_ok=True)
            # Servers read blobs as another user; uploads are nobody else's business.
            folder.chmod(0o700 if names[:1] == ("uploads",) else 0o755)
        return folder


def _insist_on(path: Path, descriptor: int) -> None:
    """Raise BlobGone if the name is another file's by now."""
    if not is_named(descriptor, path):
        raise BlobGone(_UPLOAD_GONE)


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from others of its name, also where its inode is used again."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Alone with this file or folder, among all threads and processes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BlobGone(_UPLOAD_GONE) from None
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(_BUSY) from None
                time.sleep(0.02)
        yield descriptor
    finally:
        os.close(descriptor)


class _Sums(NamedTuple):
    sha256: str
    md5: str


def _sums_of(path: Path, progress: Progress | None = None) -> _Sums:
    digest, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        for chunk in _chunks_of(stream):
            digest.update(chunk)
            md5.update(chunk)
            if progress and size:
                progress(100 * stream.tell() // size)
    return _Sums(digest.hexdigest(), md5.hexdigest())


def _chunks_of(stream: BinaryIO | FileIO) -> Iterator[bytes]:
    """All of a file, unless its disk is too slow to ever come to an end."""
    size = os.fstat(stream.fileno()).st_size
    deadline = time.monotonic() + _LEAST_SECONDS + size / _SLOWEST
    while chunk := stream.read(_CHUNK):
        yield chunk
        if time.monotonic() > deadline:
            raise StoreError(_SLOW)


def _part(start: int, end: int, progress: Progress | None) -> Progress | None:
    """Tell of a step's 0 to 100 % as `start` to `end` of the whole, each once."""
    if progress is None:
        return None
    told = -1

    def tell(per_cent: int) -> None:
        nonlocal told
        overall = start + (end - start) * per_cent // 100
        if overall > told:
            told = overall
            progress(overall)

    return tell


def _gone(digest: str) -> BlobGone:
    return BlobGone("The image file is gone.", digest)

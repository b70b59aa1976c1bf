"""What a place for image data can do, whatever lies behind it.

The panel speaks to this protocol alone. The local disk implements it today; an image
service or an object store can do so later, keeping a cache of files for `path`.

Every error's text is one sentence that may be shown to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, NamedTuple, Protocol, Self
from uuid import UUID

type DiskFormat = Literal["raw", "qcow2"]
type Progress = Callable[[int], None]


class StoreError(Exception):
    """The store could not do it; trying again later may help.

    `detail` is for the log alone: it may name files of ours.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Refused(StoreError):
    """The file itself is at fault: it will be refused again."""


class TooLarge(Refused):
    """More bytes were sent than this upload may have."""


class StoreFull(StoreError):
    """There is no room; the user can do nothing about it."""


class BlobGone(StoreError):
    """The data of an image, or a whole upload, is not there."""


class Unavailable(StoreError):
    """This store cannot take images at all at present."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as it lies in the store: `size` bytes whose SHA-256 is `digest`.

    The MD5 sum is for clients that compare by it, and proves nothing.
    """

    digest: str
    size: int
    virtual_size: int
    disk_format: DiskFormat
    md5: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the header of an upload says, and what admitting will do with it."""

    format: str
    virtual_size: int
    will_convert: bool
    # Why no server could start from it; only where any data is taken.
    unbootable: str = ""


class Received(NamedTuple):
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that has not been discarded yet, and when it last changed."""

    upload_id: UUID
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A blob's file, and when it changed. An upload that is not discarded claims it."""

    digest: str
    changed_at: datetime
    is_claimed: bool


class Receiver(Protocol):
    """A file on its way in. Left by an exception, or unfinished, nothing remains."""

    @property
    def size(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; raises TooLarge or StoreFull."""

    def finish(self) -> Received:
        """Say that all bytes have come, and have them safely on disk."""


class ImageStore(Protocol):
    """Content-addressed blobs that never change, and uploads on their way to them.

    An upload is known by an id that the caller chooses and remembers, mostly the
    image's own. Its life: receive, inspect, admit, then the caller commits its row,
    then discard. Each verb may be called again after a crash at any point.

    Until it is discarded, an admitted upload protects its blob from `delete`, so the
    caller has all the time it needs to commit the row that refers to the blob.
    """

    def unavailable_reason(self) -> str:
        """Why no image can be taken in, as a sentence; empty if all is well."""

    def free_bytes(self) -> int:
        """How many bytes can be taken in before the store calls itself full."""

    def receive(self, upload_id: UUID, *, limit: int) -> Receiver:
        """Take in a file of at most `limit` bytes, to be used as context manager."""

    def inspect(self, upload_id: UUID, *, any_data: bool = False) -> Inspection:
        """Look at the header only, in well under a second; raises Refused.

        With `any_data` also what no server could start from is taken: data that is no
        disk image (as raw), and disks without a boot sector. What is damaged, or made
        to mislead, is refused all the same.
        """

    def admit(
        self,
        upload_id: UUID,
        *,
        any_data: bool = False,
        progress: Progress | None = None,
    ) -> Stored:
        """Check all of a received file and make it a blob; takes seconds to minutes.

        Raw and qcow2 keep every byte; other formats become qcow2. Progress is told
        in per cent.
        """

    def import_file(
        self, path: Path, *, upload_id: UUID, progress: Progress | None = None
    ) -> Stored:
        """Copy a local file in and admit it; the caller discards `upload_id` later."""

    def take_over(
        self, path: Path, *, upload_id: UUID, progress: Progress | None = None
    ) -> Stored:
        """Admit a local file that nobody can write to any more, if possible without a
        copy. The caller deletes its own name of it after `discard`.
        """

    def discard(self, upload_id: UUID) -> None:
        """Forget an upload: the last step after the commit, or on giving up.

        What somebody is still sending is left to them.
        """

    def uploads(self) -> Iterator[Upload]:
        """All uploads not discarded, for sweeping those that nobody waits for."""

    def open(self, digest: str) -> BinaryIO:
        """The blob's bytes, seekable; raises BlobGone."""

    def path(self, digest: str) -> Path:
        """A local read-only file with the blob's bytes, to boot from."""

    def verify(self, digest: str) -> bool:
        """Read the whole blob again: is it still what its name says?

        Raises StoreError if that cannot be told at present.
        """

    def delete(self, digest: str, *, in_use: Callable[[], bool]) -> bool:
        """Delete a blob that nothing refers to; False if it was kept.

        `in_use` is asked while nobody can admit the same bytes, so it must read
        committed rows: call this after the transaction, never inside it.
        """

    def files(self) -> Iterator[StoredFile]:
        """All blobs there are, for finding those that no row knows."""

"""Disks of servers on their way to an image store: `snapshots/<image>.qcow2`.

A file has its name here once it is whole; what is being written has another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings


def path_of(image_id: UUID) -> Path:
    return _folder() / f"{image_id}.qcow2"


def is_there(image_id: UUID) -> bool:
    return path_of(image_id).exists()


def discard(image_id: UUID) -> None:
    for path in _folder().glob(f"{image_id}.*"):
        path.unlink(missing_ok=True)


def waiting() -> Iterator[tuple[UUID, datetime]]:
    """The images of all files, also of unfinished ones, and when these changed."""
    for path in sorted(_folder().glob("*.qcow2*")):
        with contextlib.suppress(ValueError, FileNotFoundError):
            changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            yield UUID(path.name.partition(".")[0]), changed_at


def _folder() -> Path:
    folder = Path(settings.DATA_DIR) / "snapshots"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder

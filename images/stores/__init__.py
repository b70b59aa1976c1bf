"""Where image data lies: `store_for(region.backend)` is the only way in."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from images.stores.base import (
    BlobGone,
    DiskFormat,
    ImageStore,
    Inspection,
    Progress,
    Received,
    Receiver,
    Refused,
    Stored,
    StoredFile,
    StoreError,
    StoreFull,
    TooLarge,
    Unavailable,
    Upload,
)
from images.stores.local import LocalStore

__all__ = [
    "BlobGone",
    "DiskFormat",
    "ImageStore",
    "Inspection",
    "Progress",
    "Received",
    "Receiver",
    "Refused",
    "StoreError",
    "StoreFull",
    "Stored",
    "StoredFile",
    "TooLarge",
    "Unavailable",
    "Upload",
    "store_for",
]


def store_for(backend_name: str) -> ImageStore:
    """The store of a backend. Regions on one backend share its blobs."""
    if backend_name != "local":
        raise ImproperlyConfigured(f"No image store is known as {backend_name!r}.")
    return LocalStore(
        root=Path(settings.DATA_DIR) / "images",
        max_upload_bytes=settings.IMAGES["max_upload_bytes"],
        max_virtual_bytes=settings.IMAGES["max_virtual_bytes"],
        min_free_bytes=settings.IMAGES["min_free_bytes"],
    )

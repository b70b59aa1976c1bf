"""Base images: taken in from a file on this machine, by the cloud's own staff."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict, Unpack
from uuid import uuid4

from django.db import transaction

from accounts.models import Region
from images.models import Blob, Image
from images.stores import Stored, store_for


class Labels(TypedDict, total=False):
    os: str
    description: str
    min_ram_mb: int
    min_disk_gb: int


def add_base_image(
    path: Path, name: str, regions: Iterable[Region], **labels: Unpack[Labels]
) -> list[Image]:
    """Check the file and make it the base image of that name in each region.

    May be repeated: a region that has it already gets the file and labels given now.
    """
    images = []
    by_backend = sorted(regions, key=lambda region: (region.backend, region.code))
    for backend, there in groupby(by_backend, key=lambda region: region.backend):
        store, upload_id = store_for(backend), uuid4()
        try:
            stored = store.import_file(path, upload_id=upload_id)
            images += [_put(region, name, stored, labels) for region in there]
        finally:
            # Until now it has kept the file from being removed.
            store.discard(upload_id)
    return images


@transaction.atomic
def _put(region: Region, name: str, stored: Stored, labels: Labels) -> Image:
    Blob.objects.hold(stored.digest)
    blob = Blob.objects.keep(region.backend, stored)
    known = Image.objects.select_for_update().base()
    before = known.filter(region=region, name=name).first()
    figures: dict[str, Any] = {
        "blob": blob,
        "size": blob.size,
        "virtual_size": blob.virtual_size,
        "disk_format": blob.disk_format,
    }
    active = {"status": Image.Status.ACTIVE, "status_reason": "", "progress": 100}
    image, _ = Image.objects.update_or_create(
        owner=None,
        region=region,
        name=name,
        defaults={"origin": Image.Origin.BASE, **figures, **active, **labels},
    )
    if before and before.blob and before.blob != blob:
        before.blob.release()
    return image

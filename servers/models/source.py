"""What a server's disk is made from."""

from __future__ import annotations

from typing import Any

from django.db import models

from accounts.models import Account
from images.models import Blob, Image


class MadeFrom(models.Model):
    """An image, and by names again, since an image may go. Its data stays as long as
    it is needed: that is the blob.
    """

    image = models.ForeignKey(
        Image, null=True, on_delete=models.SET_NULL, related_name="%(class)ss"
    )
    image_uuid = models.UUIDField(editable=False)
    image_name = models.CharField(max_length=255, editable=False)
    image_owner = models.ForeignKey(
        Account, null=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    # What images that are made of the server carry on.
    image_os = models.CharField(max_length=100, blank=True, editable=False)
    image_min_ram_mb = models.PositiveIntegerField(default=0, editable=False)
    # Bytes of the image's disk: that of the server is no smaller, also when it needs
    # the image no more.
    image_virtual_size = models.BigIntegerField(default=0, editable=False)
    blob = models.ForeignKey(
        Blob, null=True, on_delete=models.PROTECT, related_name="%(class)ss"
    )

    class Meta:
        abstract = True

    @property
    def source(self) -> dict[str, Any]:
        """All of the above, for another row that is made from the same."""
        names = [field.attname for field in MadeFrom._meta.local_fields]
        return {name: getattr(self, name) for name in names}


def made_from(image: Image) -> dict[str, Any]:
    """The image as the fields of MadeFrom."""
    return {
        "image": image,
        "image_uuid": image.pk,
        "image_name": image.name,
        "image_owner_id": image.owner_id,
        "image_os": image.os,
        "image_min_ram_mb": image.min_ram_mb,
        "image_virtual_size": image.virtual_size,
        "blob": image.blob,
    }

"""Sizes of servers."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from images.models import Image

GIB = 1 << 30


class Flavor(models.Model):
    """A size of server that the cloud sells. Its figures never change."""

    id = models.SlugField(primary_key=True, max_length=50)
    name = models.CharField(max_length=100)
    ram_mb = models.PositiveIntegerField("RAM (MB)")
    vcpus = models.PositiveIntegerField("virtual CPUs", default=1)
    disk_gb = models.PositiveIntegerField("disk (GB)")
    is_public = models.BooleanField(
        "offered", default=True, help_text="New servers may be made with it."
    )
    position = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["position", "ram_mb", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ram_mb__gt=0, vcpus__gt=0, disk_gb__gt=0),
                name="servers_flavor_figures_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def figures(self) -> str:
        cpus = "1 vCPU" if self.vcpus == 1 else f"{self.vcpus} vCPUs"
        return f"{self.ram_mb} MB RAM, {cpus}, {self.disk_gb} GB disk"

    def why_not(self, image: Image) -> str:
        """Why a server of this size cannot start from the image; empty if it can."""
        if self.ram_mb < image.min_ram_mb:
            return f"The image needs at least {image.min_ram_mb} MB RAM."
        if self.disk_gb < image.min_disk_gb:
            return f"The image needs a disk of at least {image.min_disk_gb} GB."
        if self.disk_gb * GIB < image.virtual_size:
            needed = -(-image.virtual_size // GIB)
            return f"The disk of the image alone has {needed} GB."
        return ""

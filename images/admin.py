from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from controlpanel.admin import Cheap
from images.models import Image


@admin.register(Image)
class BaseImageAdmin(Cheap):
    """Base images; the file of a new one comes by `manage.py add_base_image`."""

    list_display = ["name", "region", "os", "status", "size", "created_at"]
    list_filter = ["region", "status"]
    list_select_related = ["region"]
    search_fields = ["name__istartswith", "id__exact"]
    fields = [
        "name",
        "description",
        "tags",
        "os",
        "min_disk_gb",
        "min_ram_mb",
        "region",
        "status",
        "status_reason",
        "digest",
        "size",
        "virtual_size",
        "created_at",
    ]
    readonly_fields = [
        "region",
        "status",
        "status_reason",
        "digest",
        "size",
        "virtual_size",
        "created_at",
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Image]:
        return Image.objects.base().select_related("blob")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(
        self, request: HttpRequest, obj: Image | None = None
    ) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: Image, form: Any, change: bool
    ) -> None:
        obj.edit(
            name=obj.name,
            description=obj.description,
            os=obj.os,
            tags=obj.tags,
            protected=obj.protected,
            min_disk_gb=obj.min_disk_gb,
            min_ram_mb=obj.min_ram_mb,
        )

    @admin.display(description="SHA-256")
    def digest(self, image: Image) -> str:
        return image.blob.digest if image.blob else "-"

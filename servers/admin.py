from collections.abc import Callable

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.html import format_html_join

from controlpanel.admin import ReadOnly
from controlpanel.figures import size_text
from images.stores import StoreError, store_for
from servers.compute.base import Capacity, ComputeError
from servers.models import (
    Flavor,
    ImageSchedule,
    Reconciliation,
    RegionCapacity,
    Server,
    ServerEvent,
    SSHKey,
)
from servers.rows import why_unavailable


@admin.register(Flavor)
class FlavorAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "ram_mb", "vcpus", "disk_gb", "is_public", "position"]
    list_editable = ["is_public", "position"]

    def get_readonly_fields(
        self, request: HttpRequest, obj: Flavor | None = None
    ) -> list[str]:
        # Servers of this size are there: another size is another flavor.
        return ["id", "ram_mb", "vcpus", "disk_gb"] if obj else []


@admin.register(Server)
class ServerAdmin(ReadOnly):
    list_display = ["name", "account", "region", "status", "task", "created_at"]
    list_filter = ["region", "status"]
    list_select_related = ["account", "region"]
    search_fields = ["id__exact", "account__number__exact"]
    exclude = ["password_hash", "order_token"]


@admin.register(RegionCapacity)
class RegionCapacityAdmin(ReadOnly):
    """What each region has, and has left. Regions of one backend share its host."""

    list_display = [
        "code",
        "name",
        "backend",
        "servers",
        "memory",
        "disk",
        "images",
        "trouble",
    ]
    list_display_links = None

    @admin.display(description="Servers left")
    def servers(self, region: RegionCapacity) -> str:
        return self._left(region, lambda room: str(room.servers))

    @admin.display(description="Memory left")
    def memory(self, region: RegionCapacity) -> str:
        return self._left(region, lambda room: f"{room.memory_mb} MB")

    @admin.display(description="Disk left above the floor")
    def disk(self, region: RegionCapacity) -> str:
        return self._left(region, lambda room: size_text(room.free_bytes))

    @admin.display(description="Left for images")
    def images(self, region: RegionCapacity) -> str:
        try:
            return size_text(store_for(region.backend).free_bytes())
        except (ImproperlyConfigured, StoreError, OSError):
            return "-"

    @admin.display(description="No servers, because")
    def trouble(self, region: RegionCapacity) -> str:
        return why_unavailable(region.backend)

    def _left(self, region: RegionCapacity, text: Callable[[Capacity], str]) -> str:
        try:
            return text(Server.objects.room_in(region))
        except ComputeError:
            return "-"


@admin.register(Reconciliation)
class ReconciliationAdmin(ReadOnly):
    """What the hourly comparison of rows, files and processes has found."""

    list_display = ["started_at", "ended_at", "found", "left"]
    ordering = ["-pk"]
    fields = ["started_at", "ended_at", "found", "left", "what"]
    readonly_fields = ["what"]

    @admin.display(description="What was found")
    def what(self, reconciliation: Reconciliation) -> str:
        return format_html_join(
            "",
            "<p><b>{}</b>: {} <span>{}</span><br>{}</p>",
            (
                (
                    "left" if each["left"] else "mended",
                    each["kind"],
                    each["subject"],
                    each["sentence"],
                )
                for each in reconciliation.findings
            ),
        )


@admin.register(ServerEvent)
class ServerEventAdmin(ReadOnly):
    list_display = ["created_at", "account", "server_name", "what", "actor_name"]
    list_select_related = ["account"]
    search_fields = ["server_id__exact", "account__number__exact"]
    ordering = ["-pk"]


@admin.register(SSHKey)
class SSHKeyAdmin(ReadOnly):
    list_display = ["name", "account", "kind", "fingerprint", "created_at"]
    list_select_related = ["account"]
    search_fields = ["account__number__exact", "fingerprint__exact"]


@admin.register(ImageSchedule)
class ImageScheduleAdmin(ReadOnly):
    list_display = ["server", "rhythm", "keep", "next_at", "ran_at", "reason"]
    list_select_related = ["server"]
    search_fields = ["server__id__exact", "server__account__number__exact"]
    ordering = ["pk"]

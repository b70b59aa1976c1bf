from django.contrib import admin
from django.http import HttpRequest

from servers.models import Flavor, Server, ServerEvent, SSHKey


class ReadOnly:
    """Rows that only the panel writes, by its verbs."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(
        self, request: HttpRequest, obj: object | None = None
    ) -> bool:
        return False

    def has_delete_permission(
        self, request: HttpRequest, obj: object | None = None
    ) -> bool:
        return False


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
class ServerAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "account", "region", "status", "task", "created_at"]
    list_filter = ["region", "status"]
    list_select_related = ["account", "region"]
    search_fields = ["id__exact", "account__number__exact"]
    exclude = ["password_hash", "order_token"]
    show_full_result_count = False


@admin.register(ServerEvent)
class ServerEventAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["created_at", "account", "server_name", "what", "actor_name"]
    list_select_related = ["account"]
    search_fields = ["server_id__exact", "account__number__exact"]
    ordering = ["-pk"]
    show_full_result_count = False


@admin.register(SSHKey)
class SSHKeyAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "account", "kind", "fingerprint", "created_at"]
    list_select_related = ["account"]
    search_fields = ["account__number__exact", "fingerprint__exact"]

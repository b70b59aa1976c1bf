from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest


class PanelAdminSite(AdminSite):
    """Django's admin for the cloud's own staff."""

    site_header = "Cloud administration"
    site_title = "Cloud administration"
    index_title = "Accounts, roles and images"

    def has_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)


class PanelAdminConfig(AdminConfig):
    default_site = "controlpanel.admin.PanelAdminSite"

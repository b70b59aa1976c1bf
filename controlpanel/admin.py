from typing import Any, cast

from django.contrib import messages
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.functional import cached_property
from django.views.decorators.cache import never_cache

from controlpanel.http import Conflict


class PanelAdminSite(AdminSite):
    """Django's admin for the cloud's own staff."""

    site_header = "Cloud administration"
    site_title = "Cloud administration"
    index_title = "Accounts, roles and images"

    def has_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    @method_decorator(never_cache)
    @method_decorator(login_not_required)
    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """There is one way to sign in, and it locks out who tries too often."""
        if not request.user.is_authenticated:
            wanted = request.GET.get("next") or reverse("admin:index")
            return redirect(reverse("login", query={"next": wanted}))
        if not self.has_permission(request):
            raise PermissionDenied("The administration is for the cloud's own staff.")
        return redirect("admin:index")


class PanelAdminConfig(AdminConfig):
    default_site = "controlpanel.admin.PanelAdminSite"


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no whole table: what lies deeper is found by searching."""

    most = 5000

    @cached_property
    def count(self) -> int:
        rows = cast(QuerySet[Any], self.object_list)
        return len(rows.values_list("pk")[: self.most])


class Cheap(ModelAdmin):  # type: ignore[type-arg]
    """A list of rows of which there may be millions."""

    paginator = CappedPaginator
    show_full_result_count = False
    list_per_page = 50


class ReadOnly(Cheap):
    """Rows that only the panel writes, by its verbs."""

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class TellsConflicts:
    """A verb that refuses undoes the whole form, and its sentence is shown."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _telling(request, super().changeform_view, request, *args, **kwargs)  # type: ignore[misc]

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _telling(request, super().delete_view, request, *args, **kwargs)  # type: ignore[misc]


def _telling(request: HttpRequest, view: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return view(*args, **kwargs)
    except Conflict as conflict:
        messages.error(request, str(conflict))
        return redirect(request.get_full_path())

"""The panel's addresses, and beside them the page that everything is compared with."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from accounts.models import Account
from controlpanel.urls import handler403, handler404, handler500
from controlpanel.urls import urlpatterns as panel

__all__ = ["handler403", "handler404", "handler500", "urlpatterns"]


@login_not_required
def fortunes(request: HttpRequest) -> HttpResponse:
    """One query, twelve rows, a plain template: Django at its barest."""
    rows = list(Account.objects.order_by("number").values("number", "name")[:12])
    return render(request, "fortunes.html", {"rows": rows})


urlpatterns = [path("fortunes/", fortunes, name="fortunes"), *panel]

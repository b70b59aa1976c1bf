from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails


class HtmxRequest(HttpRequest):
    htmx: HtmxDetails


class Conflict(Exception):
    """The row is not, or no longer, in a state that allows the deed: 409.

    Its text is a whole sentence, shown to the user.
    """


class TooMany(Exception):
    """A limit is reached: its text is a whole sentence that names the limit."""


def text_of(request: HttpRequest, name: str) -> str:
    """A text of the URL's query, without the one character PostgreSQL keeps none of."""
    return request.GET.get(name, "").replace("\0", "")


def uuid_of(request: HttpRequest, name: str) -> UUID | None:
    """A UUID of the URL's query; for odd text one that nothing has."""
    text = request.GET.get(name)
    try:
        return UUID(text) if text else None
    except ValueError:
        return UUID(int=0)


def wants_partial(request: HtmxRequest) -> bool:
    """Tell a fragment request from one that fills the whole page."""
    htmx = request.htmx
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request


def render_page(
    request: HtmxRequest,
    template: str,
    context: dict[str, Any],
    *,
    partial: str,
    status: int = 200,
) -> HttpResponse:
    """Render the page, or only its named partial when htmx asked for a fragment."""
    if wants_partial(request):
        template = f"{template}#{partial}"
    response = render(request, template, context, status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response


def leave_for(request: HtmxRequest, url: str) -> HttpResponse:
    """Send the browser to another page, also when htmx waits for a fragment."""
    # htmx would follow a 302 by itself and swap that whole page into the element.
    if wants_partial(request):
        return HttpResponseClientRedirect(url)
    return redirect(url)

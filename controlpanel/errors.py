"""The pages for what went wrong; each kind of "no" has its status."""

import logging
import sys
from typing import Any

import psycopg
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

log = logging.getLogger("panel.http")

# As Django has them, and as its driver and the pool of its connections have them.
_AWAY = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)


def is_database_away(error: BaseException | None) -> bool:
    """Also when it did not answer in time, or a lock was not to be had."""
    # What defers jobs wraps the driver's errors in its own.
    while error is not None:
        if isinstance(error, _AWAY):
            return True
        error = error.__cause__
    return False


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    # An account's page may be missing to a user who is signed in there, so the page
    # says neither "does not exist" nor "not yours": both look alike.
    return render(request, "404.html", status=404)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What the role lacks, where the refusal knows it."""
    context: dict[str, Any] = {
        "missing": str(exception),
        "holders": getattr(exception, "holders", []),
    }
    return render(request, "403.html", context, status=403)


def server_error(request: HttpRequest) -> HttpResponse:
    """Tell a database that is away (503, soon back) from a fault of ours (500)."""
    if is_database_away(sys.exception()):
        log.error("the database is unavailable: %s", sys.exception())
        page = render_to_string("503.html")
        return HttpResponse(page, status=503, headers={"Retry-After": "5"})
    return HttpResponse(render_to_string("500.html"), status=500)

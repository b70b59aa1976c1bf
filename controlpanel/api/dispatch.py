"""The way of an API request past what only pages need.

No session, no cookie, no CSRF: a token is the only credential. Each request has an ID,
which the answer and the log name, and leaves one line in the access log.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.http.response import HttpResponseNotAllowed
from django.urls import Resolver404, ResolverMatch, resolve

from controlpanel.api import faults

log = logging.getLogger("panel.access")

REQUEST_ID = "X-Openstack-Request-Id"
View = Callable[[HttpRequest], HttpResponseBase]


def api(get_response: View) -> View:
    """Middleware: answer what is addressed to a service of the API."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        service = request.path_info.split("/", 2)[1]
        if service not in faults.DIALECTS:
            return get_response(request)
        started = time.perf_counter()
        request_id = f"req-{uuid.uuid4()}"
        response = _answer(request, service)
        response[REQUEST_ID] = request_id
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Vary", "X-Auth-Token")
        _log(request, response, request_id, time.perf_counter() - started)
        return response

    return middleware


def _answer(request: HttpRequest, service: str) -> HttpResponseBase:
    try:
        # A charset of the client's own choice would have the URL read by it.
        request.encoding = "utf-8"
        # A body is read as JSON or as data, never as a form, whatever it is called:
        # what counts failed sign-ins looks at the form, and writes it down.
        request.POST = QueryDict()
        found = _find(request.path_info)
        response: HttpResponseBase = found.func(request, *found.args, **found.kwargs)
    except Resolver404:
        return faults.answer(service, faults.NotFound(), request)
    except Exception as problem:  # the last place that can answer
        return faults.answer(service, problem, request)
    if isinstance(response, HttpResponseNotAllowed):
        allowed = response["Allow"]
        fault = faults.Fault(405, f"Only {allowed} can be used here.", Allow=allowed)
        return faults.answer(service, fault, request)
    return response


def _find(path: str) -> ResolverMatch:
    """The operation; clients disagree about the slash at the end of an address."""
    try:
        return resolve(path)
    except Resolver404:
        return resolve(path[:-1] if path.endswith("/") else f"{path}/")


def _log(
    request: HttpRequest, response: HttpResponseBase, request_id: str, seconds: float
) -> None:
    """One line of JSON: neither headers nor bodies nor queries, so no secret either."""
    if not log.isEnabledFor(logging.INFO):
        return
    caller = getattr(request, "caller", None)
    line = {
        "request": request_id,
        "method": request.method,
        "path": request.path_info[:500],
        "status": response.status_code,
        "ms": round(seconds * 1000, 1),
        "bytes": len(response.content) if isinstance(response, HttpResponse) else None,
        "account": caller.account and caller.account.pk if caller else None,
        "user": caller.user.pk if caller else None,
        "token": caller.audit_id if caller else None,
    }
    log.info("%s", json.dumps(line))

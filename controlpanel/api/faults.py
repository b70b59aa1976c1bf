"""What the API answers when it says no, in the words and shapes of each service.

The clients read the shapes: keystoneauth wants `error.message`, openstacksdk takes the
`message` beside `code`, Nova's callers one key that names the kind of fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from typing import Any

from django.core.exceptions import (
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.http.request import RawPostDataException, UnreadablePostError
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from controlpanel.errors import is_database_away
from controlpanel.http import Conflict, TooMany

log = logging.getLogger("panel.api")

MISSING = "The resource could not be found."
UNKNOWN = "The request you have made requires authentication."
BROKEN = (
    "Something went wrong on our side. Nothing was changed by halves; try again, "
    "and name the request ID to the support if it happens again."
)
AWAY = "The service is unavailable for a moment. Try again."
AWAY_SECONDS = 5
CUT_OFF = "The body of the request did not arrive whole."


class Fault(Exception):
    """A refusal with its HTTP status; the text is a sentence for the caller."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


class BadRequest(Fault):
    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class Forbidden(Fault):
    def __init__(self, message: str) -> None:
        super().__init__(403, message)


class NotFound(Fault):
    """It is not there, or not the caller's: nobody is told which."""

    def __init__(self, message: str = MISSING) -> None:
        super().__init__(404, message)


class QuotaReached(Fault):
    """As the Image API has it: 413, and the sentence names the limit."""

    def __init__(self, message: str) -> None:
        super().__init__(413, message)


# A status and a sentence to the JSON of one service.
Dialect = Callable[[HTTPStatus, str], dict[str, Any]]


def identity(status: HTTPStatus, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "title": status.phrase, "message": message}}


def image(status: HTTPStatus, message: str) -> dict[str, Any]:
    return {
        "code": f"{status.value} {status.phrase}",
        "title": status.phrase,
        "message": message,
    }


_KINDS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    503: "serviceUnavailable",
}


def compute(status: HTTPStatus, message: str) -> dict[str, Any]:
    kind = _KINDS.get(status, "computeFault")
    return {kind: {"code": status, "message": message}}


DIALECTS: dict[str, Dialect] = {
    "identity": identity,
    "image": image,
    "compute": compute,
}


def _schema(**kinds: str) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": [*kinds]}


# The same, for the OpenAPI documents.
SCHEMAS = {
    "identity": {
        "type": "object",
        "properties": {
            "error": _schema(code="integer", title="string", message="string")
        },
        "required": ["error"],
    },
    "image": _schema(code="string", title="string", message="string"),
    "compute": {
        "type": "object",
        "description": "One key, which names the kind of fault",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": _schema(code="integer", message="string"),
    },
}


PAGE = """<html>
 <head>
  <title>{title}</title>
 </head>
 <body>
  <h1>{title}</h1>
  {message}
 </body>
</html>
"""


def answer(service: str, problem: Exception, request: HttpRequest) -> HttpResponse:
    """The response to whatever an operation of the service has raised."""
    fault = fault_of(problem)
    if service == "image" and _reads_pages(request):
        title = f"{fault.status.value} {fault.status.phrase}"
        page = PAGE.format(title=title, message=escape(str(fault)))
        return HttpResponse(page, status=fault.status, headers=fault.headers)
    body = DIALECTS[service](fault.status, str(fault))
    return JsonResponse(body, status=fault.status, headers=fault.headers)


def _reads_pages(request: HttpRequest) -> bool:
    """As the Image API has it: JSON is for those who ask for it by name, and
    python-glanceclient, which takes anything, falls over that of an error.
    """
    accepted = request.headers.get("Accept", "")
    return "application/json" not in accepted and (
        "*/*" in accepted or "text/html" in accepted
    )


def fault_of(problem: Exception) -> Fault:
    match problem:
        case Fault():
            return problem
        case AuthenticationError():
            return Fault(401, UNKNOWN)
        case ValidationError():
            return BadRequest(_sentence_of(problem))
        case HttpError():
            return Fault(problem.status_code, str(problem))
        case Http404():
            return NotFound()
        case PermissionDenied():
            return Forbidden(str(problem) or "You are not authorized to do this.")
        case Conflict():
            return Fault(409, str(problem))
        case TooMany():
            return Fault(429, str(problem), Retry_After="3600")
        case RequestDataTooBig():
            return Fault(413, "The body of the request is too large.")
        case UnreadablePostError() | RawPostDataException() | MultiPartParserError():
            return BadRequest(CUT_OFF)
        case SuspiciousOperation():
            return BadRequest("This request cannot be answered.")
        case _ if is_database_away(problem):
            log.error("the database is unavailable: %s", problem)
            return Fault(503, AWAY, Retry_After=str(AWAY_SECONDS))
    log.exception("unexpected", exc_info=problem)
    return Fault(500, BROKEN)


def _sentence_of(problem: ValidationError) -> str:
    """The first thing that is wrong with the input, and where it is."""
    first = problem.errors[0]
    # ("body", "payload", "name"): where it was looked for says nothing to the caller.
    place = ".".join(str(part) for part in first.get("loc", ())[2:])
    place = place or str(first.get("loc", ("request",))[-1])
    if first.get("type") == "extra_forbidden":
        return f"There is no support for {place.rpartition('.')[2][:50]} here."
    return f"Invalid input for {place}: {first.get('msg', 'it is not valid')}."


def install(api: NinjaAPI, service: str) -> None:
    """Have all that the operations of one service raise answered in its dialect."""

    def handle(request: HttpRequest, problem: Any) -> HttpResponse:
        return answer(service, problem, request)

    for kind in (Exception, ValidationError, HttpError, AuthenticationError, Http404):
        api.add_exception_handler(kind, handle)

"""The JSON that a request of the API brings, read as distrustfully as it may be."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest

from controlpanel.api.faults import CUT_OFF, BadRequest


def read_json(request: HttpRequest) -> Any:
    """The body as an object or a list; 400 for everything else."""
    if len(request.body) < _announced(request):
        # The beginning may be JSON too, and mean something else.
        raise BadRequest(CUT_OFF)
    if not request.body:
        raise BadRequest("Body expected in request.")
    try:
        read = json.loads(request.body.decode(), parse_constant=_refuse_constant)
        # Half of a pair of surrogates is no text, and nothing could keep it.
        json.dumps(read, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise BadRequest("Malformed JSON in request body.") from None
    if not isinstance(read, dict | list):
        raise BadRequest("Unexpected body type. Expected list/dict.")
    return read


def _announced(request: HttpRequest) -> int:
    length = request.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")

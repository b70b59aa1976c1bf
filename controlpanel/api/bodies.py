"""The JSON that a request of the API brings, read as distrustfully as it may be."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest

from controlpanel.api.faults import BadRequest


def read_json(request: HttpRequest) -> Any:
    """The body as an object or a list; 400 for everything else."""
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")

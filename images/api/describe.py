"""What the OpenAPI document says of an operation besides its path.

The operations read queries and bodies themselves, since the words of a refusal have to
be the Image API's own; so the document is told here what they read.
"""

from __future__ import annotations

from typing import Any

JSON = "application/json"
OCTETS = "application/octet-stream"
IMAGE = {"type": "object", "additionalProperties": True}
ERROR = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("code", "title", "message")},
}
REFUSALS = {
    400: "The request is not sound",
    401: "No valid token",
    403: "The role falls short, or the image is another account's",
    404: "There is nothing of that name for this account",
    409: "The image is not in a state that allows this",
    410: "The image was deleted meanwhile",
    411: "The length of the data is not told",
    413: "A limit or the quota is reached",
    415: "Another media type is expected, or the data has another format",
    416: "There are no such bytes",
    429: "Too many requests, or offers, for now",
    503: "Images cannot be taken in at present",
}


def describe(
    *refusals: int,
    query: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
    body_type: str | list[str] = JSON,
    headers: dict[str, str] | None = None,
    answer: dict[str, Any] | None = None,
    answer_type: str = JSON,
    status: int = 200,
) -> dict[str, Any]:
    """For `openapi_extra`: `query` and `headers` are names with what they mean."""
    told: dict[str, Any] = {
        "parameters": [
            {"in": where, "name": name, "description": text, "schema": _text()}
            for where, names in (("query", query), ("header", headers))
            for name, text in (names or {}).items()
        ],
        "responses": {
            code: {
                "description": REFUSALS[code],
                "content": {JSON: {"schema": ERROR}},
            }
            for code in sorted({400, 401, 403, 404, 429, *refusals})
        },
    }
    if answer is not None:
        content = {"content": {answer_type: {"schema": answer}}}
        told["responses"][status] = content
    if body is not None:
        types = [body_type] if isinstance(body_type, str) else body_type
        content = {kind: {"schema": body} for kind in types}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _text() -> dict[str, Any]:
    return {"type": "string"}

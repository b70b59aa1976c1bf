"""What the OpenAPI document says of an operation besides its path.

Where an operation reads its query, headers or body itself, since the words of a refusal
have to be the service's own, the document is told here what it reads.
"""

from __future__ import annotations

from typing import Any

JSON = "application/json"
OCTETS = "application/octet-stream"
IMAGE = {"type": "object", "additionalProperties": True}
REFUSALS = {
    400: "The request is not sound",
    401: "No valid token",
    403: "The role falls short, or it is another account's",
    404: "There is nothing of that name for this account",
    406: "This version is not spoken here",
    409: "The present state does not allow this",
    410: "The image was deleted meanwhile",
    411: "The length of the data is not told",
    413: "A limit or the quota is reached, or the body is too large",
    415: "Another media type is expected, or the data has another format",
    416: "There are no such bytes",
    429: "Too many requests, sign-ins or offers, for now",
    503: "This is unavailable for a moment",
}
# A name with what it means, or with that and its schema.
Parameters = dict[str, str | tuple[str, dict[str, Any]]]


def describe(
    *refusals: int,
    query: Parameters | None = None,
    body: dict[str, Any] | None = None,
    body_type: str | list[str] = JSON,
    example: Any = None,
    headers: Parameters | None = None,
    needed: Parameters | None = None,
    answer: dict[str, Any] | None = None,
    answer_type: str = JSON,
    status: int = 200,
) -> dict[str, Any]:
    """For `openapi_extra`; `needed` are headers that must be there, and an example is
    one that is taken as it stands, but for IDs and secrets.

    What every operation may refuse with is put in by the service.
    """
    told: dict[str, Any] = {
        "parameters": [
            *_parameters("query", query),
            *_parameters("header", headers),
            *_parameters("header", needed, required=True),
        ],
        "responses": {code: {"description": REFUSALS[code]} for code in refusals},
    }
    if answer is not None:
        content = {"content": {answer_type: {"schema": answer}}}
        told["responses"][status] = content
    if body is not None:
        types = [body_type] if isinstance(body_type, str) else body_type
        content = {kind: {"schema": body} for kind in types}
        told["requestBody"] = {"required": True, "content": content}
    if example is not None:
        contents = told.setdefault("requestBody", {}).setdefault("content", {JSON: {}})
        for content in contents.values():
            content["example"] = example
    return told


def _parameters(
    where: str, names: Parameters | None, *, required: bool = False
) -> list[dict[str, Any]]:
    found = []
    for name, about in (names or {}).items():
        text, schema = (about, {}) if isinstance(about, str) else about
        found.append(
            {
                "in": where,
                "name": name,
                "description": text,
                "required": required,
                "schema": {"type": "string"} | schema,
            }
        )
    return found

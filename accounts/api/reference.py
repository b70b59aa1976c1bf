"""The page that shows the OpenAPI documents to people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from accounts.api.service import Service
from controlpanel.api.describe import REFUSALS

DEEPEST = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter, or a member of a body."""

    name: str
    place: str
    kind: str
    is_required: bool
    about: str


@dataclass(frozen=True, slots=True)
class Shown:
    """An operation as the page shows it."""

    anchor: str
    method: str
    path: str
    summary: str
    about: str
    tag: str
    needs_token: bool
    roles: str
    parameters: list[Part]
    media_types: list[str]
    members: list[Part]
    example: str
    answers: list[tuple[int, str, str]]

    def curl(self, base: str) -> str:
        """A command for a shell; what has to be put in stands in capitals."""
        path = self.path.replace("{region}", "IAD")
        for name in (part.name for part in self.parameters if part.place == "path"):
            path = path.replace(f"{{{name}}}", name.upper())
        words = ["curl", "-i" if self.method != "HEAD" else "-I"]
        if self.method not in {"GET", "HEAD"}:
            words += ["-X", self.method]
        lines = [shlex.join([*words, f"{base}{path}"])]
        if self.needs_token:
            lines.append('-H "X-Auth-Token: $TOKEN"')
        for part in self.parameters:
            if part.place == "header" and part.is_required:
                lines.append(f'-H "{part.name}: $OTHER_TOKEN"')
        if self.media_types:
            lines.append(f"-H {shlex.quote(f'Content-Type: {self.media_types[0]}')}")
            data = f"-d {shlex.quote(self.example)}" if self.example else "-T FILE"
            lines.append(data)
        return " \\\n  ".join(lines)


@login_not_required
@require_GET
def api_reference(
    request: HttpRequest, services: list[Service], name: str = "identity"
) -> HttpResponse:
    """For everyone: who writes a client need not have an account, and the documents
    tell nothing of any.
    """
    service = next((each for each in services if each.name == name), None)
    if service is None:
        raise Http404
    base = request.build_absolute_uri("/")[:-1]
    groups: dict[str, list[tuple[Shown, str]]] = {}
    for operation in _shown(service):
        curl = operation.curl(base)
        groups.setdefault(operation.tag, []).append((operation, curl))
    context = {
        "service": service,
        "services": services,
        "groups": groups,
        "document": f"/{service.name}/openapi.json",
    }
    return render(request, "accounts/api_reference.html", context)


@cache
def _shown(service: Service) -> list[Shown]:
    document = service.get_openapi_schema()
    schemas = document["components"].get("schemas", {})
    return [
        _operation(path, method, operation, schemas)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def _operation(
    path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> Shown:
    contents = operation.get("requestBody", {}).get("content", {})
    first: dict[str, Any] = next(iter(contents.values()), {})
    example = first.get("example")
    return Shown(
        anchor=operation["operationId"].rpartition("_api_")[2].replace("_", "-"),
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        about=" ".join(operation.get("description", "").split()),
        tag=operation["tags"][0],
        needs_token="security" in operation,
        roles=operation.get("x-roles", ""),
        parameters=[_parameter(each) for each in operation["parameters"]],
        media_types=list(contents),
        members=list(_members(first.get("schema", {}), schemas)),
        example=json.dumps(example) if example is not None else "",
        answers=[
            (int(code), HTTPStatus(int(code)).phrase, REFUSALS.get(int(code), ""))
            for code in operation["responses"]
        ],
    )


def _parameter(given: dict[str, Any]) -> Part:
    schema = given["schema"]
    about = given.get("description", "")
    return Part(
        given["name"], given["in"], _kind(schema), given.get("required", False), about
    )


def _members(
    schema: dict[str, Any], schemas: dict[str, Any], prefix: str = "", depth: int = 0
) -> Iterator[Part]:
    """The members of a body, those of members as `outer.inner`."""
    schema = _resolved(schema, schemas)
    if schema.get("type") == "array" and depth < DEEPEST:
        yield from _members(schema.get("items", {}), schemas, f"{prefix}[].", depth + 1)
    for name, member in schema.get("properties", {}).items():
        inner = _resolved(member, schemas)
        yield Part(
            prefix + name,
            "body",
            _kind(inner),
            name in schema.get("required", []),
            inner.get("description", ""),
        )
        if depth < DEEPEST:
            deeper = f"{prefix}{name}" if inner.get("type") == "array" else None
            yield from _members(inner, schemas, deeper or f"{prefix}{name}.", depth + 1)


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Without references, and as what it is if it is not null."""
    kinds = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    if len(kinds) == 1:
        schema = {**schema, **kinds[0]}
    if "$ref" in schema:
        return dict(schemas[schema["$ref"].rpartition("/")[2]])
    return schema


def _kind(schema: dict[str, Any]) -> str:
    """The type in a few words: "string, uuid", or the values that there are."""
    if values := schema.get("enum"):
        return " | ".join(map(str, values))
    kinds = schema.get("type") or [
        each.get("type", "object") for each in schema.get("anyOf", [{}])
    ]
    words = [" or ".join(kinds) if isinstance(kinds, list) else str(kinds)]
    if schema.get("type") == "array":
        words = [f"{_kind(schema.get('items', {}))}, several"]
    if kind := schema.get("format"):
        words.append(kind)
    if most := schema.get("maxLength"):
        words.append(f"at most {most} characters")
    return ", ".join(words)

"""JSON patches, in the two kinds that the Image API takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest

from controlpanel.api.bodies import read_json
from controlpanel.api.faults import BadRequest, Fault, Forbidden
from images.api.values import TEXTS, Draft, is_base, refuse_reserved
from images.models import Image

OLD = "application/openstack-images-v2.0-json-patch"
NEW = "application/openstack-images-v2.1-json-patch"
OPERATIONS = ("add", "remove", "replace")


@dataclass(frozen=True, slots=True)
class Operation:
    kind: str
    name: str
    # Of a tag among the tags: a number, or "-" for the end.
    place: str | None
    value: Any
    # The old kind adds nothing that is there already.
    is_old: bool


def read_patch(request: HttpRequest) -> list[Operation]:
    if request.content_type not in {OLD, NEW}:
        raise Fault(
            415,
            f"Image PATCH expects Content-Type one of: {OLD}, {NEW}",
            Accept_Patch=f"{OLD}, {NEW}",
        )
    body = read_json(request)
    if not isinstance(body, list):
        raise BadRequest("Request body must be a JSON array of operation objects.")
    return [_operation(each, is_old=request.content_type == OLD) for each in body]


def apply(operation: Operation, draft: Draft, image: Image) -> None:
    """Do it to the draft of the image; raises a Fault."""
    name = operation.name
    if name == "tags" and operation.place is not None:
        _change_tag(operation, draft, image)
        return
    has = is_base(name) or bool(
        draft.changes.get(name, getattr(image, name))
        if name in TEXTS
        else name in draft.properties
    )
    if operation.kind == "remove":
        _remove(name, draft, has=has)
        return
    if operation.kind == "replace" and not has:
        raise Fault(409, f"Property {name} does not exist.")
    if operation.kind == "add" and operation.is_old and has:
        raise Fault(409, f"Property {name} already present.")
    if name in {"disk_format", "container_format"} and not _is_queued(image):
        raise Forbidden(f"Attribute {name} can be only replaced for a queued image.")
    if name == "owner" and operation.value != image.owner_id:
        raise Forbidden("Owner can't be updated by non admin.")
    draft.set(name, operation.value)


def _remove(name: str, draft: Draft, *, has: bool) -> None:
    if is_base(name):
        raise Forbidden(f"Property {name} may not be removed.")
    if not has:
        raise Fault(409, f"Property {name} does not exist.")
    if name in TEXTS:
        draft.set(name, "")
    else:
        draft.remove_property(name)


def _change_tag(operation: Operation, draft: Draft, image: Image) -> None:
    """A single tag by its place: openstacksdk writes what changed in a list so."""
    tags: list[Any] = list(draft.changes.get("tags", image.tags))
    place = len(tags) if operation.place == "-" else int(operation.place or 0)
    if place > len(tags) or (operation.kind != "add" and place == len(tags)):
        raise BadRequest("Invalid position for a tag.")
    if operation.kind == "add":
        tags.insert(place, operation.value)
    elif operation.kind == "replace":
        tags[place] = operation.value
    else:
        del tags[place]
    draft.set("tags", tags)


def _is_queued(image: Image) -> bool:
    return image.status == Image.Status.QUEUED and not image.staged


def _operation(given: Any, *, is_old: bool) -> Operation:
    if not isinstance(given, dict):
        raise BadRequest("Operations must be JSON objects.")
    kind, pointer = _old_pointer(given) if is_old else _new_pointer(given)
    name, *deeper = _decoded(pointer)
    refuse_reserved(name)
    if deeper and not (name == "tags" and re.fullmatch("-|[0-9]{1,4}", deeper[0])):
        raise BadRequest(f"Invalid JSON pointer for this resource: '{pointer[:300]}'")
    if kind != "remove" and "value" not in given:
        raise BadRequest(f'Operation "{kind}" requires a member named "value".')
    place = deeper[0] if deeper else None
    return Operation(kind, name, place, given.get("value"), is_old)


def _new_pointer(given: dict[str, Any]) -> tuple[str, str]:
    kind = given.get("op")
    if kind not in OPERATIONS:
        said = "Unable to find `op`" if kind is None else f"Invalid operation: `{kind}`"
        raise BadRequest(
            f"{said[:300]}. It must be one of the following: {', '.join(OPERATIONS)}."
        )
    if "path" not in given:
        raise BadRequest("Unable to find 'path' in JSON Schema change")
    return str(kind), given["path"]


def _old_pointer(given: dict[str, Any]) -> tuple[str, str]:
    kinds = [kind for kind in OPERATIONS if kind in given]
    if len(kinds) != 1:
        raise BadRequest(
            "Operation objects must contain exactly one member named "
            '"add", "remove", or "replace".'
        )
    return kinds[0], given[kinds[0]]


def _decoded(pointer: Any) -> list[str]:
    """The parts of a JSON pointer: one, or two for a tag."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise BadRequest(f'Pointer `{str(pointer)[:300]}` does not start with "/".')
    parts = pointer[1:].split("/")
    if len(parts) > 2 or not all(part.strip() for part in parts):
        raise BadRequest(f"Invalid JSON pointer for this resource: '{pointer[:300]}'")
    if re.search("~(?![01])", pointer):
        raise BadRequest(
            f'Pointer `{pointer[:300]}` contains "~" not part of a recognized escape '
            "sequence."
        )
    return [part.replace("~1", "/").replace("~0", "~").strip() for part in parts]

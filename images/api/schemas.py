"""JSON schemas of what the service speaks of; python-glanceclient asks for them."""

from typing import Any

from django.http import HttpResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import NotFound
from images.api.bodies import STAGED, STATUSES, answer_json
from images.api.values import CONTAINER_FORMATS, DISK_FORMATS
from images.forms import LONGEST_TAG, MOST_DISK_GB, MOST_RAM_MB

router = Router(tags=["Schemas"])

UUID_PATTERN = (
    "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}"
    "-([0-9a-fA-F]){12}$"
)
TIME = "In UTC, to the second"
Properties = dict[str, dict[str, Any]]


def _of(kind: str | list[str], about: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about, **more}


def _told(kind: str | list[str], about: str, **more: Any) -> dict[str, Any]:
    return _of(kind, about, readOnly=True, **more)


IMAGE: Properties = {
    "id": _of("string", "Identifies the image", pattern=UUID_PATTERN),
    "name": _of(["null", "string"], "What the image is called", maxLength=255),
    "status": _told(
        "string", "How far the image is", enum=[*STATUSES.values(), STAGED, "importing"]
    ),
    "visibility": _of(
        "string",
        "Who sees the image",
        enum=["community", "public", "private", "shared"],
    ),
    "protected": _of("boolean", "Whether the image is kept from being deleted"),
    "os_hidden": _of("boolean", "Whether the usual list leaves the image out"),
    "checksum": _told(
        ["null", "string"],
        "MD5 of the data; os_hash_value is what proves it",
        maxLength=32,
    ),
    "os_hash_algo": _told(
        ["null", "string"], "What os_hash_value is calculated by", maxLength=64
    ),
    "os_hash_value": _told(["null", "string"], "Of the image's data", maxLength=128),
    "owner": _of(["null", "string"], "The number of the account", maxLength=255),
    "size": _told(["null", "integer"], "Bytes of the data"),
    "virtual_size": _told(["null", "integer"], "Bytes of the disk"),
    "container_format": _of(
        ["null", "string"],
        "What the disk is wrapped in",
        enum=[None, *CONTAINER_FORMATS],
    ),
    "disk_format": _of(
        ["null", "string"], "The format of the data", enum=[None, *DISK_FORMATS]
    ),
    "created_at": _told("string", TIME),
    "updated_at": _told("string", TIME),
    "tags": _of(
        "array",
        "Words to find the image by",
        items={"type": "string", "maxLength": LONGEST_TAG},
    ),
    "min_ram": _of("integer", "MB a server needs", minimum=0, maximum=MOST_RAM_MB),
    "min_disk": _of("integer", "GB a server needs", minimum=0, maximum=MOST_DISK_GB),
    "self": _told("string", "Where the image is"),
    "file": _told("string", "Where its data is"),
    "schema": _told("string", "Where this schema is"),
}
IMAGE_LINKS = [
    {"rel": "self", "href": "{self}"},
    {"rel": "enclosure", "href": "{file}"},
    {"rel": "describedby", "href": "{schema}"},
]
MEMBER: Properties = {
    "member_id": _of("string", "The number of the account"),
    "image_id": _of("string", "Identifies the image", pattern=UUID_PATTERN),
    "created_at": _of("string", TIME),
    "updated_at": _of("string", TIME),
    "status": _of(
        "string", "What it answered", enum=["pending", "accepted", "rejected"]
    ),
    "schema": _told("string", "Where this schema is"),
}
TASK: Properties = {
    "id": _of("string", "Identifies the task", pattern=UUID_PATTERN),
    "type": _of("string", "What kind of task it is"),
    "status": _of(
        "string",
        "How far it is",
        enum=["pending", "processing", "success", "failure"],
    ),
    "owner": _of("string", "The number of the account"),
    "created_at": _of("string", TIME),
    "updated_at": _of("string", TIME),
    "self": _told("string", "Where the task is"),
    "schema": _told("string", "Where this schema is"),
}


def _one(name: str, properties: Properties) -> dict[str, Any]:
    return {"name": name, "properties": properties}


def _several(name: str, one: dict[str, Any]) -> dict[str, Any]:
    links = {each: {"type": "string"} for each in ("first", "next", "schema")}
    return {
        "name": name,
        "properties": {name: {"type": "array", "items": one}, **links},
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


_image = _one("image", IMAGE) | {
    "additionalProperties": {"type": "string"},
    "links": IMAGE_LINKS,
}
_member, _task = _one("member", MEMBER), _one("task", TASK)
SCHEMAS = {
    "image": _image,
    "images": _several("images", _image),
    "member": _member,
    "members": _several("members", _member),
    "task": _task,
    "tasks": _several("tasks", _task),
}


@router.get(
    "/{region}/v2/schemas/{name}",
    summary="Show a schema: image, images, member, members, task or tasks",
    openapi_extra=describe(answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def show_schema(request: ApiRequest, region: str, name: str) -> HttpResponse:
    if name not in SCHEMAS:
        raise NotFound
    return answer_json(SCHEMAS[name])

"""The images of a region: listed in pages, and new ones."""

from typing import Any
from uuid import UUID

from django.http import HttpResponse, QueryDict
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.models import QuotaReached as AccountFull
from accounts.permissions import Capability
from controlpanel.api.bodies import read_json
from controlpanel.api.describe import IMAGE, Parameters, describe
from controlpanel.api.faults import BadRequest, NotFound, QuotaReached
from images.api.bodies import Row, answer_json
from images.api.discovery import IMPORT_METHODS
from images.api.filters import ANSWERS, VISIBILITIES, Filters
from images.api.rows import SORT_KEYS, Order, find, page_of
from images.api.values import Draft
from images.models import Image

router = Router(tags=["Images"])

USUAL_LIMIT = 25
MOST = 1000
_FLAG = {"enum": ["true", "false"]}
_COUNT = {"type": "integer", "minimum": 0}
_BYTES = {"type": "integer"}
_SEVERAL = {"type": "array", "items": {"type": "string"}}
_TIME = (
    "A time in ISO 8601, compared to the second; before it may stand gt:, gte:, eq:, "
    "neq:, lt: or lte:"
)
QUERY: Parameters = {
    "name": "A name, or in: and names with commas between them",
    "id": "An ID, or in: and several",
    "visibility": ("Who sees the image", {"enum": VISIBILITIES}),
    "member_status": (
        "Of the images offered those that were answered so; accepted if not given",
        {"enum": [*ANSWERS, "all"]},
    ),
    "owner": "The number of an account",
    "status": "A status, or in: and several",
    "tag": ("A tag; all of them have to be there", _SEVERAL),
    "protected": ("Own images that are, or are not, kept from deletion", _FLAG),
    "os_hidden": ("Those that are hidden from the usual list", _FLAG),
    "container_format": "A format, or in: and several",
    "disk_format": "A format, or in: and several",
    "size_min": ("Bytes at least", _BYTES),
    "size_max": ("Bytes at most", _BYTES),
    "min_disk": ("GB, exactly; also min_disk_min and min_disk_max", _BYTES),
    "min_ram": ("MB, exactly; also min_ram_min and min_ram_max", _BYTES),
    "created_at": _TIME,
    "updated_at": _TIME,
    "checksum": "The MD5 sum of the data",
    "os_hash_value": "SHA-256 of the data",
    "sort_key": (
        "Keys to sort by",
        {"type": "array", "items": {"type": "string", "enum": [*SORT_KEYS]}},
    ),
    "sort_dir": (
        "asc or desc (usual): one for all keys, or as many as there are keys",
        {"type": "array", "items": {"type": "string", "enum": ["asc", "desc"]}},
    ),
    "sort": "name:asc,created_at:desc and so on, in place of the two",
    "limit": (f"At most so many: {USUAL_LIMIT} if not given, {MOST} at most", _COUNT),
    "marker": ("The last image of the page before", {"format": "uuid"}),
}


EXAMPLE = {
    "name": "web-golden",
    "container_format": "bare",
    "disk_format": "qcow2",
    "min_disk": 10,
    "tags": ["nightly"],
    "hw_disk_bus": "virtio",
}


@router.get(
    "/{region}/v2/images",
    summary="List images",
    openapi_extra=describe(query=QUERY, answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def list_images(request: ApiRequest, region: str) -> HttpResponse:
    """Own images, base images, and images of other accounts that this one accepted.

    Any further name in the query is a property, which has to have that value.
    """
    query = request.GET
    given = {name: query.getlist(name) for name in query}
    if any("\0" in text for texts in given.values() for text in (*texts, *given)):
        raise BadRequest("There is no such character in any value.")
    filters = Filters(given, request.account.pk)
    order, limit = _order(given), _limit(given)
    after = _marker(request, region, given)
    rows = page_of(
        request.account,
        region,
        filters.branches(),
        order,
        limit=limit + 1 if limit else 0,
        after=after,
        is_usual=filters.is_usual,
    )
    return answer_json(_page(request, rows, limit))


@router.post(
    "/{region}/v2/images",
    summary="Create an image, whose data is sent afterwards",
    response={201: None},
    openapi_extra=describe(
        409, 413, body=IMAGE, example=EXAMPLE, answer=IMAGE, status=201
    ),
)
@requires(Capability.EDIT_IMAGES)
def create_image(request: ApiRequest, region: str) -> HttpResponse:
    """Its visibility is shared, that is private until a member is added."""
    body = read_json(request)
    if not isinstance(body, dict):
        raise BadRequest("Provided object does not match schema 'image'")
    image_id = _read_id(body.pop("id", None))
    draft = Draft(request.account.pk, {})
    draft.changes["container_format"] = ""
    for name, value in body.items():
        draft.set(name, value)
    try:
        image = Image.objects.register(
            request.account,
            region=region,
            by=request.user,
            image_id=image_id,
            **draft.finish(),
        )
    except AccountFull as limit:
        raise QuotaReached(str(limit)) from None
    return answer_json(
        find(request.account, region, image.pk).body_for(request.account.pk),
        status=201,
        Location=f"/v2/images/{image.pk}",
        OpenStack_image_import_methods=",".join(IMPORT_METHODS),
    )


def _page(request: ApiRequest, rows: list[Row], limit: int) -> dict[str, object]:
    number = request.account.pk
    query: QueryDict = request.GET.copy()
    query.pop("marker", None)
    first = query.urlencode()
    body: dict[str, object] = {
        "images": [row.body_for(number) for row in rows[:limit]],
        "first": f"/v2/images?{first}" if first else "/v2/images",
        "schema": "/v2/schemas/images",
    }
    if len(rows) > limit:
        query["marker"] = str(rows[limit - 1].id)
        body["next"] = f"/v2/images?{query.urlencode()}"
    return body


def _limit(given: dict[str, list[str]]) -> int:
    if "limit" not in given:
        return USUAL_LIMIT
    try:
        limit = int(given["limit"][-1])
    except ValueError:
        raise BadRequest("limit param must be an integer") from None
    if limit < 0:
        raise BadRequest("limit param must be positive")
    return min(limit, MOST)


def _marker(
    request: ApiRequest, region: str, given: dict[str, list[str]]
) -> Row | None:
    if "marker" not in given:
        return None
    marker = given["marker"][-1]
    try:
        return find(request.account, region, UUID(marker))
    except (ValueError, NotFound):
        raise BadRequest(f"No image found with ID {marker[:200]}") from None


def _order(given: dict[str, list[str]]) -> Order:
    if "sort" in given:
        if "sort_key" in given or "sort_dir" in given:
            raise BadRequest("Old and new sorting syntax cannot be combined")
        pairs = [each.partition(":") for each in given["sort"][-1].strip().split(",")]
        keys = [key.strip() for key, _, _ in pairs]
        directions = [direction.strip() or "desc" for _, _, direction in pairs]
    else:
        keys = [key.strip() for key in given.get("sort_key", ["created_at"])]
        directions = [each.strip() for each in given.get("sort_dir", ["desc"])]
        if len(directions) == 1:
            directions *= len(keys)
    for key in keys:
        if key not in SORT_KEYS:
            raise BadRequest(
                f"Invalid sort key: {key[:200]}. It must be one of the following: "
                f"{', '.join(SORT_KEYS)}."
            )
    for direction in directions:
        if direction not in {"asc", "desc"}:
            raise BadRequest(f"Invalid sort direction: {direction[:200]}")
    if len(keys) != len(directions):
        raise BadRequest("Number of sort dirs does not match the number of sort keys")
    # The last two make the order complete, so that a marker has one place in it.
    chosen = dict(reversed(list(zip(keys, directions, strict=True))))
    order = {key: chosen[key] for key in dict.fromkeys(keys)}
    for key in ("created_at", "id"):
        order.setdefault(key, directions[-1])
    return Order(tuple(order), tuple(each == "desc" for each in order.values()))


def _read_id(given: Any) -> UUID | None:
    if given is None:
        return None
    try:
        if isinstance(given, str) and len(given) == 36:
            return UUID(given)
    except ValueError:
        pass
    raise BadRequest("Provided object does not match schema 'image': id: it is no UUID")

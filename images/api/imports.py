"""Imports: what was staged becomes the data of the image. Nothing is ever fetched."""

from uuid import UUID

from django.http import HttpResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.bodies import read_json
from controlpanel.api.describe import describe
from controlpanel.api.faults import BadRequest, Fault
from images.api.data import saying_no
from images.api.discovery import IMPORT_METHODS
from images.api.images import NOT_THEIRS
from images.api.rows import get_own
from images.intake import check, or_await_import_again
from images.models import Image

router = Router(tags=["Image data"])

BODY = {
    "type": "object",
    "properties": {
        "method": {
            "type": "object",
            "properties": {"name": {"type": "string", "enum": IMPORT_METHODS}},
            "required": ["name"],
        }
    },
    "required": ["method"],
}
EXAMPLE = {"method": {"name": "glance-direct"}}


@router.post(
    "/{region}/v2/images/{uuid:image_id}/import",
    summary="Import what was staged",
    response={202: None},
    openapi_extra=describe(409, 413, 415, 503, body=BODY, example=EXAMPLE),
)
@requires(Capability.EDIT_IMAGES)
def import_image(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """Taken on at once; the status of the image tells when it is done."""
    _read_method(read_json(request))
    refusal = NOT_THEIRS.format("import_image")
    image = get_own(request.account, region, image_id, refusal=refusal)
    if image.is_active:
        raise Fault(409, "Image with status active cannot be target for import")
    if image.status != Image.Status.QUEUED or not (image.staged and image.size):
        raise Fault(
            409,
            "Image needs to be staged before 'glance-direct' method can be used",
        )
    for name in ("container_format", "disk_format"):
        if not getattr(image, name):
            raise Fault(409, f"'{name}' needs to be set before import")
    with saying_no(image):
        image.start_saving(staged=True)
        with or_await_import_again(image):
            check(image, request.account, size=image.size)
    return HttpResponse(status=202)


def _read_method(body: object) -> None:
    method = body.get("method") if isinstance(body, dict) else None
    if not isinstance(method, dict):
        raise BadRequest("Import request requires a 'method' field.")
    if "name" not in method:
        raise BadRequest("Import request requires a 'name' field.")
    if method["name"] not in IMPORT_METHODS:
        raise BadRequest(f"Unknown import method name '{str(method['name'])[:100]}'.")

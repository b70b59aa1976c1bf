"""One image: shown, changed, deleted."""

from uuid import UUID

from django.db import transaction
from django.http import HttpResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.describe import IMAGE, describe
from controlpanel.api.faults import Forbidden
from images.api.bodies import answer_json
from images.api.patches import NEW, OLD, OPERATIONS, apply, read_patch
from images.api.rows import find, get_own
from images.api.values import Draft
from images.models import ImageProtected

router = Router(tags=["Images"])

NOT_THEIRS = "You are not authorized to complete {} action."
PATCH = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "op": {"type": "string", "enum": [*OPERATIONS]},
            "path": {"type": "string", "pattern": "^/[^/]"},
            "value": {},
        },
    },
}
EXAMPLE = [{"op": "replace", "path": "/name", "value": "web-golden"}]


@router.get(
    "/{region}/v2/images/{uuid:image_id}",
    summary="Show an image",
    openapi_extra=describe(answer=IMAGE),
)
@requires(Capability.VIEW_IMAGES)
def show_image(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """An own image, a base image, or one that was offered, whatever was answered."""
    row = find(request.account, region, image_id)
    return answer_json(row.body_for(request.account.pk))


@router.patch(
    "/{region}/v2/images/{uuid:image_id}",
    summary="Change an image",
    openapi_extra=describe(
        409, 413, 415, body=PATCH, body_type=[NEW, OLD], example=EXAMPLE, answer=IMAGE
    ),
)
@requires(Capability.EDIT_IMAGES)
def update_image(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """All operations of the patch, or none."""
    operations = read_patch(request)
    with transaction.atomic():
        image = get_own(
            request.account,
            region,
            image_id,
            refusal=NOT_THEIRS.format("modify_image"),
            lock=True,
        )
        draft = Draft(request.account.pk, image.properties)
        for operation in operations:
            apply(operation, draft, image)
        if changes := draft.finish():
            image.edit(**changes)
    row = find(request.account, region, image_id)
    return answer_json(row.body_for(request.account.pk))


@router.delete(
    "/{region}/v2/images/{uuid:image_id}",
    summary="Delete an image, and take it back from everyone",
    response={204: None},
    openapi_extra=describe(409),
)
@requires(Capability.DELETE_IMAGES)
def delete_image(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """Servers that run from it go on."""
    refusal = NOT_THEIRS.format("delete_image")
    image = get_own(request.account, region, image_id, refusal=refusal)
    try:
        image.delete_with_shares(by=request.user)
    except ImageProtected:
        raise Forbidden(
            f"Image {image_id} is protected and cannot be deleted."
        ) from None
    return HttpResponse(status=204)

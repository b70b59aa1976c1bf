"""Switching an image off and on again."""

from uuid import UUID

from django.http import HttpResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import Forbidden
from images.api.images import NOT_THEIRS
from images.api.rows import get_own
from images.models import Image, ImageConflict

router = Router(tags=["Actions"])


@router.post(
    "/{region}/v2/images/{uuid:image_id}/actions/deactivate",
    summary="Deactivate an image: nothing boots from it, and it cannot be downloaded",
    response={204: None},
    openapi_extra=describe(),
)
@requires(Capability.EDIT_IMAGES)
def deactivate(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    refusal = NOT_THEIRS.format("deactivate")
    image = get_own(request.account, region, image_id, refusal=refusal)
    if image.status != Image.Status.DEACTIVATED:
        try:
            image.switch_off()
        except ImageConflict:
            raise Forbidden(
                f"Not allowed to deactivate image in status '{image.status}'"
            ) from None
    return HttpResponse(status=204)


@router.post(
    "/{region}/v2/images/{uuid:image_id}/actions/reactivate",
    summary="Reactivate an image that its owner deactivated",
    response={204: None},
    openapi_extra=describe(),
)
@requires(Capability.EDIT_IMAGES)
def reactivate(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    refusal = NOT_THEIRS.format("reactivate")
    image = get_own(request.account, region, image_id, refusal=refusal)
    if not image.is_active:
        try:
            image.switch_on()
        except ImageConflict:
            raise Forbidden(
                image.status_reason
                or f"Not allowed to reactivate image in status '{image.status}'"
            ) from None
    return HttpResponse(status=204)

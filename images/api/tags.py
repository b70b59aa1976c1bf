"""Tags, one by one."""

from uuid import UUID

from django.db import transaction
from django.http import HttpResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import NotFound
from images.api.rows import get_own
from images.api.values import read_tag, read_tags

router = Router(tags=["Tags"])


@router.put(
    "/{region}/v2/images/{uuid:image_id}/tags/{tag}",
    summary="Add a tag",
    response={204: None},
    openapi_extra=describe(413),
)
@requires(Capability.EDIT_IMAGES)
@transaction.atomic
def add_tag(request: ApiRequest, region: str, image_id: UUID, tag: str) -> HttpResponse:
    """A tag that is there already stays."""
    refusal = f"Not allowed to update tags for image {image_id}."
    image = get_own(request.account, region, image_id, refusal=refusal, lock=True)
    image.edit(tags=read_tags("tags", [*image.tags, read_tag(tag)]))
    return HttpResponse(status=204)


@router.delete(
    "/{region}/v2/images/{uuid:image_id}/tags/{tag}",
    summary="Remove a tag",
    response={204: None},
    openapi_extra=describe(),
)
@requires(Capability.EDIT_IMAGES)
@transaction.atomic
def remove_tag(
    request: ApiRequest, region: str, image_id: UUID, tag: str
) -> HttpResponse:
    refusal = f"Not allowed to delete tags for image {image_id}."
    image = get_own(request.account, region, image_id, refusal=refusal, lock=True)
    if tag not in image.tags:
        raise NotFound(f"Image {image_id} has no such tag.")
    image.edit(tags=[each for each in image.tags if each != tag])
    return HttpResponse(status=204)

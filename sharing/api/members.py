"""The members of an image: the accounts that it is shared with.

The producer sees all of them, adds and removes; a consumer sees itself, and answers.
"""

from functools import cache
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpResponse
from ninja import Router

from accounts import numbers
from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.bodies import read_json
from controlpanel.api.describe import describe
from controlpanel.api.faults import BadRequest, Fault, Forbidden, NotFound, QuotaReached
from controlpanel.prepared import Gap, Prepared
from images.api.bodies import Row, answer_json, time_of
from images.api.rows import find, get_own
from images.api.schemas import MEMBER
from sharing.models import (
    AlreadyShared,
    ImageShare,
    ShareConflict,
    ShareLimit,
    ShareStatus,
)

router = Router(tags=["Members"])

ONLY_SHARED = "Only shared images have members."
ANSWER = {"type": "object", "properties": MEMBER}
PLACE = "/{region}/v2/images/{uuid:image_id}/members"
# All that is told of a share; the number comes first, and is what one is found by.
COLUMNS = ("consumer_number", "image_id", "status", "created_at", "updated_at")


@router.get(
    PLACE,
    summary="List the members of an image",
    openapi_extra=describe(answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def list_members(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """All of them for the producer; a consumer finds itself alone."""
    rows = _rows(request, region, image_id)
    if not rows:
        image = _visible(request, region, image_id)
        if image.visibility != "shared":
            raise Forbidden(
                f"Not allowed to list members for image {image_id}: {ONLY_SHARED}"
            )
    members = [_body(*row) for row in rows]
    return answer_json({"members": members, "schema": "/v2/schemas/members"})


@router.post(
    PLACE,
    summary="Share an image with an account",
    openapi_extra=describe(
        *(409, 413),
        body={
            "type": "object",
            "properties": {"member": {"type": "string", "pattern": "^[0-9]{8}$"}},
            "required": ["member"],
        },
        example={"member": "82000126"},
        answer=ANSWER,
    ),
)
@requires(Capability.SHARE_IMAGES)
def add_member(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """An offer, which the account answers. A number that nobody has is answered like
    any other. What the panel asks before sharing is not asked here, and the consumer
    reads that nothing has been declared.
    """
    number = _read_number(read_json(request))
    refusal = f"Not allowed to create members for image {image_id}."
    _visible(request, region, image_id)
    image = get_own(request.account, region, image_id, refusal=refusal)
    if image.private:
        raise Forbidden(refusal)
    try:
        share = ImageShare.objects.offer(image, to=number, by=request.user)
    except AlreadyShared:
        raise Fault(
            409, f"Member {number} is duplicated for image {image_id}"
        ) from None
    except ShareLimit as limit:
        raise QuotaReached(
            f"Image member limit exceeded for image {image_id}: {limit}"
        ) from None
    return _answer(share)


@router.get(
    f"{PLACE}/{{member_id}}",
    summary="Show a member",
    openapi_extra=describe(answer=ANSWER),
)
@requires(Capability.VIEW_IMAGES)
def show_member(
    request: ApiRequest, region: str, image_id: UUID, member_id: str
) -> HttpResponse:
    """Any for the producer, itself for a consumer: others are not found."""
    for row in _rows(request, region, image_id):
        if row[0] == member_id:
            return answer_json(_body(*row))
    _visible(request, region, image_id)
    raise _unknown(image_id, member_id)


@router.put(
    f"{PLACE}/{{member_id}}",
    summary="Answer an offer: accepted, rejected, or pending again",
    openapi_extra=describe(
        409,
        body={
            "type": "object",
            "properties": {"status": {"type": "string", "enum": ShareStatus.values}},
            "required": ["status"],
        },
        example={"status": "accepted"},
        answer=ANSWER,
    ),
)
@requires(Capability.ANSWER_SHARES)
def update_member(
    request: ApiRequest, region: str, image_id: UUID, member_id: str
) -> HttpResponse:
    """By the consumer alone, and with any of the three at any time."""
    status = _read_status(read_json(request))
    image = _visible(request, region, image_id)
    if image.visibility != "shared" or image.owner_id == request.account.pk:
        raise Forbidden(f"Not allowed to update members for image {image_id}.")
    if member_id != request.account.pk:
        raise _unknown(image_id, member_id)
    shares = ImageShare.objects.received_by(request.account)
    share = shares.select_related("image").filter(image=image_id).first()
    if share is None:  # withdrawn in this very moment
        raise NotFound(f"Image {image_id} not found.")
    if status not in ShareStatus.values:
        raise BadRequest(
            'Incorrect request: Status must be "pending", "accepted" or "rejected".'
        )
    share.set_status(ShareStatus(status), by=request.user)
    return _answer(share)


@router.delete(
    f"{PLACE}/{{member_id}}",
    summary="Stop sharing an image with an account",
    response={204: None},
    openapi_extra=describe(),
)
@requires(Capability.UNSHARE_IMAGES)
def remove_member(
    request: ApiRequest, region: str, image_id: UUID, member_id: str
) -> HttpResponse:
    """By the producer alone: the consumer loses the image at once."""
    image = _visible(request, region, image_id)
    if image.visibility != "shared" or image.owner_id != request.account.pk:
        raise Forbidden(f"Not allowed to delete members for image {image_id}.")
    shares = ImageShare.objects.sent_by(request.account).filter(image=image_id)
    is_number = numbers.is_valid(member_id)
    share = shares.filter(consumer_number=member_id).first() if is_number else None
    if share is None:
        raise _unknown(image_id, member_id)
    try:
        share.revoke(by=request.user)
    except ShareConflict:
        raise _unknown(image_id, member_id) from None
    return HttpResponse(status=204)


def _rows(request: ApiRequest, region: str, image_id: UUID) -> list[tuple[Any, ...]]:
    """The members that the account may see."""
    return _shares().run(
        {"account": request.account.pk, "region": region, "image": image_id}
    )


@cache
def _shares() -> Prepared:
    either = Q(image__owner=Gap("account")) | Q(consumer=Gap("account"))
    shares = ImageShare.objects.filter(either, image=Gap("image"), region=Gap("region"))
    return Prepared(shares.order_by("created_at", "id").values_list(*COLUMNS))


def _visible(request: ApiRequest, region: str, image_id: UUID) -> Row:
    try:
        return find(request.account, region, image_id)
    except NotFound:
        raise NotFound(f"Image {image_id} not found.") from None


def _unknown(image_id: UUID, member_id: str) -> NotFound:
    return NotFound(
        f"{member_id[:100]} not found in the member list of the image {image_id}."
    )


def _read_number(body: Any) -> str:
    if not isinstance(body, dict):
        raise BadRequest('Expected a member in the form: {"member": "image_id"}')
    if "member" not in body:
        raise BadRequest("Member to be added not specified")
    number = body["member"]
    if not number:
        raise BadRequest("Member can't be empty")
    if not isinstance(number, str) or not numbers.is_valid(number):
        raise BadRequest(
            "A member is the number of an account: 8 digits, of which the last "
            "confirms the others."
        )
    return number


def _read_status(body: Any) -> Any:
    if not isinstance(body, dict):
        raise BadRequest('Expected a status in the form: {"status": "status"}')
    if "status" not in body:
        raise BadRequest("Status not specified")
    return body["status"]


def _answer(share: ImageShare) -> HttpResponse:
    return answer_json(_body(*(getattr(share, column) for column in COLUMNS)))


def _body(
    number: str, image_id: UUID, status: str, created_at: Any, updated_at: Any
) -> dict[str, str]:
    return {
        "member_id": number,
        "image_id": str(image_id),
        "status": status,
        "created_at": time_of(created_at),
        "updated_at": time_of(updated_at),
        "schema": "/v2/schemas/member",
    }

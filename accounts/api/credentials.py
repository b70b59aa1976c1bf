"""Application credentials: a program's own key, with fewer rights than its user."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.http import HttpResponse, JsonResponse
from django.utils import timezone
from ninja import Router, Schema
from pydantic import Field

from accounts.api.bodies import credential_body, listed
from accounts.api.gate import UNSCOPED, ApiRequest
from accounts.models import ApplicationCredential
from accounts.permissions import Role
from controlpanel.api.describe import describe
from controlpanel.api.faults import BadRequest, Forbidden, NotFound

router = Router(tags=["Application credentials"])

NO_FURTHER = "An application credential can neither make nor delete credentials."


EXAMPLE = {
    "application_credential": {
        "name": "nightly",
        "description": "Shares the image of the night",
        "roles": [{"name": "identity:user-admin"}],
        "expires_at": "2999-12-31T00:00:00Z",
    }
}


class RoleIn(Schema):
    id: str | None = None
    name: str | None = None


class Wanted(Schema):
    name: str = Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")
    description: str | None = Field(None, max_length=255, pattern=r"^[^\x00]*$")
    roles: list[RoleIn] | None = Field(None, max_length=20)
    expires_at: datetime | None = None
    unrestricted: bool = False
    secret: str | None = None
    access_rules: list[Any] | None = None


class NewCredential(Schema):
    application_credential: Wanted


@router.get(
    "/users/{user_id}/application_credentials",
    summary="List one's application credentials",
    response=dict[str, Any],
)
def list_credentials(
    request: ApiRequest, user_id: str, name: str | None = None
) -> HttpResponse:
    _insist_on_self(request, user_id)
    mine = ApplicationCredential.objects.filter(user=request.user)
    if name is not None:
        mine = mine.filter(name=name.replace("\0", ""))
    bodies = [credential_body(request, each) for each in mine]
    return JsonResponse(listed(request, "application_credentials", bodies))


@router.post(
    "/users/{user_id}/application_credentials",
    summary="Make an application credential",
    response={201: dict[str, Any]},
    openapi_extra=describe(409, example=EXAMPLE),
)
def create_credential(
    request: ApiRequest, user_id: str, body: NewCredential
) -> HttpResponse:
    """For the token's project. The secret is in this answer and nowhere else."""
    _insist_on_self(request, user_id)
    _insist_on_person(request)
    wanted, account = body.application_credential, request.caller.account
    if account is None:
        raise Forbidden(UNSCOPED)
    if wanted.unrestricted or wanted.access_rules or wanted.secret:
        raise BadRequest(
            "Credentials here are restricted, follow roles and not rules of access, "
            "and get a secret that is made for them."
        )
    made = ApplicationCredential.objects.make(
        request.user,
        account,
        name=wanted.name,
        description=wanted.description or "",
        roles=_roles(request, wanted.roles),
        expires_at=_end(wanted.expires_at),
    )
    credential = credential_body(request, made) | {"secret": made.secret}
    return JsonResponse({"application_credential": credential}, status=201)


@router.get(
    "/users/{user_id}/application_credentials/{credential_id}",
    summary="Show an application credential",
    response=dict[str, Any],
)
def show_credential(
    request: ApiRequest, user_id: str, credential_id: str
) -> HttpResponse:
    _insist_on_self(request, user_id)
    found = _find(request, credential_id)
    return JsonResponse({"application_credential": credential_body(request, found)})


@router.delete(
    "/users/{user_id}/application_credentials/{credential_id}",
    summary="Delete an application credential",
    response={204: None},
)
def delete_credential(
    request: ApiRequest, user_id: str, credential_id: str
) -> HttpResponse:
    """Its tokens end with it."""
    _insist_on_self(request, user_id)
    _insist_on_person(request)
    _find(request, credential_id).delete()
    return HttpResponse(status=204)


def _insist_on_self(request: ApiRequest, user_id: str) -> None:
    if user_id != str(request.user.pk):
        raise Forbidden("You are not authorized to perform the requested action.")


def _insist_on_person(request: ApiRequest) -> None:
    if request.caller.credential_id:
        raise Forbidden(NO_FURTHER)


def _find(request: ApiRequest, credential_id: str) -> ApplicationCredential:
    mine = ApplicationCredential.objects.filter(user=request.user)
    try:
        found = mine.filter(pk=UUID(credential_id)).first()
    except ValueError:
        found = None
    if found is None:
        raise NotFound("Could not find application credential.")
    return found


def _roles(request: ApiRequest, wanted: list[RoleIn] | None) -> list[Role]:
    """Those that were named, by ID or name (the same); else all of the token's."""
    if not wanted:
        return sorted(request.caller.roles)
    try:
        return [Role(each.id or each.name or "") for each in wanted]
    except ValueError as unknown:
        raise BadRequest(f"There is no such role: {unknown}.") from None


def _end(wanted: datetime | None) -> datetime | None:
    """A time without a zone is UTC, as everywhere in this API."""
    if wanted is None:
        return None
    try:
        end = wanted.astimezone(UTC) if wanted.tzinfo else wanted.replace(tzinfo=UTC)
    except OverflowError:
        raise BadRequest("The time of expiry is out of reach.") from None
    if end <= timezone.now():
        raise BadRequest("The time of expiry is over already.")
    return end

"""Key pairs: the account's SSH keys. Only public keys are ever known here."""

from typing import Any

from django.http import HttpResponse, JsonResponse
from ninja import Path, Router, Schema
from pydantic import Field

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import BadRequest, Fault, Forbidden, NotFound
from controlpanel.http import TooMany
from servers.api.bodies import keypair_body, time_of
from servers.keys import KeyRefused
from servers.models import SSHKey

router = Router(tags=["Key pairs"])


EXAMPLE = {
    "keypair": {
        "name": "laptop",
        "public_key": "ssh-ed25519 "
        "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
    }
}


class KeypairIn(Schema):
    name: str = Field(min_length=1, max_length=100)
    public_key: str | None = Field(None, max_length=4000)


class NewKeypair(Schema):
    keypair: KeypairIn


@router.get("/os-keypairs", summary="List key pairs", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def list_keypairs(request: ApiRequest, region: Path[str]) -> HttpResponse:
    keys = request.account.ssh_keys.all()
    return JsonResponse({"keypairs": [{"keypair": keypair_body(key)} for key in keys]})


@router.post(
    "/os-keypairs",
    summary="Import a public key",
    response=dict[str, Any],
    openapi_extra=describe(409, example=EXAMPLE),
)
@requires(Capability.CREATE_SERVERS)
def create_keypair(
    request: ApiRequest, region: Path[str], body: NewKeypair
) -> HttpResponse:
    """A pair is not generated here: a private key belongs where it was made."""
    wanted = body.keypair
    if not wanted.name.isprintable() or "/" in wanted.name:
        raise BadRequest("The name has a slash, or characters that cannot be seen.")
    if not wanted.public_key:
        raise BadRequest("Give a public_key: key pairs are not generated here.")
    try:
        key = SSHKey.add(
            request.account,
            name=wanted.name,
            public_key=wanted.public_key,
            by=request.user,
        )
    except KeyRefused as refusal:
        raise BadRequest(str(refusal)) from None
    except SSHKey.Taken:
        raise Fault(409, f"Key pair '{wanted.name}' already exists.") from None
    except TooMany as refusal:
        raise Forbidden(str(refusal)) from None
    return JsonResponse({"keypair": _in_full(request, key)})


@router.get("/os-keypairs/{name}", summary="Show a key pair", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def show_keypair(request: ApiRequest, region: Path[str], name: str) -> HttpResponse:
    return JsonResponse({"keypair": _in_full(request, _find(request, name))})


@router.delete("/os-keypairs/{name}", summary="Delete a key pair", response={202: None})
@requires(Capability.CREATE_SERVERS)
def delete_keypair(request: ApiRequest, region: Path[str], name: str) -> HttpResponse:
    """Servers that have the key keep it."""
    _find(request, name).delete()
    return HttpResponse(status=202)


def _find(request: ApiRequest, name: str) -> SSHKey:
    key = request.account.ssh_keys.filter(name=name.replace("\0", "")).first()
    if key is None:
        raise NotFound(f"Keypair {name[:100]} not found.")
    return key


def _in_full(request: ApiRequest, key: SSHKey) -> dict[str, Any]:
    return keypair_body(key) | {
        "user_id": key.created_by,
        "created_at": time_of(key.created_at),
        "deleted": False,
        "deleted_at": None,
        "updated_at": None,
    }

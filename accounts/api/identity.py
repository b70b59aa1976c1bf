"""Identity v3: who a client is, for which account, and where the services are.

A project is an account, by number or by name; there is one domain, Default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI

from accounts.api.catalog import catalog
from accounts.api.gate import ApiRequest, TokenAuth
from accounts.models import Account, Caller, Token, User
from controlpanel.api import faults

DOMAIN = {"id": "default", "name": "Default"}

api = NinjaAPI(
    title="Identity",
    version="3.14",
    description=__doc__,
    urls_namespace="identity",
    openapi_url="/openapi.json",
    docs_url=None,
    auth=TokenAuth(),
)
faults.install(api, "identity")


@api.get("/v3/auth/tokens", summary="Look at a token")
def show_token(request: ApiRequest) -> HttpResponse:
    """What the token in X-Subject-Token stands for: one's own tokens only."""
    plain = request.headers.get("X-Subject-Token", "")
    caller = Token.objects.find(plain) if plain else None
    if caller is None or caller.user.pk != request.caller.user.pk:
        raise faults.NotFound
    return JsonResponse(token_body(request, caller), headers={"X-Subject-Token": plain})


def token_body(request: HttpRequest, caller: Caller) -> dict[str, Any]:
    """A token as keystoneauth reads it."""
    token: dict[str, Any] = {
        "methods": caller.methods,
        "user": _user(caller.user),
        "audit_ids": [caller.audit_id],
        "issued_at": stamp(caller.issued_at),
        "expires_at": stamp(caller.expires_at),
    }
    if caller.account:
        token |= {
            "project": _project(caller.account),
            "is_domain": False,
            "roles": [{"id": role, "name": role} for role in sorted(caller.roles)],
            "catalog": catalog(request, caller.regions),
        }
    return {"token": token}


def _user(user: User) -> dict[str, Any]:
    return {
        "id": str(user.pk),
        "name": user.get_username(),
        "domain": DOMAIN,
        "password_expires_at": None,
    }


def _project(account: Account) -> dict[str, Any]:
    return {"id": account.pk, "name": account.name, "domain": DOMAIN}


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

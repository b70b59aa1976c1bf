"""The JSON of the Identity API: what several of its operations answer with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest

from accounts.api.catalog import catalog
from accounts.models import Account, ApplicationCredential, Caller, User

DOMAIN = {"id": "default", "name": "Default"}


def token_body(
    request: HttpRequest, caller: Caller, *, with_catalog: bool = True
) -> dict[str, Any]:
    """A token as keystoneauth reads it."""
    token: dict[str, Any] = {
        "methods": caller.methods,
        "user": {
            "id": str(caller.user.pk),
            "name": caller.user.get_username(),
            "domain": DOMAIN,
            "password_expires_at": None,
        },
        "audit_ids": [caller.audit_id],
        "issued_at": time_of(caller.issued_at),
        "expires_at": time_of(caller.expires_at),
    }
    if caller.account:
        account = caller.account
        token |= {
            "project": {"id": account.pk, "name": account.name, "domain": DOMAIN},
            "is_domain": False,
            "roles": roles_body(caller.roles),
        }
        if with_catalog:
            token["catalog"] = catalog(request, caller.regions)
    if caller.credential_id:
        token["application_credential"] = {
            "id": caller.credential_id.hex,
            "name": caller.credential_name,
            "restricted": True,
        }
    return {"token": token}


def roles_body(roles: Iterable[str]) -> list[dict[str, str]]:
    return [{"id": str(role), "name": str(role)} for role in sorted(roles)]


def project_body(request: HttpRequest, account: Account) -> dict[str, Any]:
    return {
        "id": account.pk,
        "name": account.name,
        "description": "",
        "domain_id": DOMAIN["id"],
        "parent_id": DOMAIN["id"],
        "enabled": not account.is_suspended,
        "is_domain": False,
        "tags": [],
        "options": {},
        "links": links(request, f"projects/{account.pk}"),
    }


def user_body(request: HttpRequest, user: User) -> dict[str, Any]:
    return {
        "id": str(user.pk),
        "name": user.get_username(),
        "email": user.email,
        "domain_id": DOMAIN["id"],
        "default_project_id": user.home_account_id,
        "enabled": user.is_active,
        "password_expires_at": None,
        "options": {},
        "links": links(request, f"users/{user.pk}"),
    }


def credential_body(
    request: HttpRequest, credential: ApplicationCredential
) -> dict[str, Any]:
    path = f"users/{credential.user_id}/application_credentials/{credential.pk.hex}"
    end = credential.expires_at
    return {
        "id": credential.pk.hex,
        "name": credential.name,
        "description": credential.description,
        "user_id": str(credential.user_id),
        "project_id": credential.account_id,
        "roles": roles_body(credential.roles),
        # Without a zone, as Keystone tells this one time.
        "expires_at": time_of(end).removesuffix("Z") if end else None,
        "unrestricted": False,
        "access_rules": [],
        "system": None,
        "links": links(request, path),
    }


def listed(request: HttpRequest, name: str, bodies: list[Any]) -> dict[str, Any]:
    """A list as the Identity API has it; these are never so long that they are cut."""
    here = {"self": request.build_absolute_uri(), "previous": None, "next": None}
    return {name: bodies, "links": here}


def links(request: HttpRequest, path: str) -> dict[str, str]:
    return {"self": request.build_absolute_uri(f"/identity/v3/{path}")}


def time_of(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""Identity v3: who a client is, for which account, and where the services are.

A project is an account, known by its number or its name; there is one domain, Default.
What is not the caller's own, or not there at all, is 403: nobody learns which, and the
openstack client takes a number as it was typed only after that answer.
"""

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Router

from accounts.api import credentials, tokens
from accounts.api.bodies import DOMAIN, links, listed, project_body, user_body
from accounts.api.catalog import catalog
from accounts.api.gate import ApiRequest
from accounts.api.service import Service
from accounts.models import Account
from controlpanel.api.faults import Forbidden, NotFound

FORBIDDEN = "You are not authorized to perform the requested action."

api = Service("identity", title="Identity", version="3.14", about=__doc__)
router = Router(tags=["Projects and users"])


@api.get(
    "/",
    auth=None,
    summary="List the versions of the service",
    tags=["Versions"],
    response={300: dict[str, Any]},
)
def versions(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"versions": {"values": [_version(request)]}}, status=300)


@api.get(
    "/v3",
    auth=None,
    summary="Show version 3",
    tags=["Versions"],
    response=dict[str, Any],
)
def version(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"version": _version(request)})


def _version(request: HttpRequest) -> dict[str, Any]:
    here = request.build_absolute_uri("/identity/v3/")
    json = "application/json"
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": here}],
        "media-types": [
            {"base": json, "type": "application/vnd.openstack.identity-v3+json"}
        ],
    }


@router.get("/auth/catalog", summary="The token's catalog", response=dict[str, Any])
def show_catalog(request: ApiRequest) -> HttpResponse:
    entries = catalog(request, request.caller.regions)
    return JsonResponse({"catalog": entries, "links": links(request, "auth/catalog")})


@router.get("/auth/projects", summary="One's projects", response=dict[str, Any])
def list_own_projects(request: ApiRequest) -> HttpResponse:
    """Those that a token can be had for."""
    return _projects(request, _own_accounts(request))


@router.get("/auth/domains", summary="One's domains", response=dict[str, Any])
def list_own_domains(request: ApiRequest) -> HttpResponse:
    """None: roles are held in projects."""
    return JsonResponse(listed(request, "domains", []))


@router.get("/auth/system", summary="One's system roles", response=dict[str, Any])
def list_own_system_roles(request: ApiRequest) -> HttpResponse:
    return JsonResponse(listed(request, "system", []))


@router.get("/projects", summary="List projects", response=dict[str, Any])
def list_projects(
    request: ApiRequest, name: str | None = None, domain_id: str | None = None
) -> HttpResponse:
    """One's own; asking for a name that none of them has is 403."""
    accounts = _own_accounts(request)
    if name is not None:
        accounts = [each for each in accounts if each.name == name]
        if not accounts:
            raise Forbidden(FORBIDDEN)
    return _projects(request, accounts)


@router.get("/projects/{project_id}", summary="Show a project", response=dict[str, Any])
def show_project(request: ApiRequest, project_id: str) -> HttpResponse:
    for account in _own_accounts(request):
        if account.pk == project_id:
            return JsonResponse({"project": project_body(request, account)})
    raise Forbidden(FORBIDDEN)


@router.get("/users", summary="List users", response=dict[str, Any])
def list_users(
    request: ApiRequest, name: str | None = None, domain_id: str | None = None
) -> HttpResponse:
    """Oneself; asking for another's name is 403."""
    if name is not None and name != request.user.get_username():
        raise Forbidden(FORBIDDEN)
    return JsonResponse(listed(request, "users", [user_body(request, request.user)]))


@router.get("/users/{user_id}", summary="Show a user", response=dict[str, Any])
def show_user(request: ApiRequest, user_id: str) -> HttpResponse:
    _insist_on_self(request, user_id)
    return JsonResponse({"user": user_body(request, request.user)})


@router.get(
    "/users/{user_id}/projects", summary="A user's projects", response=dict[str, Any]
)
def list_projects_of_user(request: ApiRequest, user_id: str) -> HttpResponse:
    _insist_on_self(request, user_id)
    return _projects(request, _own_accounts(request))


@router.get("/domains", summary="List domains", response=dict[str, Any])
def list_domains(request: ApiRequest, name: str | None = None) -> HttpResponse:
    matching = [_domain(request)] if name in {None, DOMAIN["name"]} else []
    return JsonResponse(listed(request, "domains", matching))


@router.get("/domains/{domain_id}", summary="Show a domain", response=dict[str, Any])
def show_domain(request: ApiRequest, domain_id: str) -> HttpResponse:
    if domain_id != DOMAIN["id"]:
        raise NotFound("Could not find domain.")
    return JsonResponse({"domain": _domain(request)})


@router.get("/regions", summary="List regions", response=dict[str, Any])
def list_regions(request: ApiRequest) -> HttpResponse:
    return JsonResponse(listed(request, "regions", _regions(request)))


@router.get("/regions/{region}", summary="Show a region", response=dict[str, Any])
def show_region(request: ApiRequest, region: str) -> HttpResponse:
    for each in _regions(request):
        if each["id"] == region:
            return JsonResponse({"region": each})
    raise NotFound("Could not find region.")


def _regions(request: ApiRequest) -> list[dict[str, Any]]:
    return [
        {
            "id": region.code,
            "description": region.name,
            "parent_region_id": None,
            "links": links(request, f"regions/{region.code}"),
        }
        for region in request.caller.regions
    ]


def _domain(request: ApiRequest) -> dict[str, Any]:
    here = links(request, f"domains/{DOMAIN['id']}")
    about = {"description": "The only one.", "enabled": True, "tags": []}
    return {**DOMAIN, **about, "options": {}, "links": here}


def _projects(request: ApiRequest, accounts: list[Account]) -> HttpResponse:
    bodies = [project_body(request, account) for account in accounts]
    return JsonResponse(listed(request, "projects", bodies))


def _own_accounts(request: ApiRequest) -> list[Account]:
    """Where the user has a role; with an application credential, its one account."""
    accounts = Account.objects.open_to(request.user)
    if request.caller.credential_id and request.caller.account:
        accounts = accounts.filter(pk=request.caller.account.pk)
    return list(accounts.order_by("name", "pk"))


def _insist_on_self(request: ApiRequest, user_id: str) -> None:
    if user_id != str(request.user.pk):
        raise Forbidden(FORBIDDEN)


for each in (tokens.router, credentials.router, router):
    api.add_router("/v3", each)

"""Which versions there are, and what of them: the first that a client asks."""

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.models import Region
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import NotFound

router = Router(tags=["Discovery"])

# Beyond 2.7 Glance numbers what a single store has no use for, and a cache.
NEWEST = "2.7"
OLDER = ["2.6", "2.5", "2.4", "2.3", "2.2", "2.1", "2.0"]
# The only way of data into an image besides PUT: nothing is ever fetched from an URL.
IMPORT_METHODS = ["glance-direct"]
VERSIONS = {"type": "object", "properties": {"versions": {"type": "array"}}}


@router.get(
    "/{region}",
    auth=None,
    summary="List the versions of the service",
    response={300: None},
    openapi_extra=describe(answer=VERSIONS, status=300),
)
def list_versions(request: HttpRequest, region: str) -> HttpResponse:
    return _versions(request, region, status=300)


@router.get(
    "/{region}/versions",
    auth=None,
    summary="List the versions of the service, answered with 200",
    openapi_extra=describe(answer=VERSIONS),
)
def show_versions(request: HttpRequest, region: str) -> HttpResponse:
    return _versions(request, region, status=200)


@router.get(
    "/{region}/v2",
    auth=None,
    summary="List the versions at the address of the newest",
    response={300: None},
    openapi_extra=describe(answer=VERSIONS, status=300),
)
def list_versions_of_v2(request: HttpRequest, region: str) -> HttpResponse:
    return _versions(request, region, status=300)


@router.get(
    "/{region}/v2/info/import",
    summary="Say how data can be imported",
    openapi_extra=describe(answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def show_import_info(request: ApiRequest, region: str) -> HttpResponse:
    """Staged data only: no address is ever fetched."""
    methods = {
        "description": "Import methods available.",
        "type": "array",
        "value": IMPORT_METHODS,
    }
    return JsonResponse({"import-methods": methods})


@router.get(
    "/{region}/v2/info/stores",
    summary="List the stores of the region",
    openapi_extra=describe(answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def show_stores(request: ApiRequest, region: str) -> HttpResponse:
    """There is one, and all data goes there."""
    store = {"id": "default", "description": "The region's store", "default": "true"}
    return JsonResponse({"stores": [store]})


def _versions(request: HttpRequest, region: str, *, status: int) -> HttpResponse:
    if "\0" in region or not Region.objects.filter(pk=region).exists():
        raise NotFound
    here = request.build_absolute_uri(f"/image/{region}/v2/")
    versions: list[dict[str, Any]] = [
        {
            "id": f"v{number}",
            "status": "CURRENT" if number == NEWEST else "SUPPORTED",
            "links": [{"rel": "self", "href": here}],
        }
        for number in [NEWEST, *OLDER]
    ]
    return JsonResponse({"versions": versions}, status=status)

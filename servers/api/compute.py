"""Compute v2.1: the part of Nova's API that images are used by.

One microversion, 2.1. A server has a port for SSH in place of networks: its address and
the command stand in its addresses and metadata.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from accounts.api.service import Service
from accounts.models import Region
from controlpanel.api import faults
from controlpanel.api.describe import Parameters, describe
from servers.api import flavors, keypairs, servers
from servers.api.bodies import address

VERSION = "2.1"

MICROVERSION: Parameters = {
    "OpenStack-API-Version": (
        f"The microversion to be spoken: compute {VERSION}, or none",
        {"enum": [f"compute {VERSION}", "compute latest"]},
    )
}
api = Service(
    "compute",
    title="Compute",
    version=VERSION,
    about=__doc__,
    also=describe(406, headers=MICROVERSION),
)


@api.get(
    "/{region}",
    auth=None,
    summary="List the versions of the service",
    tags=["Versions"],
    response=dict[str, Any],
)
def versions(request: HttpRequest, region: str) -> HttpResponse:
    return JsonResponse({"versions": [_version(request, region)]})


@api.get(
    "/{region}/v2.1",
    auth=None,
    summary="Show version 2.1",
    tags=["Versions"],
    response=dict[str, Any],
)
def version(request: HttpRequest, region: str) -> HttpResponse:
    return JsonResponse({"version": _version(request, region)})


def _version(request: HttpRequest, region: str) -> dict[str, Any]:
    if "\0" in region or not Region.objects.filter(pk=region).exists():
        raise faults.NotFound
    json = "application/json"
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": VERSION,
        "min_version": VERSION,
        "updated": "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": address(request, region, "")}],
        "media-types": [
            {"base": json, "type": "application/vnd.openstack.compute+json;version=2.1"}
        ],
    }


def speak_one_version(
    operation: Callable[..., HttpResponseBase],
) -> Callable[..., HttpResponseBase]:
    """Say which microversion was spoken, and refuse (406) those that are not."""

    @wraps(operation)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        asked = _asked(request)
        if asked not in {None, VERSION, "latest"}:
            raise faults.Fault(
                406,
                f"Version {asked[:20]} is not supported by the API. Minimum is "
                f"{VERSION} and maximum is {VERSION}.",
            )
        response = operation(request, *args, **kwargs)
        response["OpenStack-API-Version"] = f"compute {VERSION}"
        response["X-OpenStack-Nova-API-Version"] = VERSION
        response["Vary"] = "X-Auth-Token, OpenStack-API-Version"
        return response

    return wrapper


def _asked(request: HttpRequest) -> str | None:
    service, _, number = request.headers.get("OpenStack-API-Version", "").partition(" ")
    if service == "compute":
        return number.strip()
    return request.headers.get("X-OpenStack-Nova-API-Version")


for each in (servers.router, flavors.router, keypairs.router):
    each.add_decorator(speak_one_version, mode="view")
    api.add_router("/{region}/v2.1", each)

"""Flavors, and what the account may still have."""

from typing import Any

from django.db.models import Sum
from django.http import HttpResponse, JsonResponse
from ninja import Path, Router

from accounts.api.gate import ApiRequest, requires
from accounts.models import Quota
from accounts.permissions import Capability
from controlpanel.api.faults import NotFound
from servers.api.bodies import address, flavor_body, links
from servers.models import MOST_KEYS, Flavor

router = Router(tags=["Flavors and limits"])


@router.get("/flavors", summary="List flavors", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def list_flavors(
    request: ApiRequest, region: Path[str], minDisk: int = 0, minRam: int = 0
) -> HttpResponse:
    bodies = [
        {
            "id": flavor.pk,
            "name": flavor.name,
            "links": links(address(request, region, f"flavors/{flavor.pk}")),
        }
        for flavor in _offered(minDisk, minRam)
    ]
    return JsonResponse({"flavors": bodies})


@router.get("/flavors/detail", summary="List flavors in full", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def list_flavors_in_full(
    request: ApiRequest, region: Path[str], minDisk: int = 0, minRam: int = 0
) -> HttpResponse:
    bodies = [flavor_body(request, region, each) for each in _offered(minDisk, minRam)]
    return JsonResponse({"flavors": bodies})


@router.get("/flavors/{flavor_id}", summary="Show a flavor", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def show_flavor(request: ApiRequest, region: Path[str], flavor_id: str) -> HttpResponse:
    """Also one that is not offered any more: servers still have it."""
    flavor = Flavor.objects.filter(pk=flavor_id.replace("\0", "")).first()
    if flavor is None:
        raise NotFound(f"Flavor {flavor_id[:50]} could not be found.")
    return JsonResponse({"flavor": flavor_body(request, region, flavor)})


@router.get(
    "/flavors/{flavor_id}/os-extra_specs",
    summary="Show what else a flavor is",
    response=dict[str, Any],
)
@requires(Capability.VIEW_SERVERS)
def show_extra_specs(
    request: ApiRequest, region: Path[str], flavor_id: str
) -> HttpResponse:
    """None: a flavor is its figures."""
    return JsonResponse({"extra_specs": {}})


@router.get("/limits", summary="What the account may have", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def show_limits(request: ApiRequest, region: Path[str]) -> HttpResponse:
    """The account's limits for all regions and their use; -1 is no limit."""
    servers, memory = request.account.quota_uses(Quota.SERVERS, Quota.MEMORY_MB)
    cores = request.account.servers.aggregate(used=Sum("flavor__vcpus"))
    absolute = {
        "maxTotalInstances": servers.limit,
        "totalInstancesUsed": servers.used,
        "maxTotalRAMSize": memory.limit,
        "totalRAMUsed": memory.used,
        "maxTotalCores": -1,
        "totalCoresUsed": cores["used"] or 0,
        "maxTotalKeypairs": MOST_KEYS,
        "maxServerMeta": 0,
        "maxServerGroups": 0,
        "totalServerGroupsUsed": 0,
        "maxServerGroupMembers": 0,
    }
    return JsonResponse({"limits": {"rate": [], "absolute": absolute}})


def _offered(disk_gb: int, ram_mb: int) -> list[Flavor]:
    flavors = Flavor.objects.filter(is_public=True)
    # In Python: a caller's number may be larger than the column takes.
    return [
        each for each in flavors if each.disk_gb >= disk_gb and each.ram_mb >= ram_mb
    ]

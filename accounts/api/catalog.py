"""Where each service is, for each region: what a token brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest

from accounts.regions import RegionChoice

# The type of a service, its name, and its address below the panel's.
SERVICES = [
    ("identity", "keystone", "/identity/v3"),
    ("image", "glance", "/image/{region}"),
    ("compute", "nova", "/compute/{region}/v2.1"),
]


def catalog(
    request: HttpRequest, regions: Sequence[RegionChoice]
) -> list[dict[str, Any]]:
    """One endpoint of each service in each region, under the address that was asked."""
    return [
        {
            "id": name,
            "type": kind,
            "name": name,
            "endpoints": [
                {
                    "id": f"{name}-{region.code}-{interface}",
                    "interface": interface,
                    "region": region.code,
                    "region_id": region.code,
                    "url": request.build_absolute_uri(path.format(region=region.code)),
                }
                for region in regions
                for interface in ("public", "internal", "admin")
            ],
        }
        for kind, name, path in SERVICES
    ]

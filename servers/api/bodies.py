"""The JSON of the Compute API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest

from servers.compute.base import PowerState
from servers.models import Flavor, Server, SSHKey

# Nova says these in the status, all other tasks in the task state alone.
_DOING = {
    "rebooting": "REBOOT",
    "rebooting_hard": "HARD_REBOOT",
    "rebuilding": "REBUILD",
    "resizing": "RESIZE",
}
_VM_STATES = {
    Server.Status.BUILD: "building",
    Server.Status.ACTIVE: "active",
    Server.Status.SHUTOFF: "stopped",
    Server.Status.ERROR: "error",
}
_POWER = {
    Server.Status.ACTIVE: PowerState.RUNNING,
    Server.Status.SHUTOFF: PowerState.SHUTDOWN,
}


def brief(request: HttpRequest, region: str, server: Server) -> dict[str, Any]:
    here = address(request, region, f"servers/{server.pk}")
    return {"id": str(server.pk), "name": server.name, "links": links(here)}


def server_body(
    request: HttpRequest, region: str, server: Server, *, key_names: Mapping[str, str]
) -> dict[str, Any]:
    """A server as microversion 2.1 has it; `key_names` gives a public key its name.

    The metadata is what a user of a server without a network of its own needs.
    """
    image, flavor = f"images/{server.image_id}", f"flavors/{server.flavor_id}"
    status, launched = Server.Status(server.status), server.launched_at
    host, version = server.ssh_host, _version(server.ssh_host)
    body = brief(request, region, server) | {
        "status": _DOING.get(server.task, status),
        "tenant_id": server.account_id,
        "user_id": server.created_by,
        "created": time_of(server.created_at),
        "updated": time_of(server.changed_at),
        "hostId": "",
        "image": _reference(request, region, image) if server.image_id else "",
        "flavor": _reference(request, region, flavor),
        "addresses": addresses(server),
        "accessIPv4": host if version == 4 else "",
        "accessIPv6": host if version == 6 else "",
        "metadata": metadata(server),
        "key_name": key_names.get(server.public_key) if server.public_key else None,
        "config_drive": "",
        "security_groups": [{"name": "default"}],
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": region,
        "OS-EXT-STS:task_state": server.task or None,
        "OS-EXT-STS:vm_state": _VM_STATES[status],
        "OS-EXT-STS:power_state": _POWER.get(status, PowerState.NOSTATE).value,
        "OS-SRV-USG:launched_at": launched and _time_without_zone(launched),
        "OS-SRV-USG:terminated_at": None,
        "os-extended-volumes:volumes_attached": [],
    }
    if status in {Server.Status.ACTIVE, Server.Status.BUILD}:
        body["progress"] = 0
    if status == Server.Status.ERROR:
        body["fault"] = {
            "code": 500,
            "message": server.reason,
            "created": time_of(server.changed_at),
        }
    return body


def flavor_body(request: HttpRequest, region: str, flavor: Flavor) -> dict[str, Any]:
    return {
        "id": flavor.pk,
        "name": flavor.name,
        "ram": flavor.ram_mb,
        "vcpus": flavor.vcpus,
        "disk": flavor.disk_gb,
        "swap": "",
        "rxtx_factor": 1.0,
        "OS-FLV-DISABLED:disabled": False,
        "OS-FLV-EXT-DATA:ephemeral": 0,
        "os-flavor-access:is_public": flavor.is_public,
        "links": links(address(request, region, f"flavors/{flavor.pk}")),
    }


def keypair_body(key: SSHKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "public_key": key.public_key,
        "fingerprint": key.fingerprint,
    }


def address(request: HttpRequest, region: str, path: str) -> str:
    return request.build_absolute_uri(f"/compute/{region}/v2.1/{path}")


def links(href: str) -> list[dict[str, str]]:
    return [{"rel": "self", "href": href}]


def time_of(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reference(request: HttpRequest, region: str, path: str) -> dict[str, Any]:
    href = address(request, region, path)
    return {
        "id": path.rpartition("/")[2],
        "links": [{"rel": "bookmark", "href": href}],
    }


def _time_without_zone(at: datetime) -> str:
    """As Nova tells this one time: clients in Go read no other form of it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def addresses(server: Server) -> dict[str, Any]:
    """Its host's address, which clients need not ask for another one in front of."""
    if not server.ssh_host:
        return {}
    about = {"OS-EXT-IPS:type": "floating", "OS-EXT-IPS-MAC:mac_addr": ""}
    version = _version(server.ssh_host)
    return {"ssh": [{"addr": server.ssh_host, "version": version, **about}]}


def _version(host: str) -> int:
    return 6 if ":" in host else 4


def metadata(server: Server) -> dict[str, str]:
    if not (server.is_active and server.ssh_port):
        return {}
    return {"ssh": f"ssh -p {server.ssh_port} root@{server.ssh_host}"}

"""Servers and what can be done with them."""

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan
from django.http import HttpResponse, JsonResponse
from ninja import Path, Query, Router, Schema
from pydantic import ConfigDict, Field, SecretStr, StrictInt

from accounts.api.gate import ApiRequest, insist_on, requires
from accounts.models import QuotaReached
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import BadRequest, Fault, Forbidden, NotFound
from images.api.values import read_properties
from images.models import Image
from servers.api.bodies import address, addresses, brief, metadata, server_body
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError, ComputeUnavailable
from servers.models import (
    Flavor,
    NotBootable,
    Server,
    ServerQuerySet,
)

router = Router(tags=["Servers"])

ANY = dict[str, Any]
MOST = 1000
CONSOLE_BYTES = 65536
AWAY_SECONDS = "30"
LONGEST_PASSWORD = 128


NEW_SERVER = {
    "server": {
        "name": "web-1",
        "imageRef": "0a4f1c0e-5b7e-4d38-9a51-0c8d7c6f2b11",
        "flavorRef": "small",
        "key_name": "laptop",
        "networks": "auto",
    }
}


class Strict(Schema):
    """What is not known here is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")


class Mapping(Strict):
    uuid: str
    boot_index: int | str | None = 0
    source_type: str = "image"
    destination_type: str = "local"
    delete_on_termination: bool = True


class SecurityGroup(Strict):
    name: str


class Order(Strict):
    name: str = Field(min_length=1, max_length=255)
    imageRef: str = ""
    flavorRef: str
    key_name: str | None = None
    adminPass: SecretStr | None = Field(None, min_length=8, max_length=128)
    min_count: StrictInt = 1
    max_count: StrictInt = 1
    networks: str | list[Any] | None = None
    security_groups: list[SecurityGroup] = []
    availability_zone: str | None = None
    config_drive: bool | str | None = None
    metadata: dict[str, str] = {}
    block_device_mapping_v2: list[Mapping] = Field([], max_length=1)
    disk_config: str | None = Field(None, alias="OS-DCF:diskConfig")


class NewServer(Strict):
    server: Order
    hints: dict[str, Any] = Field({}, alias="os:scheduler_hints")
    old_hints: dict[str, Any] = Field({}, alias="OS-SCH-HNT:scheduler_hints")


class Renaming(Schema):
    name: str = Field(min_length=1, max_length=255)


class Change(Schema):
    server: Renaming


class Wanted(Schema):
    """What servers are listed by. All of them is what nobody gets by a slip."""

    name: str | None = None
    status: str | None = None
    image: str | None = None
    flavor: str | None = None
    ip: str | None = None
    ip6: str | None = None
    reservation_id: str | None = None
    changes_since: str | None = Field(None, alias="changes-since")
    changes_before: str | None = Field(None, alias="changes-before")
    all_tenants: str | None = None
    limit: int | None = None
    marker: str | None = None


@router.get("/servers", summary="List servers", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def list_servers(
    request: ApiRequest, region: Path[str], wanted: Query[Wanted]
) -> HttpResponse:
    found, more = _listed(request, region, wanted)
    bodies = [brief(request, region, server) for server in found]
    return JsonResponse({"servers": bodies, **_next(request, found, more)})


@router.get("/servers/detail", summary="List servers in full", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def list_servers_in_full(
    request: ApiRequest, region: Path[str], wanted: Query[Wanted]
) -> HttpResponse:
    """Newest first; `name` is looked for anywhere in the names."""
    found, more = _listed(request, region, wanted)
    names = _key_names(request)
    bodies = [server_body(request, region, each, key_names=names) for each in found]
    return JsonResponse({"servers": bodies, **_next(request, found, more)})


@router.post(
    "/servers",
    summary="Create a server",
    response={202: dict[str, Any]},
    openapi_extra=describe(409, example=NEW_SERVER),
)
@requires(Capability.CREATE_SERVERS)
def create_server(
    request: ApiRequest, region: Path[str], body: NewServer
) -> HttpResponse:
    """From an image that the account may boot: a base image, its own, or one that it
    has accepted. The root password is in this answer and nowhere else.
    """
    order = body.server
    if body.hints or body.old_hints:
        raise BadRequest("There is no support for scheduler hints here.")
    _insist_on_what_there_is(order, region)
    image = _bootable(request, region, order)
    flavor = _flavor(order.flavorRef)
    given = order.adminPass
    password = given.get_secret_value() if given else secrets.token_urlsafe(15)
    if not password.isprintable() or len(password.encode()) > LONGEST_PASSWORD:
        raise BadRequest(f"adminPass is one line of at most {LONGEST_PASSWORD} bytes.")
    compute = compute_for(image.region.backend)
    try:
        if reason := compute.unavailable_reason():
            raise ComputeUnavailable(reason)
        server = Server.objects.order(
            request.account,
            image,
            flavor,
            name=order.name,
            password_hash=compute.hash_password(password),
            public_key=_public_key(request, order.key_name),
            token=uuid.uuid4(),
            by=request.user,
        )
    except NotBootable as refusal:
        raise BadRequest(str(refusal)) from None
    except QuotaReached as refusal:
        raise Forbidden(str(refusal)) from None
    except ComputeError as refusal:
        raise Fault(503, str(refusal), Retry_After=AWAY_SECONDS) from None
    made = brief(request, region, server) | {
        "adminPass": password,
        "security_groups": [{"name": "default"}],
        "OS-DCF:diskConfig": "MANUAL",
    }
    here = address(request, region, f"servers/{server.pk}")
    return JsonResponse({"server": made}, status=202, headers={"Location": here})


@router.get("/servers/{server_id}", summary="Show a server", response=dict[str, Any])
@requires(Capability.VIEW_SERVERS)
def show_server(request: ApiRequest, region: Path[str], server_id: str) -> HttpResponse:
    server = _find(request, region, server_id)
    names = _key_names(request)
    body = server_body(request, region, server, key_names=names)
    return JsonResponse({"server": body})


@router.put(
    "/servers/{server_id}",
    summary="Rename a server",
    response=dict[str, Any],
    openapi_extra=describe(409, example={"server": {"name": "web-2"}}),
)
@requires(Capability.MANAGE_SERVERS)
def rename_server(
    request: ApiRequest, region: Path[str], server_id: str, body: Change
) -> HttpResponse:
    """The machine keeps its host name."""
    server = _find(request, region, server_id)
    server.rename(_printable(body.server.name), by=request.user)
    names = _key_names(request)
    changed = server_body(request, region, server, key_names=names)
    return JsonResponse({"server": changed})


@router.delete(
    "/servers/{server_id}",
    summary="Delete a server",
    response={204: None},
    openapi_extra=describe(409),
)
@requires(Capability.MANAGE_SERVERS)
def delete_server(
    request: ApiRequest, region: Path[str], server_id: str
) -> HttpResponse:
    """With its disk. It may be said again while it is being done."""
    server = _find(request, region, server_id)
    if not server.is_deleting:
        server.delete_later(by=request.user)
    return HttpResponse(status=204)


class NewImage(Strict):
    name: str = Field(min_length=1, max_length=255)
    metadata: dict[str, str] = {}


class Reboot(Strict):
    type: str


class Length(Strict):
    length: int | str | None = None


class Action(Strict):
    """Exactly one of these, by its name."""

    createImage: NewImage | None = None
    reboot: Reboot | None = None
    os_start: Any = Field(None, alias="os-start")
    os_stop: Any = Field(None, alias="os-stop")
    console: Length | None = Field(None, alias="os-getConsoleOutput")


@router.post(
    "/servers/{server_id}/action",
    summary="Do something with a server",
    response={200: dict[str, Any], 202: None},
    openapi_extra=describe(409, example={"createImage": {"name": "web-golden"}}),
)
@requires(Capability.VIEW_SERVERS)
def act(
    request: ApiRequest, region: Path[str], server_id: str, body: Action
) -> HttpResponse:
    """createImage, reboot (SOFT or HARD), os-start, os-stop, os-getConsoleOutput."""
    server = _find(request, region, server_id)
    match sorted(body.model_fields_set):
        case ["console"]:
            return _console(server, body.console)
        case ["createImage"] if body.createImage:
            insist_on(request, Capability.MANAGE_SERVERS)
            return _create_image(request, region, server, body.createImage)
        case ["reboot"] if body.reboot and body.reboot.type.upper() in {"SOFT", "HARD"}:
            insist_on(request, Capability.MANAGE_SERVERS)
            server.reboot(by=request.user, hard=body.reboot.type.upper() == "HARD")
        case ["os_start"]:
            insist_on(request, Capability.MANAGE_SERVERS)
            server.power_on(by=request.user)
        case ["os_stop"]:
            insist_on(request, Capability.MANAGE_SERVERS)
            server.power_off(by=request.user)
        case _:
            raise BadRequest("There is no such action, or not with this body.")
    return HttpResponse(status=202)


@router.get("/servers/{server_id}/ips", summary="Show a server's address", response=ANY)
@requires(Capability.VIEW_SERVERS)
def show_ips(request: ApiRequest, region: Path[str], server_id: str) -> HttpResponse:
    """Of the host, for SSH."""
    server = _find(request, region, server_id)
    return JsonResponse({"addresses": addresses(server)})


@router.get(
    "/servers/{server_id}/metadata", summary="Show a server's metadata", response=ANY
)
@requires(Capability.VIEW_SERVERS)
def show_metadata(
    request: ApiRequest, region: Path[str], server_id: str
) -> HttpResponse:
    """The command for SSH."""
    server = _find(request, region, server_id)
    return JsonResponse({"metadata": metadata(server)})


@router.get(
    "/servers/{server_id}/os-security-groups",
    summary="Show a server's security groups",
    response=ANY,
)
@requires(Capability.VIEW_SERVERS)
def show_security_groups(
    request: ApiRequest, region: Path[str], server_id: str
) -> HttpResponse:
    """None."""
    _find(request, region, server_id)
    return JsonResponse({"security_groups": []})


@router.get("/os-availability-zone", summary="List availability zones", response=ANY)
@requires(Capability.VIEW_SERVERS)
def list_zones(request: ApiRequest, region: Path[str]) -> HttpResponse:
    """One, which is the region."""
    zone = {"zoneName": region, "zoneState": {"available": True}, "hosts": None}
    return JsonResponse({"availabilityZoneInfo": [zone]})


def _create_image(
    request: ApiRequest, region: str, server: Server, wanted: NewImage
) -> HttpResponse:
    """Its ID is the last part of the header Location, as before microversion 2.45."""
    name, properties = _printable(wanted.name), read_properties(wanted.metadata)
    try:
        image = server.create_image(name=name, by=request.user, properties=properties)
    except QuotaReached as refusal:
        raise Forbidden(str(refusal)) from None
    here = request.build_absolute_uri(f"/image/{region}/v2/images/{image.pk}")
    return HttpResponse(status=202, headers={"Location": here})


def _console(server: Server, wanted: Length | None) -> HttpResponse:
    try:
        length = int(wanted.length) if wanted and wanted.length is not None else None
    except ValueError:
        raise BadRequest("The length is no number of lines.") from None
    try:
        compute = compute_for(server.region.backend)
        log = compute.console_log(server.pk, max_bytes=CONSOLE_BYTES)
    except ComputeError as refusal:
        raise Fault(409, str(refusal)) from None
    lines = log.splitlines(keepends=True)
    if length is not None and length >= 0:
        lines = lines[len(lines) - length :] if 0 < length < len(lines) else lines
        lines = lines if length else []
    return JsonResponse({"output": "".join(lines)})


def _own(request: ApiRequest, region: str) -> ServerQuerySet:
    servers = Server.objects.owned_by(request.account).filter(region=region)
    return servers.select_related("region")


def _find(request: ApiRequest, region: str, server_id: str) -> Server:
    try:
        server = _own(request, region).filter(pk=UUID(server_id)).first()
    except ValueError:
        server = None
    if server is None:
        raise NotFound(f"Instance {server_id[:50]} could not be found.")
    return server


def _listed(
    request: ApiRequest, region: str, wanted: Wanted
) -> tuple[list[Server], bool]:
    """So many servers after the marker, and whether there are more."""
    if wanted.limit is not None and wanted.limit < 0:
        raise BadRequest("The limit must be a number that is not negative.")
    if (wanted.all_tenants or "0").lower() not in {"0", "false", "f", "no", "off"}:
        raise Forbidden("Nobody lists the servers of other projects.")
    servers = _matching(_own(request, region), wanted)
    if wanted.marker:
        last = _marker(request, region, wanted.marker)
        servers = servers.filter(
            TupleLessThan(Tuple("created_at", "id"), (last.created_at, last.pk))
        )
    most = min(MOST if wanted.limit is None else wanted.limit, MOST)
    found = list(servers.order_by("-created_at", "-id")[: most + 1])
    return found[:most], len(found) > most


def _matching(servers: ServerQuerySet, wanted: Wanted) -> ServerQuerySet:
    if wanted.name:
        # Nova takes a pattern; of patterns its clients send only ^name$.
        exact = re.fullmatch(r"\^(.*)\$", _text(wanted.name))
        text = exact[1] if exact else _text(wanted.name)
        servers = servers.filter(**{"name" if exact else "name__icontains": text})
    if wanted.status:
        servers = servers.filter(status=_text(wanted.status).upper()[:10])
    if wanted.image is not None:
        try:
            servers = servers.filter(image_id=UUID(wanted.image.rpartition("/")[2]))
        except ValueError:
            servers = servers.none()
    if wanted.flavor is not None:
        key = _text(wanted.flavor).rpartition("/")[2]
        servers = servers.filter(flavor_id=key)
    for host in (wanted.ip, wanted.ip6):
        if host is not None:
            servers = servers.filter(ssh_host__icontains=_text(host))
    if wanted.reservation_id is not None:
        servers = servers.none()
    if wanted.changes_since is not None:
        servers = servers.filter(changed_at__gte=_time(wanted.changes_since))
    if wanted.changes_before is not None:
        servers = servers.filter(changed_at__lte=_time(wanted.changes_before))
    return servers


def _text(text: str) -> str:
    """Without the one character that PostgreSQL keeps none of."""
    return text.replace("\0", "")


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
        if not 1 < when.year < 9999:
            raise ValueError(text)
    except ValueError:
        raise BadRequest(f"{text[:50]} is no time.") from None
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _marker(request: ApiRequest, region: str, marker: str) -> Server:
    try:
        return _find(request, region, marker)
    except NotFound:
        raise BadRequest(f"Marker {marker[:50]} could not be found.") from None


def _next(request: ApiRequest, found: list[Server], more: bool) -> dict[str, Any]:
    if not (more and found):
        return {}
    query = request.GET.copy()
    query["marker"] = str(found[-1].pk)
    href = request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
    return {"servers_links": [{"rel": "next", "href": href}]}


def _key_names(request: ApiRequest) -> dict[str, str]:
    return dict(request.account.ssh_keys.values_list("public_key", "name"))


def _insist_on_what_there_is(order: Order, region: str) -> None:
    """Raise BadRequest for what a server here cannot have."""
    _printable(order.name)
    refused = {
        "more than one server at a time": (order.min_count, order.max_count) != (1, 1),
        "networks": order.networks not in (None, "auto", "none", []),
        "metadata": bool(order.metadata),
        "a configuration drive": order.config_drive not in (None, False, "", "False"),
        "security groups": any(
            each.name != "default" for each in order.security_groups
        ),
        "another availability zone": order.availability_zone not in (None, region),
        "volumes": any(
            (each.source_type, each.destination_type) != ("image", "local")
            for each in order.block_device_mapping_v2
        ),
    }
    for what, is_wanted in refused.items():
        if is_wanted:
            raise BadRequest(f"There is no support for {what} here.")


def _bootable(request: ApiRequest, region: str, order: Order) -> Image:
    """Only what the account may boot; all else is unknown, whether it exists or not."""
    wanted = {each.uuid for each in order.block_device_mapping_v2}
    wanted |= {order.imageRef} - {""}
    images = Image.objects.bootable_by(request.account).select_related("region")
    try:
        # Clients of old send the image's address.
        (only,) = {UUID(each.rpartition("/")[2]) for each in wanted}
        image = images.filter(pk=only, region=region).first()
    except ValueError:
        image = None
    if image is None:
        raise BadRequest(f"Image {order.imageRef[:50]} could not be found.")
    return image


def _flavor(wanted: str) -> Flavor:
    key = wanted.rpartition("/")[2].replace("\0", "")
    flavor = Flavor.objects.filter(pk=key, is_public=True).first()
    if flavor is None:
        raise BadRequest(f"Flavor {key[:50]} could not be found.")
    return flavor


def _public_key(request: ApiRequest, name: str | None) -> str:
    if name is None:
        return ""
    key = request.account.ssh_keys.filter(name=name.replace("\0", "")).first()
    if key is None:
        raise BadRequest("Invalid key_name provided.")
    return key.public_key


def _printable(name: str) -> str:
    if not name.isprintable() or not name.strip():
        raise BadRequest("The name has characters that cannot be seen.")
    return name

"""Another disk for a server, and another size."""

import secrets
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import AccountRequest, requires
from accounts.models import QuotaReached
from accounts.permissions import Capability
from controlpanel.http import Conflict, render_page
from images.models import Image
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError, ComputeUnavailable
from servers.forms import NOT_BOOTABLE, RebuildForm, ResizeForm
from servers.models import (
    Flavor,
    NotBootable,
    Rebuild,
    Resize,
    Server,
    ServerConflict,
    why_not_resize,
)
from servers.room import Room
from servers.selector import selector_of
from servers.views import ask, done, own, reread


@never_cache
@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def rebuild(request: AccountRequest, server_id: UUID) -> HttpResponse:
    servers = own(request).select_related("account", "flavor")
    server = get_object_or_404(servers, pk=server_id)
    if request.method == "GET":
        return _choose(request, server, RebuildForm())
    form = RebuildForm(request.POST)
    if not form.is_valid():
        return _choose(request, server, form, status=422)
    password = secrets.token_urlsafe(15)
    try:
        _order(request, server, form.cleaned_data["image"], password)
    except Conflict as conflict:
        form.add_error("image", str(conflict))
        return _choose(request, server, form, status=409)
    except ComputeError as refusal:
        form.add_error(None, str(refusal))
        return _choose(request, server, form, status=422)
    context = {"server": server, "password": password, "nav": "servers"}
    return render_page(
        request, "servers/rebuilding.html", context, partial="sheet", status=202
    )


def _order(
    request: AccountRequest, server: Server, image_id: UUID, password: str
) -> None:
    compute = compute_for(server.region.backend)
    if reason := compute.unavailable_reason():
        raise ComputeUnavailable(reason)
    image = _bootable(request, image_id)
    if image is None:
        raise NotBootable(NOT_BOOTABLE)
    hashed = compute.hash_password(password)
    Rebuild.order(server, image, password_hash=hashed, by=request.user)


def _choose(
    request: AccountRequest, server: Server, form: RebuildForm, status: int = 200
) -> HttpResponse:
    """The page with the images of the server's region; its own is chosen at first."""
    reread(server, "status", "task")
    part = "deed" if request.GET.get("part") == "deed" else "image-choice"
    asked = form["image"].value() if form.is_bound else request.GET.get("image")
    chosen = _bootable(request, asked or server.image_id)
    context = {
        "nav": "servers",
        "server": server,
        "form": form,
        "selector": selector_of(request, server.region, chosen),
        "why_not": chosen and server.flavor.why_not(chosen),
        "renewed": part == "deed",
    }
    return render_page(
        request,
        "servers/rebuild.html",
        context,
        partial="order" if form.is_bound else part,
        status=status,
    )


def _bootable(request: AccountRequest, image_id: object) -> Image | None:
    """Only what the account may boot; all else looks alike, whether it exists."""
    try:
        key = UUID(str(image_id))
    except ValueError:
        return None
    images = Image.objects.bootable_by(request.account)
    return images.select_related("region", "owner").filter(pk=key).first()


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def resize(request: AccountRequest, server_id: UUID) -> HttpResponse:
    servers = own(request).select_related("account", "flavor")
    server = get_object_or_404(servers, pk=server_id)
    template = "servers/resize.html"
    posted = request.method == "POST"
    form = ResizeForm(request.POST if posted else None)
    flavors = _flavors(request, server)
    if not form.is_valid():
        return ask(request, server, template, form, flavors=flavors)
    flavor = form.cleaned_data["flavor"]
    try:
        Resize.order(server, flavor, by=request.user)
    except ServerConflict as conflict:
        return ask(request, server, template, form, conflict)
    except (QuotaReached, ComputeError) as full:
        form.add_error("flavor", str(full))
        return ask(request, server, template, form, flavors=flavors)
    return done(request, server, f"{server} is being resized to {flavor}.")


def _flavors(request: AccountRequest, server: Server) -> list[tuple[Flavor, str]]:
    """Each with the reason why the server cannot have it, or an empty one."""
    offered = list(Flavor.objects.filter(is_public=True))
    room = Room(request.account, server.region, offered, but=server)
    return [
        (flavor, why_not_resize(server, flavor) or room.why_not(flavor))
        for flavor in offered
    ]

import zlib
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db import models
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan
from django.forms import Form
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import (
    require_GET,
    require_http_methods,
    require_POST,
    require_safe,
)

from accounts.access import AccountRequest, link, requires
from accounts.models import Quota, QuotaReached
from accounts.permissions import Capability
from controlpanel.http import leave_for, render_page, uuid_of, wants_partial
from images.models import Image
from images.stores import StoreError
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError
from servers.forms import CreateImageForm, RebootForm, RenameForm
from servers.models import (
    ImageSchedule,
    Server,
    ServerConflict,
    ServerEvent,
    ServerQuerySet,
)
from servers.rows import ServerRow, why_unavailable
from servers.snapshots import check_room

PAGE_SIZE = 25
CONSOLE_LINES = 200
# How old a picture of a screen may be, in seconds, before a new one is asked for.
FRESH = 5


@require_GET
@requires(Capability.VIEW_SERVERS)
def server_list(request: AccountRequest) -> HttpResponse:
    servers = own(request).in_region(request.region)
    after = uuid_of(request, "after")
    if after:
        last = servers.filter(pk=after).values_list("created_at", "pk").first()
        if last:
            older = TupleLessThan(Tuple("created_at", "id"), last)
            servers = servers.filter(older)
        else:
            messages.warning(request, "That page is gone: these are the newest.")
            after = None
    found = list(
        servers.select_related("flavor")
        .order_by("-created_at", "-id")
        .fetch_mode(models.FETCH_RAISE)[: PAGE_SIZE + 1]
    )
    context = {
        "nav": "servers",
        "rows": [ServerRow(server) for server in found[:PAGE_SIZE]],
        "next": found[PAGE_SIZE - 1].pk if len(found) > PAGE_SIZE else None,
        "after": after,
        "unavailable": why_unavailable("local"),
    }
    return render_page(
        request, "servers/server_list.html", context, partial="server-table"
    )


@require_GET
@requires(Capability.VIEW_SERVERS)
def row(request: AccountRequest, server_id: UUID) -> HttpResponse:
    """A row of the list that is about to change: 204 while it has not."""
    servers = own(request).select_related("flavor")
    server = servers.filter(pk=server_id).first()
    if server is None:
        return _gone(request, server_id, HttpResponse())
    if not wants_partial(request):
        return leave_for(request, link(request, "servers:detail", server.pk))
    shown = ServerRow(server)
    if request.GET.get("seen") == shown.version and shown.refresh:
        return HttpResponse(status=204)
    context = {"row": shown}
    return render(request, "servers/server_list.html#server-row", context)


@require_GET
@requires(Capability.VIEW_SERVERS)
def detail(request: AccountRequest, server_id: UUID) -> HttpResponse:
    servers = own(request).select_related("flavor", "image", "image_owner")
    server = servers.filter(pk=server_id).first()
    if server is None:
        gone = render(request, "servers/detail.html#gone")
        return _gone(request, server_id, gone)
    shown = ServerRow(server)
    if wants_partial(request) and request.GET.get("seen") == shown.version:
        return HttpResponse(status=204)
    events = ServerEvent.objects.filter(account=request.account, server_id=server.pk)
    context: dict[str, Any] = {
        "nav": "servers",
        "server": server,
        "image": _image_to_link(request, server),
        "row": shown,
        "images": list(server.images_made().order_by("-created_at", "-id")[:5]),
        **_schedule_of(server),
        "oob": wants_partial(request),
        "events": list(events.order_by("-pk")[:30]),
        "unavailable": why_unavailable(server.region.backend),
    }
    if not wants_partial(request):
        context |= _console_of(server) | _screen_of(server)
    return render_page(request, "servers/detail.html", context, partial="server-state")


@require_GET
@requires(Capability.VIEW_SERVERS)
def console(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = own(request).filter(pk=server_id).first()
    if server is None:
        return _gone(request, server_id, HttpResponse())
    context = {"nav": "servers", "server": server, **_console_of(server)}
    if wants_partial(request) and request.GET.get("seen") == context["console_seen"]:
        return HttpResponse(status=204)
    return render_page(request, "servers/console.html", context, partial="console")


@require_safe
@requires(Capability.VIEW_SERVERS)
def screen(request: AccountRequest, server_id: UUID) -> HttpResponse:
    """The picture itself; for htmx the element that shows it."""
    server = own(request).filter(pk=server_id).first()
    if server is None:
        return _gone(request, server_id, HttpResponse())
    if wants_partial(request):
        context = {"server": server, **_screen_of(server)}
        if request.GET.get("seen") == context["screen_seen"]:
            return HttpResponse(status=204)
        return render(request, "servers/detail.html#screen", context)
    picture = _picture_of(server)
    if picture is None:
        raise Http404("There is no picture yet.")
    headers = {"Cache-Control": "private, max-age=60", "Vary": "HX-Request"}
    return HttpResponse(picture[0], content_type="image/png", headers=headers)


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def reboot(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    form = RebootForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return ask(request, server, "servers/reboot.html", form)
    try:
        server.reboot(by=request.user, hard=form.cleaned_data["how"] == "hard")
    except ServerConflict as conflict:
        return ask(request, server, "servers/reboot.html", form, conflict)
    return done(request, server, f"{server} is being rebooted.")


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def power_off(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    if request.method == "GET":
        return ask(request, server, "servers/power_off.html")
    try:
        server.power_off(by=request.user)
    except ServerConflict as conflict:
        return ask(request, server, "servers/power_off.html", None, conflict)
    return done(request, server, f"{server} is being powered off.")


@require_POST
@requires(Capability.MANAGE_SERVERS)
def power_on(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    try:
        server.power_on(by=request.user)
    except ServerConflict as conflict:
        back = link(request, "servers:detail", server.pk)
        context = {"message": str(conflict), "back": back}
        return render(request, "409.html", context, status=409)
    return done(request, server, f"{server} is being powered on.")


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def rename(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    data = request.POST if request.method == "POST" else None
    form = RenameForm(data, server=server)
    if not form.is_valid():
        return ask(request, server, "servers/rename.html", form)
    try:
        server.rename(form.cleaned_data["name"], by=request.user)
    except ServerConflict as conflict:
        return ask(request, server, "servers/rename.html", form, conflict)
    return done(request, server, f"The server's name is {server} now.")


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def create_image(request: AccountRequest, server_id: UUID) -> HttpResponse:
    servers = own(request).select_related("account", "flavor", "blob")
    server = get_object_or_404(servers, pk=server_id)
    template = "servers/create_image.html"
    posted = request.method == "POST"
    form = CreateImageForm(request.POST if posted else None, server=server)
    if form.is_valid():
        try:
            check_room(server.region)
            name = form.cleaned_data["name"] or server.name
            image = server.create_image(name=name, by=request.user)
        except ServerConflict as conflict:
            return ask(request, server, template, form, conflict)
        except (QuotaReached, StoreError) as full:
            form.add_error(None, str(full))
        else:
            sentence = f"{image} is being made. Saved Images shows how far it is."
            return done(request, server, sentence)
    short = request.account.running_short(Quota.IMAGES, Quota.IMAGE_BYTES)
    return ask(request, server, template, form, running_short=short)


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def delete(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    if request.method == "GET":
        return ask(request, server, "servers/delete.html")
    try:
        server.delete_later(by=request.user)
    except ServerConflict as conflict:
        return ask(request, server, "servers/delete.html", None, conflict)
    messages.success(request, f"{server} is being deleted.")
    return leave_for(request, link(request, "servers:list"))


def own(request: AccountRequest) -> ServerQuerySet:
    return Server.objects.owned_by(request.account).select_related("region")


def _image_to_link(request: AccountRequest, server: Server) -> Image | None:
    """The image that the server was made from, while the account can look at it."""
    if server.image and server.is_from_shared_image:
        seen = Image.objects.visible_to(request.account).filter(pk=server.image.pk)
        return seen.first()
    return server.image


def _schedule_of(server: Server) -> dict[str, Any]:
    schedule = ImageSchedule.objects.filter(server=server).first()
    if schedule is None:
        return {"schedule": None}
    schedule.server = server
    last = schedule.last_image()
    return {
        "schedule": schedule,
        "last_image": last,
        "why_no_image": schedule.reason or (last.status_reason if last else ""),
        "kept": list(schedule.images_kept()),
    }


def _gone(
    request: AccountRequest, server_id: UUID, answer: HttpResponse
) -> HttpResponse:
    """The answer, for a server of the account that is deleted meanwhile; else 404."""
    events = ServerEvent.objects.filter(account=request.account, server_id=server_id)
    if not (wants_partial(request) and events.exists()):
        raise Http404
    return answer


def _console_of(server: Server) -> dict[str, Any]:
    """The last lines of the console, and a check sum by which news are noticed."""
    try:
        text = compute_for(server.region.backend).console_log(server.pk)
    except ComputeError:
        text = ""
    lines = text.rstrip().splitlines()[-CONSOLE_LINES:]
    log = "\n".join(lines)
    return {
        "console_log": log,
        "console_seen": f"{zlib.crc32(log.encode()):x}",
    }


def _screen_of(server: Server) -> dict[str, Any]:
    """When the picture was taken; one that is old makes the worker take a new one."""
    picture = _picture_of(server)
    taken_at = picture[1] if picture else 0
    if server.is_active and timezone.now().timestamp() - taken_at > FRESH:
        server.defer("screenshot")
    return {
        "screen_seen": f"{taken_at:.0f}" if server.is_active else "off",
        "screen_taken": bool(picture),
    }


def _picture_of(server: Server) -> tuple[bytes, float] | None:
    try:
        return compute_for(server.region.backend).screen(server.pk)
    except ComputeError:
        return None


def ask(
    request: AccountRequest,
    server: Server,
    template: str,
    form: Form | None = None,
    conflict: ServerConflict | None = None,
    **more: object,
) -> HttpResponse:
    """The dialog of a deed: as it is opened, with errors, or with what came between."""
    status = 422 if form and form.errors else 200
    if conflict:
        reread(server)
        status = 409
    context = {"server": server, "form": form, "conflict": conflict, **more}
    context["nav"] = "servers"
    return render_page(request, template, context, partial="sheet", status=status)


def reread(server: Server, *fields: str) -> None:
    """As it is now, after a conflict; 404 if it has been deleted meanwhile."""
    try:
        server.refresh_from_db(fields=fields or None)
    except Server.DoesNotExist:
        raise Http404(f"{server} has been deleted.") from None


def done(request: AccountRequest, server: Server, sentence: str) -> HttpResponse:
    """Back to the page from which the dialog was opened, list or detail."""
    messages.success(request, sentence)
    there = link(request, "servers:detail", server.pk)
    here = request.htmx.current_url_abs_path or ""
    if here.partition("?")[0] == link(request, "servers:list").partition("?")[0]:
        there = here
    return leave_for(request, there)

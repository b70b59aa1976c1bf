from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_http_methods

from accounts.access import AccountRequest, link, requires
from accounts.permissions import Capability
from controlpanel.http import leave_for, render_page
from servers.forms import ScheduleForm
from servers.models import ImageSchedule, Server, ServerConflict


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def schedule(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = _get_own(request, server_id)
    current = ImageSchedule.objects.filter(server=server).first()
    posted = request.method == "POST"
    form = ScheduleForm(request.POST if posted else None, schedule=current)
    context: dict[str, Any] = {"schedule": current, "form": form}
    if not form.is_valid():
        status = 422 if posted else 200
        return _ask(request, server, "servers/schedule.html", context, status)
    try:
        now = ImageSchedule.objects.set_for(
            server,
            weekday=form.weekday,
            hour=form.cleaned_data["hour"],
            keep=form.cleaned_data["keep"],
            by=request.user,
        )
    except ServerConflict as conflict:
        context["conflict"] = conflict
        return _ask(request, server, "servers/schedule.html", context, 409)
    return _done(request, server, f"Images of {server} are made: {now}.")


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def stop(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = _get_own(request, server_id)
    current = ImageSchedule.objects.filter(server=server).first()
    try:
        if current is None:
            raise ServerConflict(f"{server} has no schedule.")
        if request.method == "GET":
            return _ask(request, server, "servers/stop_schedule.html", {}, 200)
        current.stop(by=request.user)
    except ServerConflict as conflict:
        context = {"conflict": conflict}
        return _ask(request, server, "servers/stop_schedule.html", context, 409)
    return _done(request, server, f"No more images of {server} are scheduled.")


def _get_own(request: AccountRequest, server_id: UUID) -> Server:
    servers = Server.objects.owned_by(request.account).select_related("region")
    return get_object_or_404(servers, pk=server_id)


def _ask(
    request: AccountRequest,
    server: Server,
    template: str,
    context: dict[str, Any],
    status: int,
) -> HttpResponse:
    context |= {"nav": "servers", "server": server}
    return render_page(request, template, context, partial="sheet", status=status)


def _done(request: AccountRequest, server: Server, sentence: str) -> HttpResponse:
    messages.success(request, sentence)
    return leave_for(request, link(request, "servers:detail", server.pk))

"""The schedule by which images of a server are made."""

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_http_methods

from accounts.access import AccountRequest, requires
from accounts.permissions import Capability
from servers.forms import ScheduleForm
from servers.models import ImageSchedule, ServerConflict
from servers.views import ask, done, own


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def schedule(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    template = "servers/schedule.html"
    current = ImageSchedule.objects.filter(server=server).first()
    posted = request.method == "POST"
    form = ScheduleForm(request.POST if posted else None, schedule=current)
    if not form.is_valid():
        return ask(request, server, template, form, schedule=current)
    try:
        now = ImageSchedule.objects.set_for(
            server,
            weekday=form.weekday,
            hour=form.cleaned_data["hour"],
            keep=form.cleaned_data["keep"],
            by=request.user,
        )
    except ServerConflict as conflict:
        return ask(request, server, template, form, conflict, schedule=current)
    return done(request, server, f"Images of {server} are made: {now}.")


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_SERVERS)
def stop(request: AccountRequest, server_id: UUID) -> HttpResponse:
    server = get_object_or_404(own(request), pk=server_id)
    template = "servers/stop_schedule.html"
    schedules = ImageSchedule.objects.select_related("server")
    current = schedules.filter(server=server).first()
    try:
        if current is None:
            raise ServerConflict(f"{server} has no schedule.")
        if request.method == "GET":
            return ask(request, server, template)
        current.stop(by=request.user)
    except ServerConflict as conflict:
        return ask(request, server, template, None, conflict)
    return done(request, server, f"No more images of {server} are scheduled.")

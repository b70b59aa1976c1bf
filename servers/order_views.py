"""Create Server: the page, and the order that it sends."""

import secrets
import uuid
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import AccountRequest, RoleMissing, requires
from accounts.models import Region
from accounts.permissions import Capability
from controlpanel.http import TooMany, render_page
from images.models import Image
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError, ComputeUnavailable
from servers.forms import NOT_BOOTABLE, OrderForm
from servers.models import (
    AlreadyOrdered,
    Flavor,
    NotBootable,
    Server,
    SSHKey,
)
from servers.room import Room
from servers.selector import selector_of


@never_cache
@require_http_methods(["GET", "POST"])
@requires(Capability.VIEW_SERVERS)
def create(request: AccountRequest) -> HttpResponse:
    """Everyone who sees servers sees what can be booted; ordering needs more."""
    if request.method == "POST":
        if Capability.CREATE_SERVERS not in request.capabilities:
            raise RoleMissing(request.account, Capability.CREATE_SERVERS)
        return _order(request)
    chosen = _chosen_image(request)
    region = _region_of(request, chosen)
    form = OrderForm(
        initial={"token": uuid.uuid4(), "region": region.pk},
        account=request.account,
        region=region,
    )
    return _show(request, form, chosen)


def _order(request: AccountRequest) -> HttpResponse:
    region = _region_of(request, None)
    form = OrderForm(request.POST, account=request.account, region=region)
    if not form.is_valid():
        return _show(request, form, form.chosen)
    password = secrets.token_urlsafe(15)
    try:
        server = _make(request, form, password)
    except AlreadyOrdered as twin:
        context = {"server": twin.server, "nav": "create"}
        return render_page(
            request, "servers/ordered.html", context, partial="sheet", status=409
        )
    except NotBootable as refusal:
        form.add_error("image", str(refusal))
        return _show(request, form, form.chosen)
    except (TooMany, ComputeError) as refusal:
        form.add_error(None, str(refusal))
        return _show(request, form, form.chosen)
    context = {"server": server, "password": password, "nav": "create"}
    return render_page(
        request, "servers/created.html", context, partial="sheet", status=201
    )


def _make(request: AccountRequest, form: OrderForm, password: str) -> Server:
    compute = compute_for(form.in_region.backend)
    if reason := compute.unavailable_reason():
        raise ComputeUnavailable(reason)
    server = Server.objects.order(
        request.account,
        form.cleaned_data["image"],
        form.cleaned_data["flavor"],
        name=form.cleaned_data["name"],
        password_hash=compute.hash_password(password),
        public_key=form.public_key,
        token=form.cleaned_data["token"],
        by=request.user,
    )
    if name := form.cleaned_data["new_key_name"]:
        try:
            pasted = form.cleaned_data["new_key"]
            SSHKey.add(request.account, name=name, public_key=pasted, by=request.user)
        except (SSHKey.Taken, TooMany) as refusal:
            messages.warning(request, f"The server has the key. {refusal}")
    return server


def _region_of(request: AccountRequest, chosen: Image | None) -> Region:
    """The chosen image's, else the one asked for, else the account's home region."""
    if chosen:
        return chosen.region
    code = request.POST.get("region") or (request.region and request.region.code)
    known = {region.code for region in request.regions}
    if code not in known:
        code = request.account.home_region_id
    return Region.objects.get(pk=code)


def _chosen_image(request: AccountRequest) -> Image | None:
    """The image of ?image=, if this account may boot it."""
    text = request.GET.get("image")
    if not text:
        return None
    try:
        images = Image.objects.bootable_by(request.account)
        images = images.select_related("region", "owner")
        chosen = images.filter(pk=UUID(text)).first()
    except ValueError:
        chosen = None
    if chosen is None:
        messages.warning(request, NOT_BOOTABLE)
    elif (
        request.region
        and request.GET.get("tab")
        and (chosen.region_id != request.region.code)
    ):
        return None  # another region was chosen since
    return chosen


def _show(
    request: AccountRequest, form: OrderForm, chosen: Image | None
) -> HttpResponse:
    flavors = Flavor.objects.filter(is_public=True)
    room = Room(request.account, form.in_region, flavors)
    context = {
        "nav": "create",
        "form": form,
        "selector": selector_of(request, form.in_region, chosen),
        "flavors": [
            (flavor, (chosen and flavor.why_not(chosen)) or room.why_not(flavor))
            for flavor in flavors
        ],
        "chosen_flavor": form["flavor"].value() or request.GET.get("flavor"),
        "unavailable": room.unavailable,
        "running_short": room.running_short,
    }
    posted = request.method == "POST"
    return render_page(
        request,
        "servers/create.html",
        context,
        partial="order" if posted else "image-choice",
        status=422 if posted else 200,
    )

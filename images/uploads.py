"""Upload Image: the form, and the file that comes with it.

The body may be many gigabytes, so whatever can be refused is refused before it is
read. The row is made when all has come, in one transaction with its job: a connection
that breaks, or a process that dies, leaves no row, and a file that the sweep takes.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse, UnreadablePostError
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods
from django_htmx.http import reswap, retarget

from accounts.access import AccountRequest, link, requires
from accounts.models import Quota, QuotaReached, Region
from accounts.permissions import Capability
from controlpanel.figures import size_text
from controlpanel.http import leave_for, render_page, wants_partial
from images.forms import UploadForm
from images.models import Image
from images.receiving import StoreUploadHandler
from images.reconciling import defer_admit
from images.stores import (
    ImageStore,
    Inspection,
    Received,
    StoreError,
    TooLarge,
    store_for,
)

MOST_FORM_BYTES = 1 << 20  # what a body has besides the file


# The protection from forged requests would read the body at once, the file included,
# so the view below takes it up when the way for the file is laid.
@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
@requires(Capability.EDIT_IMAGES)
def upload(request: AccountRequest) -> HttpResponse:
    region = _region_for(request)
    store = store_for(region.backend)
    if request.method != "POST":
        return _show(request, region, UploadForm())
    if early := _refuse_early(request, region, store):
        return early
    upload_id = uuid4()
    limit = settings.IMAGES["max_upload_bytes"]
    with StoreUploadHandler(request, store, upload_id, limit=limit) as handler:
        request.upload_handlers = [handler]
        try:
            answer = _take(request, region, store, handler, upload_id)
        except UnreadablePostError:  # the browser has gone
            answer = HttpResponse(status=400)
    return answer


@csrf_protect
def _take(
    request: AccountRequest,
    region: Region,
    store: ImageStore,
    handler: StoreUploadHandler,
    upload_id: UUID,
) -> HttpResponse:
    form = UploadForm(request.POST, request.FILES)
    if handler.problem:
        form.errors.pop("file", None)
        form.add_error("file", str(handler.problem))
        status = 413 if isinstance(handler.problem, TooLarge) else 422
        return _show(request, region, form, status=status)
    if not form.is_valid() or handler.received is None:
        return _show(request, region, form, status=422)
    try:
        found = store.inspect(upload_id)
        image = _make_row(request, region, upload_id, form, found, handler.received)
    except (StoreError, QuotaReached) as problem:
        form.add_error("file", str(problem))
        reached = isinstance(problem, QuotaReached)
        return _show(request, region, form, status=409 if reached else 422)
    handler.keep()
    messages.success(request, _what_happens(image, found))
    return leave_for(request, link(request, "images:detail", image.pk))


@transaction.atomic
def _make_row(
    request: AccountRequest,
    region: Region,
    upload_id: UUID,
    form: UploadForm,
    found: Inspection,
    received: Received,
) -> Image:
    _make_room(request, received.size)
    image = Image.objects.create(
        id=upload_id,
        owner=request.account,
        region=region,
        name=form.cleaned_data["name"],
        description=form.cleaned_data["description"],
        os=form.cleaned_data["os"],
        origin=Image.Origin.UPLOAD,
        status=Image.Status.SAVING,
        uploaded_format=found.format,
        size=received.size,
        virtual_size=found.virtual_size,
        created_by=request.user.get_username(),
    )
    defer_admit(image)
    return image


def _region_for(request: AccountRequest) -> Region:
    """The region in the URL, else the account's home region."""
    code = request.region.code if request.region else request.account.home_region_id
    return get_object_or_404(Region, pk=code)


def _refuse_early(
    request: AccountRequest, region: Region, store: ImageStore
) -> HttpResponse | None:
    """What can be said without a look at the body."""
    length = int(request.META.get("CONTENT_LENGTH") or 0)
    limit = settings.IMAGES["max_upload_bytes"]
    if length > limit + MOST_FORM_BYTES:
        problem = f"The file is too large: at most {size_text(limit)} are allowed."
        return _refuse(request, region, problem, 413)
    if reason := store.unavailable_reason():
        return _refuse(request, region, reason, 409)
    if length > store.free_bytes() + MOST_FORM_BYTES:
        problem = "There is no room left for images at the moment."
        return _refuse(request, region, problem, 409)
    try:
        with transaction.atomic():
            _make_room(request, max(0, length - MOST_FORM_BYTES))
    except QuotaReached as reached:
        return _refuse(request, region, str(reached), 409)
    return None


def _make_room(request: AccountRequest, size: int) -> None:
    request.account.make_room({Quota.IMAGES: 1, Quota.IMAGE_BYTES: size})


def _refuse(
    request: AccountRequest, region: Region, problem: str, status: int
) -> HttpResponse:
    if wants_partial(request):  # the form stays as it is, with the file chosen
        part = "images/upload.html#upload-problem"
        answer = render(request, part, {"problem": problem}, status=status)
        return retarget(reswap(answer, "innerHTML"), "#problems")
    return _show(request, region, UploadForm(), problem=problem, status=status)


def _show(
    request: AccountRequest,
    region: Region,
    form: UploadForm,
    *,
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    here = reverse("images:upload", args=[request.account.pk])
    context: dict[str, Any] = {
        "nav": "images",
        "form": form,
        "region": region,
        "action": f"{here}?region={region.code}",
        "problem": problem,
        "running_short": request.account.running_short(Quota.IMAGES, Quota.IMAGE_BYTES),
        "most": size_text(settings.IMAGES["max_upload_bytes"]),
        "unavailable": store_for(region.backend).unavailable_reason(),
        "had_file": form.is_bound and bool(form.files),
    }
    template = "images/upload.html"
    return render_page(request, template, context, partial="upload-form", status=status)


def _what_happens(image: Image, found: Inspection) -> str:
    if found.will_convert:
        return (
            f"{image} has been received. It is a {found.format.upper()} disk, so it is "
            "now checked and converted to qcow2."
        )
    return f"{image} has been received and is now being checked."

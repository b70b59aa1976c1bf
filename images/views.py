from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib import messages
from django.db.models import Count
from django.http import HttpResponse, QueryDict
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_http_methods
from django_htmx.http import HttpResponseClientRefresh

from accounts.access import AccountRequest, link, requires
from accounts.permissions import Capability
from controlpanel.drawn import draw
from controlpanel.figures import date_text, size_text
from controlpanel.http import leave_for, render_page, wants_partial
from images.forms import ImageForm
from images.listing import MOST_COUNTED, counts_of, page_of, row_of
from images.models import Image, ImageConflict
from images.rows import Rows, gear_of, server_url
from images.wanted import Sort, Wanted

STOP_POLLING = 286  # htmx's own status
MOST_AT_ONCE = 100


@require_GET
@requires(Capability.VIEW_IMAGES)
def image_list(request: AccountRequest) -> HttpResponse:
    wanted, complaints = Wanted.read(request.GET, request.region)
    for complaint in complaints:
        messages.warning(request, complaint)
    page, rows = page_of(request.account, wanted), Rows(request)
    context: dict[str, Any] = {
        "nav": "images",
        "wanted": wanted,
        "head": draw(
            "images/image_list.html#image-heads",
            heads=tuple(Head.of(wanted, *column) for column in COLUMNS),
        ),
        "rows": [rows.write(found) for found in page.rows],
        "before": wanted.query(cursor=page.before) if page.before else "",
        "after": wanted.query(cursor=page.after) if page.after else "",
        "first": wanted.query(),
        "is_first": wanted.cursor is None,
    }
    if wants_partial(request):
        context["oob"] = bool(complaints)
    else:
        context["choices"] = draw(
            "images/image_list.html#region-choices",
            choices=_region_choices(request, wanted),
        )
    template = "images/image_list.html"
    return render_page(request, template, context, partial="image-table")


@require_GET
@requires(Capability.VIEW_IMAGES)
def image_row(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """One row of the list again, while its image is on its way."""
    found = row_of(request.account, image_id)
    if found is None:  # deleted: htmx takes the row away and asks no more
        return HttpResponse(status=STOP_POLLING)
    return HttpResponse(Rows(request).write(found))


@require_GET
@requires(Capability.VIEW_IMAGES)
def image_detail(request: AccountRequest, image_id: UUID) -> HttpResponse:
    images = Image.objects.visible_to(request.account)
    image = get_object_or_404(
        images.select_related("owner", "region", "blob"), pk=image_id
    )
    if wants_partial(request) and not image.is_changing:
        # It was on its way, and the page waited for it: now all of it is different.
        return HttpResponseClientRefresh()
    is_own = image.is_owned_by(request.account)
    context: dict[str, Any] = {
        "nav": "images",
        "image": image,
        "is_own": is_own,
        "is_shared": not is_own and not image.is_base,
        "size": size_text(image.size) if image.size else "Not known yet",
        "virtual_size": size_text(image.virtual_size)
        if image.virtual_size
        else "Not known yet",
        "created": date_text(image.created_at),
        "updated": date_text(image.updated_at),
        "server_url": server_url(request, image.source_server_id),
    }
    # An offer that is not accepted has no gear: it is answered below.
    if found := row_of(request.account, image.pk):
        context["gear"] = gear_of(request, found)
    template = "images/image_detail.html"
    return render_page(request, template, context, partial="image-facts")


@require_http_methods(["GET", "HEAD", "POST"])
@requires(Capability.EDIT_IMAGES)
def edit(request: AccountRequest, image_id: UUID) -> HttpResponse:
    image = _get_own(request, image_id)
    form, status = ImageForm.of(image), 200
    if request.method == "POST":
        form, status = ImageForm.of(image, request.POST), 422
        if form.is_valid():
            try:
                image.edit(**form.cleaned_data)
            except ImageConflict as conflict:
                form.add_error(None, str(conflict))
                status = 409
            else:
                messages.success(request, f"{image} has been saved.")
                return leave_for(request, _way_back(request, image))
    context = {"nav": "images", "image": image, "form": form}
    template = "images/edit.html"
    return render_page(request, template, context, partial="edit-sheet", status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@requires(Capability.DELETE_IMAGES)
def delete(request: AccountRequest, image_id: UUID) -> HttpResponse:
    image = _get_own(request, image_id)
    status, problem = 200, ""
    if request.method == "POST":
        try:
            image.delete_with_shares(by=request.user)
        except ImageConflict as conflict:
            status, problem = 409, str(conflict)
        else:
            messages.success(request, f"{image} has been deleted.")
            return leave_for(request, _list_left(request))
    context = {
        "nav": "images",
        "image": image,
        "shared_with": image.shares.count(),
        "problem": problem,
    }
    template = "images/delete.html"
    partial = "delete-sheet"
    return render_page(request, template, context, partial=partial, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@requires(Capability.DELETE_IMAGES)
def bulk_delete(request: AccountRequest) -> HttpResponse:
    """Show what would go, then delete; an image that cannot go spoils nothing."""
    posted = request.method == "POST"
    ids = _chosen(request.POST if posted else request.GET)
    images = Image.objects.owned_by(request.account).filter(pk__in=ids)
    found = list(images.annotate(shared_with=Count("shares")).order_by("name", "pk"))
    if missing := len(ids) - len(found):
        one = missing == 1
        messages.warning(
            request,
            f"{missing} of the chosen images {'is' if one else 'are'} not here any "
            f"more, or {'is' if one else 'are'} not this account's own.",
        )
    if posted:
        _delete_each(request, found)
    elif not ids:
        messages.info(request, "Choose the images to delete first.")
    if posted or not found:
        return leave_for(request, _list_left(request))
    context = {"nav": "images", "images": found}
    template = "images/bulk_delete.html"
    return render_page(request, template, context, partial="bulk-delete-sheet")


class Head(NamedTuple):
    """A column's heading; a query makes it a link that sorts."""

    label: str
    query: str = ""
    icon: str = ""
    direction: str = ""

    @classmethod
    def of(cls, wanted: Wanted, label: str, by: str = "") -> "Head":
        if not by:
            return cls(label)
        if wanted.sort.by != by:
            return cls(label, wanted.query(sort=Sort(by, by != "name")), "sort")
        descending = wanted.sort.descending
        return cls(
            label,
            wanted.query(sort=Sort(by, not descending)),
            "descend" if descending else "up",
            "descending" if descending else "ascending",
        )


COLUMNS = [
    ("Name", "name"),
    ("Source",),
    ("Region",),
    ("OS",),
    ("Date Created", "date"),
    ("Size", "size"),
    ("Status",),
]


@dataclass(frozen=True, slots=True)
class RegionLink:
    label: str
    count: str
    url: str
    is_chosen: bool


def _region_choices(request: AccountRequest, wanted: Wanted) -> tuple[RegionLink, ...]:
    counts = counts_of(request.account)
    # Not with the search: it changes as one types, and these links do not.
    everywhere = Wanted(None, sort=wanted.sort)
    choices = [
        RegionLink(
            "All Regions (Global)",
            _capped(max(sum(counts.values()), max(counts.values(), default=0))),
            everywhere.query(),
            is_chosen=request.region is None,
        )
    ]
    for region in request.regions:
        there = Wanted(region, sort=wanted.sort)
        chosen = region == request.region
        count = _capped(counts.get(region.code, 0))
        choices.append(RegionLink(region.name, count, there.query(), chosen))
    return tuple(choices)


def _capped(count: int) -> str:
    return str(count) if count <= MOST_COUNTED else f"{MOST_COUNTED}+"


def _get_own(request: AccountRequest, image_id: UUID) -> Image:
    return get_object_or_404(Image.objects.owned_by(request.account), pk=image_id)


def _list_left(request: AccountRequest) -> str:
    """The list as it was left, else the list; whoever may not see it goes home."""
    if Capability.VIEW_IMAGES not in request.capabilities:
        return link(request, "accounts:account")
    return _left(request, link(request, "images:list"))


def _way_back(request: AccountRequest, image: Image) -> str:
    return _left(request, link(request, "images:detail", image.pk))


def _left(request: AccountRequest, default: str) -> str:
    """The list's own address if that is the page on which htmx asked."""
    page = request.htmx.current_url_abs_path or ""
    images = link(request, "images:list").partition("?")[0]
    return page if page.partition("?")[0] == images else default


def _chosen(query: QueryDict) -> list[UUID]:
    ids = []
    for text in query.getlist("image")[:MOST_AT_ONCE]:
        try:
            ids.append(UUID(text))
        except ValueError:
            continue
    return list(dict.fromkeys(ids))


def _delete_each(request: AccountRequest, images: list[Image]) -> None:
    deleted = 0
    for image in images:
        try:
            image.delete_with_shares(by=request.user)
            deleted += 1
        except ImageConflict as conflict:
            messages.error(request, str(conflict))
    if deleted:
        plural = "image has" if deleted == 1 else "images have"
        messages.success(request, f"{deleted} {plural} been deleted.")

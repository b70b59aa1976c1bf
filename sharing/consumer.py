"""What a consumer sees and does: offers, answers, removing and reporting an image."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from django.contrib import messages
from django.db import models
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import trigger_client_event

from accounts.access import AccountRequest, link, requires
from accounts.permissions import Capability
from controlpanel.figures import size_text
from controlpanel.http import TooMany, leave_for, render_page, wants_partial
from images.wanted import read_date
from sharing.forms import ReportForm
from sharing.models import (
    ImageReport,
    ImageShare,
    ShareConflict,
    ShareEvent,
    Withdrawal,
)
from sharing.notifications import draw_notifications
from sharing.offers import draw_offers, offers_of, pending_offers
from sharing.sections import servers_from

OFFERS_A_PAGE = 25
MOST_WITHDRAWALS = 100
LONGEST_KEY = 19  # digits of a number that the database takes


@require_GET
def offers(request: AccountRequest, account_number: str) -> HttpResponse:
    """The header's count; open pages ask here whether it has changed.

    The usual answer is 204, after a single query for right and news together.
    Whatever else there is to say goes through the gate like any page.
    """
    now = pending_offers(account_number, request.user)
    if now and now.version == request.GET.get("seen"):
        return HttpResponse(status=204)
    return _show_count(request, account_number=account_number)


@requires(Capability.VIEW_IMAGES)
def _show_count(request: AccountRequest) -> HttpResponse:
    offers = offers_of(request)
    response = HttpResponse(
        draw_offers(request.account.number, offers) if offers else ""
    )
    return trigger_client_event(response, "offers-changed")


# For the test that looks for the gate of each page.
offers.capability = Capability.VIEW_IMAGES  # type: ignore[attr-defined]


@require_GET
@requires(Capability.VIEW_ACCOUNT)
def notifications(request: AccountRequest) -> HttpResponse:
    """The notifications of a page, which renews them when offers come or go."""
    place = request.GET.get("place", "")
    place = place if place in PLACES else "images"
    region = request.region.code if request.region else None
    return HttpResponse(
        draw_notifications(request, region=region, place=place, partial="#offers")
    )


@require_GET
@requires(Capability.VIEW_IMAGES)
def offers_list(request: AccountRequest) -> HttpResponse:
    """All pending offers of the region, newest first."""
    shares = ImageShare.objects.pending().received_by(request.account)
    shares = shares.in_region(request.region)
    key = _page_key(request)
    rows = list(
        (shares.older_than(*key) if key else shares)
        .select_related("image__owner", "region")
        .order_by("-created_at", "-pk")
        .fetch_mode(models.FETCH_RAISE)[: OFFERS_A_PAGE + 1]
    )
    more = len(rows) > OFFERS_A_PAGE
    context = {
        "nav": "images",
        "shares": rows[:OFFERS_A_PAGE],
        "last": rows[OFFERS_A_PAGE - 1] if more else None,
        "is_paged": key is not None,
    }
    return render(request, "sharing/offers.html", context)


@require_GET
@requires(Capability.VIEW_IMAGES)
def offer(request: AccountRequest, share_id: UUID) -> HttpResponse:
    share = _received_shares(request).filter(pk=share_id).first()
    if share is None:
        return _show_gone(request)
    return _show_offer(request, share)


@require_POST
@requires(Capability.ANSWER_SHARES)
def accept(request: AccountRequest, share_id: UUID) -> HttpResponse:
    return _answer(
        request,
        _received_shares(request).filter(pk=share_id).first(),
        ImageShare.accept,
        "{} is accepted. It is among your Saved Images now, and servers boot from it.",
    )


@require_POST
@requires(Capability.ANSWER_SHARES)
def reject(request: AccountRequest, share_id: UUID) -> HttpResponse:
    return _answer(
        request,
        _received_shares(request).filter(pk=share_id).first(),
        ImageShare.reject,
        "{} is rejected. If you want it later, ask the producer to share it again.",
    )


@require_http_methods(["GET", "POST"])
@requires(Capability.ANSWER_SHARES)
def remove(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """Reject an image after it was accepted; GET asks for a confirmation."""
    share = _received_shares(request).filter(image=image_id).first()
    if request.method == "POST":
        return _answer(
            request,
            share,
            ImageShare.remove,
            "{} is removed from your Saved Images. Servers that run from it go on.",
        )
    if share is None:
        return _show_gone(request)
    if not share.can_be_removed:
        return _show_offer(request, share)
    context = {
        "nav": "images",
        "share": share,
        "servers": servers_from(share.image, request),
        "back": _back(request),
    }
    return render_page(request, "sharing/remove.html", context, partial="sheet")


@require_GET
@requires(Capability.VIEW_IMAGES)
def withdrawals(request: AccountRequest) -> HttpResponse:
    """The accepted images that were taken back, until somebody has taken notice."""
    found = Withdrawal.objects.of_account(request.account)
    rows = list(found.select_related("event__producer")[:MOST_WITHDRAWALS])
    context = {
        "nav": "images",
        "withdrawals": rows,
        "newest": rows[0].pk if rows else 0,
        "back": _back(request),
    }
    return render_page(request, "sharing/withdrawals.html", context, partial="sheet")


@require_POST
@requires(Capability.ANSWER_SHARES)
def withdrawals_seen(request: AccountRequest) -> HttpResponse:
    """Hide what was shown, for all users, and not what came since."""
    newest = request.POST.get("newest", "")
    if newest.isdecimal() and len(newest) < LONGEST_KEY:
        found = Withdrawal.objects.of_account(request.account)
        found.filter(pk__lte=int(newest)).delete()
    return _renew(_close(request, _back(request)))


@require_http_methods(["GET", "POST"])
@requires(Capability.VIEW_ACCOUNT)
def report(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """Report an image that is or was shared with the account.

    Also by users with servers alone: they notice what a server does, and that goes
    on when the image is withdrawn.
    """
    received = ShareEvent.objects.received_by(request.account)
    event = received.filter(image_id=image_id).select_related("producer").first()
    if event is None:
        raise Http404
    form = ReportForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            ImageReport.objects.file(
                event, account=request.account, by=request.user, **form.cleaned_data
            )
        except TooMany as used_up:
            form.add_error(None, str(used_up))
        else:
            messages.success(
                request, f"Thank you. {event.image_name} is reported to the support."
            )
            return _close(request, _back(request))
    context = {"event": event, "form": form, "back": _back(request)}
    return render_page(
        request,
        "sharing/report.html",
        context,
        partial="sheet",
        status=422 if form.errors else 200,
    )


def _received_shares(request: AccountRequest) -> models.QuerySet[ImageShare]:
    shares = ImageShare.objects.received_by(request.account).with_declaration()
    return shares.select_related("image__owner", "image__region", "image__blob")


def _answer(
    request: AccountRequest,
    share: ImageShare | None,
    verb: Callable[..., None],
    sentence: str,
) -> HttpResponse:
    if share is None:
        return _show_gone(request)
    try:
        verb(share, by=request.user)
    except ShareConflict as conflict:
        fresh = _received_shares(request).filter(pk=share.pk).first()
        if fresh is None:
            return _show_gone(request)
        return _renew(_show_offer(request, fresh, error=str(conflict)))
    messages.success(request, sentence.format(share.image))
    return _leave_answered(request, share)


def _show_offer(
    request: AccountRequest, share: ImageShare, *, error: str = ""
) -> HttpResponse:
    context = {
        "nav": "images",
        "share": share,
        "image": share.image,
        "producer": share.image.owner,
        "size": size_text(share.image.size),
        "disk_size": size_text(share.image.virtual_size),
        "error": error,
        "back": _back(request),
        "place": request.GET.get("place", ""),
    }
    status = 409 if error else 200
    return render_page(
        request, "sharing/offer.html", context, partial="sheet", status=status
    )


def _show_gone(request: AccountRequest) -> HttpResponse:
    """The same for a share that was withdrawn, and for one that never was theirs."""
    context = {"nav": "images", "back": _back(request)}
    return _renew(render(request, "sharing/gone.html", context, status=404))


def _leave_answered(request: AccountRequest, share: ImageShare) -> HttpResponse:
    """Renew what the answer changes on the open page, or go on to the next one."""
    if _is_open_on_detail(request, share):
        # All of Image Detail changes; what was rejected has left the account.
        page = "images:detail" if share.is_accepted else "images:list"
        args = [share.image.pk] if share.is_accepted else []
        return leave_for(request, link(request, page, *args))
    return _renew(_close(request, _back(request)))


def _is_open_on_detail(request: AccountRequest, share: ImageShare) -> bool:
    detail = reverse("images:detail", args=[request.account.pk, share.image.pk])
    page = request.htmx.current_url_abs_path or ""
    return wants_partial(request) and page.partition("?")[0] == detail


def _close(request: AccountRequest, page: str) -> HttpResponse:
    """Close the dialog, or go back to the page that it was opened from."""
    if not wants_partial(request):
        return redirect(page)
    return render(request, "_messages.html", {"oob": True})


def _renew(response: HttpResponse) -> HttpResponse:
    # The header asks again on the one event, the list of images on the other.
    trigger_client_event(response, "offers-answered")
    return trigger_client_event(response, "images-changed")


def _back(request: AccountRequest) -> str:
    """The page that a dialog was opened from, for browsers without a dialog."""
    return link(request, PLACES.get(request.GET.get("place", ""), "images:list"))


PLACES = {"servers": "servers:create", "server-list": "servers:list"}


def _page_key(request: AccountRequest) -> tuple[datetime, UUID] | None:
    """The key of the last row seen, from ?before=<time>_<id>."""
    key = request.GET.get("before")
    if not key:
        return None
    at, _, pk = key.partition("_")
    try:
        return read_date(at), UUID(pk)
    except ValueError:
        messages.warning(request, "There is no such page: these are the newest offers.")
        return None

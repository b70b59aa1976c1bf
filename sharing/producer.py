"""What a producer sees and does: share an image, follow its shares, stop sharing."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db import models
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import trigger_client_event

from accounts import numbers
from accounts.access import AccountRequest, link, requires
from accounts.models import Account, LimitUse, User
from accounts.permissions import Capability
from controlpanel.http import TooMany, render_page, wants_partial
from images.models import Image
from sharing import credentials
from sharing.credentials import Access, CredentialRefused
from sharing.forms import ChosenForm, ShareForm, Way
from sharing.models import ImageShare, ShareConflict, ShareDeclaration, ShareEvent
from sharing.sections import image_sharing

LOOKUPS_USED_UP = (
    "This account has looked up {} names today, which is the limit. "
    "You can share without seeing the name."
)
# Where an error of the whole way stands.
FIELDS = {Way.OWN: "account", Way.ACCESS: "username", Way.CUSTOMER: "number"}
EVENTS_A_PAGE = 50
LONGEST_KEY = 20  # digits


@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
@requires(Capability.SHARE_IMAGES)
def share(request: AccountRequest, image_id: UUID) -> HttpResponse:
    image = _get_own_image(request, image_id)
    form = _share_form(
        request,
        image,
        number=request.GET.get("number", ""),
        data=request.POST if request.method == "POST" else None,
    )
    if not form.is_valid():
        return _show_share_form(request, image, form)
    way = Way(form.cleaned_data["way"])
    try:
        if form.asks_questions:
            ShareDeclaration.objects.answer(image, by=request.user)
        return WAYS[way](request, image, form)
    except (ShareConflict, TooMany, CredentialRefused) as refused:
        form.add_error(FIELDS[way], str(refused))
        return _show_share_form(request, image, form)


def _share_with_own(
    request: AccountRequest, image: Image, form: ShareForm
) -> HttpResponse:
    consumer = form.own_accounts[form.cleaned_data["account"]]
    return _share_in_one_go(request, image, consumer, answered_by=request.user)


def _share_with_access(
    request: AccountRequest, image: Image, form: ShareForm
) -> HttpResponse:
    access = credentials.check(
        request,
        request.account,
        username=form.cleaned_data["username"],
        password=form.cleaned_data["password"],
    )
    if len(access.accounts) > 1:
        token = credentials.sign_access(access, image=image, by=request.user)
        chosen = ChosenForm(accounts=access.accounts, token=token)
        return _show_chosen_form(request, image, chosen)
    (consumer,) = access.accounts
    return _share_in_one_go(request, image, consumer, answered_by=access.user)


def _share_with_customer(
    request: AccountRequest, image: Image, form: ShareForm
) -> HttpResponse:
    number = form.cleaned_data["number"]
    ImageShare.objects.offer(
        image, to=number, by=request.user, message=form.cleaned_data["message"]
    )
    name = _discoverable_name(number)
    shown = f"{name} ({number})" if name else number
    return _show_shared(
        request,
        image,
        f"{image} is offered to {shown}. It is pending until they accept it.",
    )


WAYS = {
    Way.OWN: _share_with_own,
    Way.ACCESS: _share_with_access,
    Way.CUSTOMER: _share_with_customer,
}


@require_POST
@requires(Capability.SHARE_IMAGES)
def share_chosen(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """The second step after a credential that opens several accounts."""
    image = _get_own_image(request, image_id)
    try:
        access = _read_access(request, image)
    except CredentialRefused:
        error = "The check of the password is too old. Enter it again."
        again = _share_form(request, image)
        return _show_share_form(request, image, again, error=error)
    form = ChosenForm(request.POST, accounts=access.accounts)
    if not form.is_valid():
        return _show_chosen_form(request, image, form)
    consumer = {each.pk: each for each in access.accounts}[form.cleaned_data["account"]]
    try:
        return _share_in_one_go(request, image, consumer, answered_by=access.user)
    except (ShareConflict, TooMany) as refused:
        form.add_error("account", str(refused))
        return _show_chosen_form(request, image, form)


@require_POST
@requires(Capability.SHARE_IMAGES)
def lookup(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """Echo the name of a discoverable account whose number is being typed."""
    _get_own_image(request, image_id)
    number = "".join(request.POST.get("number", "").split()).replace("-", "")
    context: dict[str, Any] = {}
    if numbers.is_valid(number):
        limit = settings.SHARING["lookups_per_day"]
        try:
            LimitUse.take(
                request.account,
                "look-ups",
                limit=limit,
                per=timedelta(days=1),
                sentence=LOOKUPS_USED_UP.format(limit),
            )
        except TooMany as used_up:
            context["refused"] = str(used_up)
        else:
            context["name"] = _discoverable_name(number)
    return render(request, "sharing/lookup.html", context)


@require_GET
@requires(Capability.VIEW_IMAGES)
def shares(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """The Image Sharing section, which asks here whether something has changed."""
    image = _get_own_image(request, image_id)
    section = image_sharing(request, image)
    if wants_partial(request) and section["version"] == request.GET.get("seen"):
        return HttpResponse(status=204)
    return render_page(request, "sharing/shares.html", section, partial="shares")


@require_GET
@requires(Capability.VIEW_IMAGES)
def events(request: AccountRequest, image_id: UUID) -> HttpResponse:
    """All that happened to the shares of an image, as this side may read it."""
    for side in (
        ShareEvent.objects.sent_by(request.account).filter(image_id=image_id),
        ShareEvent.objects.received_by(request.account).filter(image_id=image_id),
    ):
        newest = side.first()
        if newest:
            break
    else:
        raise Http404
    before = request.GET.get("before", "")
    is_paged = before.isdecimal() and len(before) < LONGEST_KEY
    if before and not is_paged:
        messages.warning(request, "There is no such page: these are the newest events.")
    page = side.filter(pk__lt=int(before)) if is_paged else side
    rows = list(page.fetch_mode(models.FETCH_RAISE)[: EVENTS_A_PAGE + 1])
    context = {
        "nav": "images",
        "image_id": image_id,
        "image_name": newest.image_name,
        "events": rows[:EVENTS_A_PAGE],
        "next": rows[EVENTS_A_PAGE - 1].pk if len(rows) > EVENTS_A_PAGE else None,
        "is_paged": is_paged,
    }
    return render(request, "sharing/events.html", context)


@require_http_methods(["GET", "POST"])
@requires(Capability.UNSHARE_IMAGES)
def revoke(request: AccountRequest, share_id: UUID) -> HttpResponse:
    share = _get_sent_share(request, share_id)
    if request.method == "GET":
        context = {"nav": "images", "share": share}
        return render_page(request, "sharing/revoke.html", context, partial="sheet")
    try:
        share.revoke(by=request.user)
    except ShareConflict as conflict:
        return _show_conflict(request, share.image, conflict)
    return _show_shared(
        request,
        share.image,
        f"{share.image} is no longer shared with {share.consumer_number}.",
    )


@require_POST
@requires(Capability.UNSHARE_IMAGES)
def share_again(request: AccountRequest, share_id: UUID) -> HttpResponse:
    """Remove a consumer who rejected, and open the dialog with the number in it."""
    share = _get_sent_share(request, share_id)
    try:
        share.revoke(by=request.user)
    except ShareConflict as conflict:
        return _show_conflict(request, share.image, conflict)
    if not wants_partial(request):
        url = link(request, "sharing:share", share.image.pk)
        joint = "&" if "?" in url else "?"
        return redirect(f"{url}{joint}number={share.consumer_number}")
    form = _share_form(request, share.image, number=share.consumer_number)
    return trigger_client_event(
        _show_share_form(request, share.image, form), "shares-changed"
    )


def _get_own_image(request: AccountRequest, image_id: UUID) -> Image:
    images = Image.objects.owned_by(request.account).select_related("owner", "region")
    return get_object_or_404(images, pk=image_id)


def _get_sent_share(request: AccountRequest, share_id: UUID) -> ImageShare:
    shares = ImageShare.objects.sent_by(request.account)
    return get_object_or_404(shares.select_related("image__owner"), pk=share_id)


def _share_form(
    request: AccountRequest, image: Image, *, number: str = "", data: Any = None
) -> ShareForm:
    return ShareForm(
        data,
        account=request.account,
        own_accounts=credentials.accounts_answered_by(
            request.user, but=request.account
        ),
        declaration=image.declarations.newest(),
        number=number,
    )


def _read_access(request: AccountRequest, image: Image) -> Access:
    return credentials.read_access(
        request.POST.get("token", ""),
        image=image,
        by=request.user,
        but=request.account,
    )


def _discoverable_name(number: str) -> str:
    """The name of an account that wants to be found; empty for any other number."""
    accounts = Account.objects.get_queryset().filter(pk=number, discoverable=True)
    return accounts.values_list("name", flat=True).first() or ""


def _share_in_one_go(
    request: AccountRequest, image: Image, consumer: Account, *, answered_by: User
) -> HttpResponse:
    ImageShare.objects.offer_and_accept(
        image, to=consumer, by=request.user, answered_by=answered_by
    )
    return _show_shared(
        request, image, f"{image} is shared with {consumer}, and accepted there."
    )


def _show_share_form(
    request: AccountRequest, image: Image, form: ShareForm, *, error: str = ""
) -> HttpResponse:
    context = {
        "nav": "images",
        "image": image,
        "form": form,
        "error": error,
    }
    return render_page(
        request,
        "sharing/share.html",
        context,
        partial="sheet",
        status=422 if form.errors or error else 200,
    )


def _show_chosen_form(
    request: AccountRequest, image: Image, form: ChosenForm
) -> HttpResponse:
    return render_page(
        request,
        "sharing/share_chosen.html",
        {"nav": "images", "image": image, "form": form},
        partial="sheet",
        status=422 if form.errors else 200,
    )


def _show_shared(request: AccountRequest, image: Image, sentence: str) -> HttpResponse:
    """Close the dialog and have the section renew itself, or go to the image."""
    messages.success(request, sentence)
    if not wants_partial(request):
        return redirect(f"{link(request, 'images:detail', image.pk)}#image-sharing")
    response = render(request, "_messages.html", {"oob": True})
    return trigger_client_event(response, "shares-changed")


def _show_conflict(
    request: AccountRequest, image: Image, conflict: ShareConflict
) -> HttpResponse:
    context = {
        "nav": "images",
        "message": str(conflict),
        "back": link(request, "images:detail", image.pk),
    }
    response = render_page(
        request, "sharing/conflict.html", context, partial="sheet", status=409
    )
    return trigger_client_event(response, "shares-changed")

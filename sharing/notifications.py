"""The notifications above Saved Images and in Create Server: of pending offers, and of
accepted images that were taken back."""

from functools import cache
from typing import NamedTuple
from uuid import UUID

from django.utils.safestring import SafeString

from accounts.access import AccountRequest, address, link
from accounts.models import Account
from controlpanel.drawn import draw
from controlpanel.figures import date_text
from controlpanel.prepared import Gap, Prepared
from sharing.models import ImageShare, ShareEvent
from sharing.offers import offers_of

SHOWN = 3
ANY_SHARE = UUID(int=0)


class LossNotice(NamedTuple):
    """An image that was taken back, in texts that are ready to print."""

    producer: str
    producer_number: str
    image: str
    is_deleted: bool
    lost: str
    lost_iso: str


class Notice(NamedTuple):
    """An offer as the notification tells it, in texts that are ready to print."""

    id: str
    url: str
    producer: str
    producer_number: str
    image: str
    region: str
    created: str
    created_iso: str
    message: str


def draw_notifications(
    request: AccountRequest, *, region: str | None, place: str, partial: str = ""
) -> SafeString:
    """The offers of a region, or of all when none is given, the newest by name."""
    offers = offers_of(request)
    count = offers.count_in(region) if offers else ""
    # The header's count spares most pages a query.
    notices = _notices(request, region, place) if count else []
    losses = _losses(request.account) if offers and offers.has_withdrawals else []
    return draw(
        f"sharing/notifications.html{partial}",
        reload_url=address("sharing:notifications", request.account.number),
        list_url=address("sharing:offers-list", request.account.number),
        count=count,
        notices=tuple(notices),
        has_more=count != str(len(notices)),
        losses=tuple(losses[:SHOWN]),
        has_more_losses=len(losses) > SHOWN,
        losses_url=link(request, "sharing:withdrawals"),
        place=place,
        region_code=region or "all",
    )


def _notices(request: AccountRequest, region: str | None, place: str) -> list[Notice]:
    labels = {each.code: each.label for each in request.regions}
    url = link(request, "sharing:offer", ANY_SHARE)
    url += f"{'&' if '?' in url else '?'}place={place}"
    rows = _newest(in_region=region is not None).run(
        {"account": request.account.pk, "region": region}
    )
    return [
        Notice(
            id=str(share_id),
            url=url.replace(str(ANY_SHARE), str(share_id)),
            producer=producer,
            producer_number=number,
            image=image,
            region=labels.get(code, code),
            created=date_text(created_at),
            created_iso=created_at.isoformat(),
            message=message,
        )
        for share_id, producer, number, image, code, created_at, message in rows
    ]


def _losses(account: Account) -> list[LossNotice]:
    """The newest, and one more if there are more than are shown."""
    events = ShareEvent.objects.filter(withdrawal__account=account)
    return [
        LossNotice(
            producer=event.producer.name,
            producer_number=event.producer_id,
            image=event.image_name,
            is_deleted=event.is_with_image,
            lost=date_text(event.created_at),
            lost_iso=event.created_at.isoformat(),
        )
        for event in events.select_related("producer").order_by("-withdrawal__pk")[
            : SHOWN + 1
        ]
    ]


@cache
def _newest(*, in_region: bool) -> Prepared:
    pending = ImageShare.objects.pending().filter(consumer=Gap("account"))
    if in_region:
        pending = pending.filter(region=Gap("region"))
    return Prepared(
        pending.order_by("-created_at", "-pk").values_list(
            "pk",
            "image__owner__name",
            "image__owner",
            "image_name",
            "region",
            "created_at",
            "message",
        )[:SHOWN]
    )

"""The notification of pending offers, above Saved Images and in Create Server."""

from functools import cache
from typing import NamedTuple
from uuid import UUID

from django.utils.safestring import SafeString

from accounts.access import AccountRequest, address, link
from controlpanel.drawn import draw
from controlpanel.figures import date_text
from controlpanel.prepared import Gap, Prepared
from sharing.models import ImageShare
from sharing.offers import offers_of

SHOWN = 3
ANY_SHARE = UUID(int=0)


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
    return draw(
        f"sharing/notifications.html{partial}",
        reload_url=address("sharing:notifications", request.account.number),
        list_url=address("sharing:offers-list", request.account.number),
        count=count,
        notices=tuple(notices),
        has_more=count != str(len(notices)),
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

"""The notification of pending offers, above Saved Images and in Create Server."""

from typing import Any

from django.db import models

from accounts.access import AccountRequest
from sharing.models import ImageShare
from sharing.offers import offers_of

SHOWN = 3


def notifications_of(
    request: AccountRequest, *, region: str | None, place: str
) -> dict[str, Any]:
    """The offers of a region, or of all when none is given, the newest by name."""
    offers = offers_of(request)
    count = offers.count_in(region) if offers else ""
    shares: list[ImageShare] = []
    if count:  # the header's count spares most pages a query
        pending = ImageShare.objects.pending().received_by(request.account)
        pending = pending.filter(region=region) if region else pending
        shares = list(
            pending.select_related("image__owner", "region")
            .order_by("-created_at", "-pk")
            .fetch_mode(models.FETCH_RAISE)[:SHOWN]
        )
    return {
        "request": request,
        "count": count,
        "shares": shares,
        "has_more": count != str(len(shares)),
        "place": place,
        "region_code": region or "all",
    }

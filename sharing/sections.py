"""What image pages show of sharing; the template tags and the views both use it."""

from typing import Any, cast

from django.db import models

from accounts.access import AccountRequest
from accounts.models import Account
from accounts.permissions import Capability
from images.models import Image
from sharing.models import ImageShare, ShareEvent
from sharing.versions import version_of

EVENTS_IN_SECTION = 10


def image_sharing(request: AccountRequest, image: Image) -> dict[str, Any]:
    """The Image Sharing table of an own image; it has at most 128 rows."""
    shares = list(
        ImageShare.objects.filter(image=image)
        .with_consumer_name(request.user)
        .order_by("created_at", "pk")
        .fetch_mode(models.FETCH_RAISE)
    )
    events = ShareEvent.objects.sent_by(request.account).filter(image_id=image.pk)
    return {
        "nav": "images",
        "request": request,
        "image": image,
        "shares": shares,
        "version": version_of((share.pk, share.status) for share in shares),
        **_some(events),
    }


def shared_by(request: AccountRequest, image: Image) -> dict[str, Any]:
    """What a consumer is told of an image that was offered to it."""
    shares = ImageShare.objects.received_by(request.account).filter(image=image)
    events = ShareEvent.objects.received_by(request.account).filter(image_id=image.pk)
    producer = cast(Account, image.owner)
    return {
        "request": request,
        "image": image,
        "producer": producer,
        "is_available": image.is_bootable and not producer.is_suspended,
        "share": shares.with_declaration().first(),
        "servers": servers_from(image, request),
        **_some(events),
    }


def _some(events: models.QuerySet[ShareEvent]) -> dict[str, Any]:
    some = list(events.fetch_mode(models.FETCH_RAISE)[: EVENTS_IN_SECTION + 1])
    return {
        "events": some[:EVENTS_IN_SECTION],
        "has_more_events": len(some) > EVENTS_IN_SECTION,
    }


def servers_from(image: Image, request: AccountRequest) -> list[Any]:
    """The account's newest servers from the image, of which a copy can be made."""
    if Capability.VIEW_SERVERS not in request.capabilities:
        return []
    # Servers are a layer above, so they are asked for through the image.
    servers: Any = getattr(image, "servers")  # noqa: B009
    return list(servers.with_disk().filter(account=request.account)[:3])

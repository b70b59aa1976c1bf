"""Whether servers still need an image, for the pages that are about to take it away.

Of another account's servers nobody is told more than yes or no.
"""

from collections.abc import Iterable
from typing import NamedTuple

from django import template
from django.template import Context

from images.models import Image
from servers.models import Server

register = template.Library()


class Use(NamedTuple):
    by_own: bool
    by_others: bool


@register.simple_tag
def accounts_using(image: Image) -> frozenset[str]:
    """The accounts whose servers still need the image."""
    servers = Server.objects.resting_on([image])
    return frozenset(servers.values_list("account", flat=True).distinct())


@register.simple_tag(takes_context=True)
def use_of(context: Context, image: Image) -> Use:
    return _use(context["request"].account.pk, accounts_using(image))


@register.simple_tag(takes_context=True)
def with_use(context: Context, images: Iterable[Image]) -> list[tuple[Image, Use]]:
    """Each image with its use, by one query for all of them."""
    images = list(images)
    using: dict[object, set[str]] = {image.pk: set() for image in images}
    servers = Server.objects.resting_on(images)
    for image_id, account in servers.values_list("image", "account").distinct():
        using[image_id].add(account)
    own = context["request"].account.pk
    return [(image, _use(own, using[image.pk])) for image in images]


def _use(own: str, accounts: Iterable[str]) -> Use:
    accounts = set(accounts)
    return Use(by_own=own in accounts, by_others=bool(accounts - {own}))

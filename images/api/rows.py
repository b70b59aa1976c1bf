"""Images as rows for the API, found by querysets whose SQL is kept."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple, cast
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.fields.tuple_lookups import (
    Tuple,
    TupleGreaterThan,
    TupleLessThan,
)

from accounts.models import Account
from controlpanel.api.faults import Forbidden, NotFound
from controlpanel.prepared import Gap, Prepared
from images.api.bodies import Row
from images.models import Image

FIRST = ("id", "name", "size", "created_at")
OF_BLOB = ("digest", "md5")
REST = tuple(field for field in Row._fields if field not in {*FIRST, *OF_BLOB})
# An image by itself, and an image reached through a share of it: what the shares know
# by themselves (0003) is asked of them, so that their indexes serve it.
OF_IMAGE = (*FIRST, *REST, *(f"blob__{field}" for field in OF_BLOB))
OF_SHARE = (
    *("image_id", "image_name", "image_size", "image_created_at"),
    *(f"image__{field}" for field in REST),
    *(f"image__blob__{field}" for field in OF_BLOB),
)
# Each sort key of the API with its place in a row; an image that was never anything
# else is sorted by what it is declared to be.
SORT_KEYS = {
    key: Row._fields.index(key)
    for key in (
        *("name", "status", "container_format", "disk_format", "size", "id"),
        *("created_at", "updated_at"),
    )
}


class Branch(NamedTuple):
    """One of the sources of a list: own images, base images, offers of one answer."""

    source: str  # own, base, or a status of the share
    condition: Q = Q()

    @property
    def is_shared(self) -> bool:
        return self.source not in {"own", "base"}

    @property
    def columns(self) -> tuple[str, ...]:
        return OF_SHARE if self.is_shared else OF_IMAGE

    def rows(self) -> QuerySet[Any, Any]:
        region = Gap("region")
        if self.source == "own":
            images = Image.objects.filter(owner=Gap("account"), region=region)
            return images.filter(self.condition)
        if self.source == "base":
            return Image.objects.base().filter(self.condition, region=region)
        shares = _shares().objects.filter(consumer=Gap("account"), status=self.source)
        return cast("QuerySet[Any, Any]", shares.filter(self.condition, region=region))


class Order(NamedTuple):
    """What a list is sorted by: keys of SORT_KEYS, and which of them descend."""

    keys: tuple[str, ...] = ("created_at", "id")
    descending: tuple[bool, ...] = (True, True)


def page_of(
    account: Account,
    region: str,
    branches: list[Branch],
    order: Order,
    *,
    limit: int,
    after: Row | None,
    is_usual: bool,
) -> list[Row]:
    """Up to `limit` rows, by one query; of what is asked for often the SQL is kept."""
    if not branches or not limit:
        return []
    values: dict[str, Any] = {"account": account.pk, "region": region}
    if after:
        values |= {key: after[SORT_KEYS[key]] for key in order.keys}
    make = _usual_page if is_usual else _page
    try:
        page = make(tuple(branches), order, limit, after is not None)
    except EmptyResultSet:  # nothing can be as the filters want it
        return []
    return [Row(*row) for row in page.run(values)]


def find(account: Account, region: str, image_id: UUID) -> Row:
    """The image if the account sees it, whatever it answered to an offer; else 404."""
    found = _visible().first({"account": account.pk, "region": region, "id": image_id})
    if found is None:
        raise NotFound(f"No image found with ID {image_id}")
    return Row(*found)


def get_own(
    account: Account,
    region: str,
    image_id: UUID,
    *,
    refusal: str,
    lock: bool = False,
) -> Image:
    """The account's own image: 404 if it is not visible, 403 if it is another's."""
    images = Image.objects.owned_by(account).filter(region=region)
    if lock:
        images = images.select_for_update(of=["self"])
    image = images.select_related("region", "blob").filter(pk=image_id).first()
    if image is None:
        find(account, region, image_id)
        raise Forbidden(refusal)
    return image


def _page(
    branches: tuple[Branch, ...], order: Order, limit: int, beyond: bool
) -> Prepared:
    pages = [
        _ordered(each, order, beyond).values_list(*each.columns)[:limit]
        for each in branches
    ]
    first, *rest = pages
    if not rest:
        return Prepared(first)
    names = _signed(branches[0], order)
    return Prepared(first.union(*rest, all=True).order_by(*names)[:limit])


_usual_page = lru_cache(maxsize=200)(_page)


def _ordered(branch: Branch, order: Order, beyond: bool) -> QuerySet[Any, Any]:
    rows = branch.rows()
    if beyond:
        rows = rows.filter(_beyond(branch, order))
    return rows.order_by(*_signed(branch, order))


def _beyond(branch: Branch, order: Order) -> Any:
    """What comes after the marker."""
    names = [branch.columns[SORT_KEYS[key]] for key in order.keys]
    if len(set(order.descending)) == 1:
        # One comparison of all keys at once, which an index serves.
        compare = TupleLessThan if order.descending[0] else TupleGreaterThan
        return compare(Tuple(*names), tuple(Gap(key) for key in order.keys))
    beyond, same = Q(), Q()
    for name, key, descends in zip(names, order.keys, order.descending, strict=True):
        lookup = "lt" if descends else "gt"
        beyond |= same & Q(**{f"{name}__{lookup}": Gap(key)})
        same &= Q(**{name: Gap(key)})
    return beyond


def _signed(branch: Branch, order: Order) -> list[str]:
    return [
        ("-" if descends else "") + branch.columns[SORT_KEYS[key]]
        for key, descends in zip(order.keys, order.descending, strict=True)
    ]


@cache
def _visible() -> Prepared:
    offered = _shares().objects.filter(image=OuterRef("pk"), consumer=Gap("account"))
    images = Image.objects.filter(
        Q(owner=None) | Q(owner=Gap("account")) | Exists(offered),
        pk=Gap("id"),
        region=Gap("region"),
    )
    return Prepared(images.values_list(*OF_IMAGE))


@cache
def _shares() -> Any:
    # Reached through the account, since images import nothing of sharing.
    return Account._meta.get_field("received_shares").related_model

"""Saved Images as rows: an account's own images and those it accepted, page by page.

The two kinds are two branches of a UNION ALL. Each reads no more rows than a page has,
in the order asked for, from an index: an OR would read and sort all that the account
can see. The key of a page is the last row's value and ID, compared as one pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, cast
from uuid import UUID

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import (
    CharField,
    Func,
    IntegerField,
    Lookup,
    OuterRef,
    QuerySet,
    UUIDField,
    Value,
)
from django.db.models.fields.tuple_lookups import (
    Tuple,
    TupleGreaterThan,
    TupleLessThan,
)

from accounts.models import Account, Region
from controlpanel.prepared import Gap, Prepared
from images.models import Image
from images.wanted import Cursor, Key, Sort, Wanted

PAGE_SIZE = 25
MOST_COUNTED = 100


@CharField.register_lookup
class HasText(Lookup):
    """Holds the text, in capitals or not; an index of trigrams serves it.

    Django's icontains compares UPPER(name), which no such index serves.
    """

    lookup_name = "has_text"

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        left, left_params = self.process_lhs(compiler, connection)
        right, right_params = self.process_rhs(compiler, connection)
        return f"{left} ILIKE {right}", (*left_params, *right_params)


def pattern_of(text: str) -> str:
    """The text as an ILIKE pattern in which nothing is special."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


class Found(NamedTuple):
    """One row as the database gives it; an own image has no producer."""

    id: UUID
    name: str
    region: str
    os: str
    created_at: datetime
    size: int
    status: str
    progress: int
    protected: bool
    private: bool
    unbootable_reason: str
    origin: str
    server_id: UUID | None
    server_name: str | None
    producer_number: str | None
    producer_name: str | None
    producer_status: str | None

    @property
    def is_own(self) -> bool:
        return self.producer_number is None

    def cursor(self, sort: Sort, *, back: bool = False) -> Cursor:
        keys: dict[str, Key] = {
            "date": self.created_at,
            "name": self.name,
            "size": self.size,
        }
        return Cursor(keys[sort.by], self.id, back)


# Where each branch has what the list is sorted by, and the fields of Found. What the
# shares know by themselves (0003) is asked of them, so that their indexes serve it.
OWN = {"date": "created_at", "name": "name", "size": "size", "id": "id"}
OWN_COLUMNS: tuple[str | Value, ...] = (
    *("id", "name", "region_id", "os", "created_at", "size"),
    *("status", "progress", "protected", "private", "unbootable_reason", "origin"),
    *("source_server_id", "source_server_name"),
    *(Value(None, output_field=CharField()) for _ in range(3)),
)
ACCEPTED = {
    "date": "image_created_at",
    "name": "image_name",
    "size": "image_size",
    "id": "image_id",
}
ACCEPTED_COLUMNS: tuple[str | Value, ...] = (
    *("image_id", "image_name", "region_id", "image__os"),
    *("image_created_at", "image_size"),
    *("image__status", "image__progress", "image__protected", "image__private"),
    *("image__unbootable_reason", "image__origin"),
    # A consumer never learns of the producer's servers.
    Value(None, output_field=UUIDField()),
    Value(None, output_field=CharField()),
    *("image__owner_id", "image__owner__name", "image__owner__status"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, and the cursors of its neighbours; none where it ends."""

    rows: list[Found]
    before: Cursor | None = None
    after: Cursor | None = None


def page_of(account: Account, wanted: Wanted) -> Page:
    """One query, whatever is wanted."""
    cursor, sort = wanted.cursor, wanted.sort
    back = cursor is not None and cursor.back
    shape = Shape(
        sort.by,
        descending=sort.descending != back,
        in_region=wanted.region is not None,
        with_text=bool(wanted.text),
        beyond=cursor is not None,
    )
    found = _rows_of(shape).run(_values_for(account, wanted))
    rows = [Found(*row) for row in found[:PAGE_SIZE]]
    more = len(found) > PAGE_SIZE
    if back:
        rows.reverse()
    if not rows:
        return Page(rows)
    return Page(
        rows,
        before=rows[0].cursor(sort, back=True) if (more if back else cursor) else None,
        after=rows[-1].cursor(sort) if more or back else None,
    )


def row_of(account: Account, image_id: UUID) -> Found | None:
    """The row of one image, if it is on the account's list."""
    found = _one_row().run({"account": account.pk, "id": image_id})
    return Found(*found[0]) if found else None


def counts_of(account: Account) -> dict[str, int]:
    """How many images each region has; beyond MOST_COUNTED it is not counted on."""
    return dict(_counts().run({"account": account.pk}))


class Shape(NamedTuple):
    """All that makes a difference to the SQL of a page."""

    by: str
    descending: bool
    in_region: bool
    with_text: bool
    beyond: bool


def _values_for(account: Account, wanted: Wanted) -> dict[str, Any]:
    values: dict[str, Any] = {"account": account.pk}
    if wanted.region:
        values["region"] = wanted.region.code
    if wanted.text:
        values["text"] = pattern_of(wanted.text)
    if wanted.cursor:
        values |= {"key": wanted.cursor.key, "id": wanted.cursor.image_id}
    return values


@cache
def _rows_of(shape: Shape) -> Prepared:
    own, accepted = _branches()
    sign = "-" if shape.descending else ""
    return Prepared(
        _narrow(own, OWN, shape)
        .values_list(*OWN_COLUMNS)[: PAGE_SIZE + 1]
        .union(
            _narrow(accepted, ACCEPTED, shape).values_list(*ACCEPTED_COLUMNS)[
                : PAGE_SIZE + 1
            ],
            all=True,
        )
        .order_by(sign + OWN[shape.by], sign + "id")[: PAGE_SIZE + 1]
    )


@cache
def _one_row() -> Prepared:
    own, accepted = _branches()
    return Prepared(
        own.filter(id=Gap("id"))
        .values_list(*OWN_COLUMNS)
        .union(
            accepted.filter(image=Gap("id")).values_list(*ACCEPTED_COLUMNS), all=True
        )
    )


@cache
def _counts() -> Prepared:
    arrays = [
        ArraySubquery(
            images.filter(region=OuterRef("pk"))
            .order_by()
            .values_list(Value(1))[: MOST_COUNTED + 1]
        )
        for images in _branches()
    ]
    own, accepted = (
        Func(array, function="cardinality", output_field=IntegerField())
        for array in arrays
    )
    return Prepared(Region.objects.order_by().values_list("code", own + accepted))


def _branches() -> tuple[QuerySet[Any, Any], QuerySet[Any, Any]]:
    # Reached through the account, since images import nothing of sharing.
    shares = cast(Any, Account._meta.get_field("received_shares").related_model)
    return (
        Image.objects.filter(owner=Gap("account")),
        shares.objects.accepted().filter(consumer=Gap("account")),
    )


def _narrow(
    rows: QuerySet[Any, Any], keys: dict[str, str], shape: Shape
) -> QuerySet[Any, Any]:
    key, image_id = keys[shape.by], keys["id"]
    if shape.in_region:
        rows = rows.filter(region=Gap("region"))
    if shape.with_text:
        rows = rows.filter(**{f"{keys['name']}__has_text": Gap("text")})
    if shape.beyond:
        compare = TupleLessThan if shape.descending else TupleGreaterThan
        rows = rows.filter(compare(Tuple(key, image_id), (Gap("key"), Gap("id"))))
    sign = "-" if shape.descending else ""
    return rows.order_by(sign + key, sign + image_id)

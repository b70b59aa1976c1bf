"""What the URL of the Saved Images list asks for: region, search, order and page."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from accounts.regions import RegionChoice

LONGEST_SEARCH = 255
LARGEST_SIZE = 2**63 - 1

type Key = datetime | str | int


class Sort(NamedTuple):
    """What the list is sorted by, and in which direction."""

    by: str = "date"
    descending: bool = True

    @classmethod
    def read(cls, text: str) -> Sort:
        sort = cls(text.removeprefix("-"), text.startswith("-"))
        if sort.by not in KEY_READERS:
            raise ValueError(text)
        return sort

    def __str__(self) -> str:
        return f"-{self.by}" if self.descending else self.by


NEWEST_FIRST = Sort()


class Cursor(NamedTuple):
    """The row that a page begins after, or, going back, ends before."""

    key: Key
    image_id: UUID
    back: bool = False

    @classmethod
    def read(cls, text: str, sort: Sort, *, back: bool) -> Cursor:
        """Raises ValueError for a text that the panel never gives out."""
        try:
            key, image_id = json.loads(base64.urlsafe_b64decode(text.encode()))
            return cls(KEY_READERS[sort.by](key), UUID(image_id), back)
        except (TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(text) from error

    def __str__(self) -> str:
        key = self.key.isoformat() if isinstance(self.key, datetime) else self.key
        pair = json.dumps([key, self.image_id.hex])
        return base64.urlsafe_b64encode(pair.encode()).decode()


def read_date(key: Any) -> datetime:
    """A time of a row, in UTC; raises ValueError for what no row has."""
    when = datetime.fromisoformat(key)
    if when.utcoffset() is None or not 1 < when.year < 9999:
        raise ValueError(key)
    # The database refuses some offsets that Python takes.
    return when.astimezone(UTC)


def _read_name(key: Any) -> str:
    if not isinstance(key, str) or "\0" in key:
        raise ValueError(key)
    key.encode()  # half a character would be refused by the database
    return key


def _read_size(key: Any) -> int:
    if type(key) is not int or not 0 <= key <= LARGEST_SIZE:
        raise ValueError(key)
    return key


KEY_READERS: dict[str, Callable[[Any], Key]] = {
    "date": read_date,
    "name": _read_name,
    "size": _read_size,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of an account's Saved Images a page is to show."""

    region: RegionChoice | None = None
    text: str = ""
    sort: Sort = NEWEST_FIRST
    cursor: Cursor | None = None

    @classmethod
    def read(
        cls, query: Mapping[str, str], region: RegionChoice | None
    ) -> tuple[Wanted, list[str]]:
        """What a URL's query asks for, and sentences about what made no sense."""
        complaints = []
        text = query.get("q", "").replace("\0", "").strip()[:LONGEST_SEARCH]
        wanted = cls(region, text)
        if asked := query.get("sort"):
            try:
                wanted = replace(wanted, sort=Sort.read(asked))
            except ValueError:
                complaints.append(
                    f"Images cannot be sorted by {asked[:40]}: the newest come first."
                )
        back = "before" in query
        if page := query.get("before") or query.get("after"):
            try:
                cursor = Cursor.read(page, wanted.sort, back=back)
                wanted = replace(wanted, cursor=cursor)
            except ValueError:
                complaints.append("That page does not exist: this is the first one.")
        return wanted, complaints

    def query(self, *, sort: Sort | None = None, cursor: Cursor | None = None) -> str:
        """The query of a URL that asks for the same, in an order, from a page on."""
        asked: dict[str, object] = {}
        if self.region:
            asked["region"] = self.region.code
        if self.text:
            asked["q"] = self.text
        if (sort := sort or self.sort) != NEWEST_FIRST:
            asked["sort"] = sort
        if cursor:
            asked["before" if cursor.back else "after"] = cursor
        return f"?{urlencode(asked)}" if asked else "?"

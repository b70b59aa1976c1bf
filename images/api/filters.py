"""What a query of the image list narrows it to."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from django.db.models import Q

from controlpanel.api.faults import BadRequest
from images.api.bodies import HASH, STAGED, STATUSES
from images.api.rows import Branch
from images.models import Image

# What else a query of the list may say.
PAGING = {"limit", "marker", "sort", "sort_key", "sort_dir"}
VISIBILITIES = ["community", "public", "private", "shared", "all"]
ANSWERS = ["pending", "accepted", "rejected"]
OPERATORS = {"gt", "gte", "eq", "neq", "lt", "lte"}
NUMBERS = {"size": "size", "virtual_size": "virtual_size"} | {
    "min_disk": "min_disk_gb",
    "min_ram": "min_ram_mb",
}
# A value, and the name of a column's place: "" or "image__".
Filter = Callable[[str, str], Q]


class Filters:
    """All filters of a query, to be asked for the branches that they leave."""

    def __init__(self, given: dict[str, list[str]], number: str) -> None:
        """For the account of this number; raises BadRequest."""
        self._number = number
        self._visibility = _one_of(given, "visibility", VISIBILITIES, "")
        self._answer = _one_of(given, "member_status", [*ANSWERS, "all"], "accepted")
        self._owner = given["owner"][-1] if "owner" in given else None
        self._hidden = _flag(given, "os_hidden", default=False)
        self._protected = _flag(given, "protected", default=None)
        if "changes-since" in given:
            raise BadRequest('The "changes-since" filter is no longer available on v2.')
        self._tags = [tag.strip() for tag in given.get("tag", [])]
        read = {*PAGING, "visibility", "member_status", "owner", "os_hidden"}
        rest = given.keys() - read - {"protected", "tag"}
        self._columns: dict[str, Q] = {}
        self._properties: dict[str, str] = {}
        for name in sorted(rest):
            value = given[name][-1]
            condition = _condition(name, value)
            if condition is None:
                self._properties[name] = value
            else:
                self._columns[name] = condition

    @property
    def is_usual(self) -> bool:
        """Nothing but what most clients ask for, so that its SQL is worth keeping."""
        return not (
            self._columns
            or self._properties
            or self._tags
            or self._protected is not None
        )

    def branches(self) -> list[Branch]:
        """The sources of what is asked for, each with its condition."""
        found = []
        if self._visibility in {"", "all", "shared", "private"}:
            found.append(Branch("own", self._own()))
        if self._visibility in {"", "all", "public"}:
            found.append(Branch("base", self._all("") & self._kept("")))
        if self._visibility in {"", "all", "shared"}:
            answers = ANSWERS if self._answer == "all" else [self._answer]
            found += [Branch(answer, self._received()) for answer in answers]
        return [each for each in found if self._may_be_in(each)]

    def _may_be_in(self, branch: Branch) -> bool:
        if self._owner is not None:
            if branch.source == "base":
                return False
            if branch.is_shared == (self._owner == self._number):
                return False
        # Of another account's images neither is told.
        return not (branch.is_shared and (self._properties or self._protected))

    def _own(self) -> Q:
        condition = self._all("") & self._kept("")
        if self._visibility in {"shared", "private"}:
            condition &= Q(private=self._visibility == "private")
        return condition

    def _received(self) -> Q:
        condition = self._all("image__")
        if self._owner is not None:
            condition &= Q(image__owner=self._owner)
        return condition

    def _all(self, place: str) -> Q:
        condition = Q(**{f"{place}hidden": self._hidden})
        if self._tags:
            condition &= Q(**{f"{place}tags__contains": self._tags})
        for column in self._columns.values():
            condition &= _moved(column, place)
        return condition

    def _kept(self, place: str) -> Q:
        """What only the owner is told of."""
        condition = Q()
        if self._protected is not None:
            condition &= Q(**{f"{place}protected": self._protected})
        if self._properties:
            condition &= Q(**{f"{place}properties__contains": self._properties})
        return condition


def _condition(name: str, value: str) -> Q | None:
    """A filter by a column; None for a name that only properties can have."""
    if name in {"name", "container_format", "disk_format"}:
        return Q(**{f"{name}__in": _alternatives(value)})
    if name in {"description", "os"}:
        return Q(**{name: value})
    if name == "id":
        return Q(id__in=[each for each in map(_uuid, _alternatives(value)) if each])
    if name == "status":
        return _status(_alternatives(value))
    if name in {"created_at", "updated_at"}:
        return _time(name, value)
    if name == "checksum":
        return Q(blob__md5=value) if value else Q(pk__in=[])
    if name == "os_hash_algo":
        return Q(blob__isnull=value != HASH)
    if name == "os_hash_value":
        return Q(blob__digest=value)
    column, _, bound = name.rpartition("_")
    if bound in {"min", "max"} and column in NUMBERS:
        lookup = "gte" if bound == "min" else "lte"
        return Q(**{f"{NUMBERS[column]}__{lookup}": _number(value)})
    if name in NUMBERS:
        return Q(**{NUMBERS[name]: _number(value)})
    return None


def _status(wanted: list[str]) -> Q:
    ours = [each for each, theirs in STATUSES.items() if theirs in wanted]
    condition = Q(status__in=ours, staged=False)
    if STAGED in wanted:
        condition |= Q(status=Image.Status.QUEUED, staged=True)
    return condition


def _time(name: str, value: str) -> Q:
    """Clients are shown whole seconds, so it is these that are compared."""
    operator, _, rest = value.partition(":")
    if operator not in OPERATORS:
        operator, rest = "eq", value
    try:
        at = datetime.fromisoformat(rest)
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        at = at.replace(microsecond=0)
        following = at + timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise BadRequest(
            f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.'
        ) from None
    within = Q(**{f"{name}__gte": at, f"{name}__lt": following})
    return {
        "gt": Q(**{f"{name}__gte": following}),
        "gte": Q(**{f"{name}__gte": at}),
        "lt": Q(**{f"{name}__lt": at}),
        "lte": Q(**{f"{name}__lt": following}),
        "eq": within,
        "neq": ~within,
    }[operator]


def _alternatives(value: str) -> list[str]:
    """`in:` with values between commas, quoted where one holds a comma; or one value.

    Any other word before a colon belongs to the value: a name may have colons.
    """
    if value.startswith("eq:"):
        return [value[3:]]
    if not value.startswith("in:"):
        return [value]
    listed = value[3:]
    if listed.replace('\\"', "").count('"') % 2:
        raise BadRequest(
            f"Invalid filter value {listed[:200]}. The quote is not closed."
        )
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,]+)', listed)
    return [re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in found]


def _one_of(
    given: dict[str, list[str]], name: str, values: list[str], default: str
) -> str:
    value = given[name][-1] if name in given else default
    if value in values or (not value and not default):
        return value
    if name == "visibility":
        raise BadRequest(f"Invalid visibility value: {value[:200]}")
    raise BadRequest(f"Invalid status: {value[:200]}")


def _flag(
    given: dict[str, list[str]], name: str, *, default: bool | None
) -> bool | None:
    if name not in given:
        return default
    value = given[name][-1]
    # The one is read with a small letter only.
    word = value.lower() if name == "os_hidden" else value
    if word not in {"true", "false"}:
        raise BadRequest(
            f"Invalid value '{value[:200]}' for '{name}' filter. Valid values are "
            "'true' or 'false'."
        )
    return word == "true"


def _number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise BadRequest(
            "Unable to filter on a range with a non-numeric value."
        ) from None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _moved(condition: Q, place: str) -> Q:
    """The condition for columns that lie behind a relation."""
    if not place:
        return condition
    moved: Any = Q()
    moved.connector, moved.negated = condition.connector, condition.negated
    moved.children = [
        _moved(child, place) if isinstance(child, Q) else (place + child[0], child[1])
        for child in cast("list[Any]", condition.children)
    ]
    return moved  # type: ignore[no-any-return]

"""The image selector of Create Server: three tabs, a search, and pages by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlencode
from uuid import UUID

from django.db import models
from django.db.models import QuerySet, Value
from django.db.models.fields.tuple_lookups import Tuple, TupleGreaterThan

from accounts.access import AccountRequest
from accounts.models import Account, Region
from controlpanel.figures import size_text
from controlpanel.http import uuid_of
from images.listing import pattern_of
from images.models import Image

PAGE_SIZE = 12
MOST_COUNTED = 100


class Tab(models.TextChoices):
    BASE = "base", "Base Images"
    MINE = "mine", "My Images"
    SHARED = "shared", "Shared Images"

    @classmethod
    def of(cls, image: Image, account: Account) -> Tab:
        if image.is_base:
            return cls.BASE
        return cls.MINE if image.is_owned_by(account) else cls.SHARED


@dataclass(frozen=True)
class ImageOption:
    """An image as one of several to choose from."""

    image: Image

    @property
    def figures(self) -> str:
        image = self.image
        figures = [image.os] if image.os else []
        figures.append(f"{size_text(image.virtual_size)} disk")
        if image.min_ram_mb:
            figures.append(f"at least {image.min_ram_mb} MB RAM")
        return ", ".join(figures)


@dataclass(frozen=True, kw_only=True)
class TabLink:
    label: str
    count: str
    query: str
    is_current: bool


@dataclass(frozen=True, kw_only=True)
class ImageSelector:
    """What one request sees of it. `chosen` stays in sight whatever the tab."""

    account: Account
    region: Region
    tab: Tab
    search: str = ""
    after: UUID | None = None
    chosen: Image | None = None

    @property
    def is_chosen_shared(self) -> bool:
        return (
            self.chosen is not None and Tab.of(self.chosen, self.account) == Tab.SHARED
        )

    @property
    def is_saved(self) -> bool:
        return self.tab != Tab.BASE

    @cached_property
    def images(self) -> list[ImageOption]:
        return [ImageOption(image) for image in self._fetched[:PAGE_SIZE]]

    @property
    def next_query(self) -> str:
        """For the following page; empty on the last one."""
        if len(self._fetched) <= PAGE_SIZE:
            return ""
        return self._query(self.tab, after=str(self._fetched[PAGE_SIZE - 1].pk))

    @property
    def first_query(self) -> str:
        """Back to the first page; empty on that page."""
        return self._query(self.tab) if self.after else ""

    @property
    def query(self) -> str:
        """This very page of the selector; a radio button adds its image."""
        return self._query(
            self.tab, **({"after": str(self.after)} if self.after else {})
        )

    @property
    def chosen_elsewhere(self) -> ImageOption | None:
        """The chosen image, if the page of the selector does not show it."""
        if self.chosen is None or self.chosen in self._fetched[:PAGE_SIZE]:
            return None
        return ImageOption(self.chosen)

    @cached_property
    def tabs(self) -> list[TabLink]:
        # One query for all of them, and none that counts a large table to its end.
        first, *rest = [
            self._branch(tab).values_list(Value(tab.value))[: MOST_COUNTED + 1]
            for tab in Tab
        ]
        counts = Counter(tab for (tab,) in first.union(*rest, all=True))
        return [
            TabLink(
                label=tab.label,
                count=_capped(counts[tab.value]),
                query=self._query(tab),
                is_current=tab == self.tab,
            )
            for tab in Tab
        ]

    @property
    def current(self) -> TabLink:
        return next(tab for tab in self.tabs if tab.is_current)

    @property
    def saved_tabs(self) -> list[TabLink]:
        return self.tabs[1:]

    @cached_property
    def _fetched(self) -> list[Image]:
        images = self._branch(self.tab)
        if self.search:
            images = images.filter(name__has_text=pattern_of(self.search))
        if self.after:
            last = images.filter(pk=self.after).values_list("name", "pk").first()
            if last:
                images = images.filter(TupleGreaterThan(Tuple("name", "id"), last))
        page = images.select_related("owner").order_by("name", "id")
        return list(page.fetch_mode(models.FETCH_RAISE)[: PAGE_SIZE + 1])

    def _branch(self, tab: Tab) -> QuerySet[Image]:
        images = Image.objects.bootable().filter(region=self.region)
        match tab:
            case Tab.BASE:
                return images.base()
            case Tab.MINE:
                return images.owned_by(self.account)
            case Tab.SHARED:
                return images.accepted_by(self.account)

    def _query(self, tab: Tab, **more: str) -> str:
        values = {"region": self.region.pk, "tab": tab.value, "q": self.search, **more}
        if self.chosen:
            values["image"] = str(self.chosen.pk)
        return "?" + urlencode({key: value for key, value in values.items() if value})


def selector_of(
    request: AccountRequest, region: Region, chosen: Image | None
) -> ImageSelector:
    """What the request asks for; odd text is the first page."""
    asked = request.GET.get("tab") or request.POST.get("tab")
    if asked and asked in Tab:
        tab = Tab(asked)
    else:
        tab = Tab.of(chosen, request.account) if chosen else Tab.BASE
    return ImageSelector(
        account=request.account,
        region=region,
        tab=tab,
        search=request.GET.get("q", "").replace("\0", "").strip()[:255],
        after=uuid_of(request, "after"),
        chosen=chosen,
    )


def _capped(count: int) -> str:
    return f"{MOST_COUNTED}+" if count > MOST_COUNTED else str(count)

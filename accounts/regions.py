from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.contrib import messages
from django.http import HttpRequest


class RegionChoice(NamedTuple):
    """A region as pages need it: code and name."""

    code: str
    name: str

    @property
    def label(self) -> str:
        return f"{self.name} ({self.code})"

    @classmethod
    def read(cls, entry: str) -> RegionChoice:
        code, _, name = entry.partition(" ")
        return cls(code, name)


def region_of(
    request: HttpRequest, regions: Sequence[RegionChoice]
) -> RegionChoice | None:
    """The region that ?region= narrows the page to; none stands for all of them."""
    code = request.GET.get("region") or "all"
    for region in regions:
        if region.code == code:
            return region
    if code != "all":
        messages.warning(
            request, f"There is no region {code[:16]}: these are all regions."
        )
    return None

"""The rows of Saved Images, written fast.

A list shows 25 rows, and a template takes ten times as long as a join of strings. So
the template's row is rendered once for each kind of row, with gaps for what is a
row's own, and the gaps are filled for each row. The look stays in the template.
"""

from __future__ import annotations

import re
from html import escape  # Django's takes four times as long
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.template.loader import get_template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from accounts.access import AccountRequest
from accounts.models import Account
from accounts.permissions import Capability
from controlpanel.figures import date_text, size_text
from images.listing import Found
from images.models import PRIVATE, Image

# A gap is a name between characters of the private use area, so that no template
# changes it; the ID's is a UUID, since it must fit into addresses.
ANY_ID = UUID(int=0)
NAMES = (
    *("name", "source", "region", "region_code", "os", "created", "created_iso"),
    *("size", "status_label"),
)
GAPS = {name: mark_safe(f"\ue000{name}\ue001") for name in NAMES}  # noqa: S308
GAP = re.compile(f"({ANY_ID})|\ue000({'|'.join(NAMES)})\ue001")


class Kind(NamedTuple):
    """All that makes a difference to a row, besides the values of its gaps."""

    is_own: bool
    status: Image.Status
    is_protected: bool
    is_private: bool
    is_suspended: bool
    unbootable_reason: str

    @classmethod
    def of(cls, found: Found) -> Kind:
        return cls(
            found.is_own,
            Image.Status(found.status),
            found.protected,
            found.private,
            found.producer_status == Account.Status.SUSPENDED,
            found.unbootable_reason,
        )

    @property
    def is_changing(self) -> bool:
        return self.status in {Image.Status.QUEUED, Image.Status.SAVING}

    @property
    def why_not_bootable(self) -> str:
        if self.is_suspended:
            return "The account that shares it is suspended."
        return self.why_not_active or self.unbootable_reason

    @property
    def why_not_shared(self) -> str:
        return self.why_not_active or (PRIVATE if self.is_private else "")

    @property
    def why_not_active(self) -> str:
        if self.status is Image.Status.ACTIVE:
            return ""
        return f"The image is {self.status.label}, not Active."

    @property
    def why_not_deleted(self) -> str:
        if self.is_protected:
            return "The image is protected: switch that off under Edit."
        return ""


class Outline:
    """A rendered template, cut at its gaps."""

    def __init__(self, rendered: str) -> None:
        parts = GAP.split(rendered)
        # Text, the ID's gap or None, another gap or None, text, and so on.
        self._texts = parts[::3]
        self._gaps = [
            "id" if any_id else name
            for any_id, name in zip(parts[1::3], parts[2::3], strict=True)
        ]

    def fill(self, values: dict[str, str]) -> SafeString:
        """With values that are HTML already."""
        pieces = [self._texts[0]]
        for gap, text in zip(self._gaps, self._texts[1:], strict=True):
            pieces += (values[gap], text)
        return mark_safe("".join(pieces))  # noqa: S308


# Of a process: the same account's next page has rows of the same kinds.
MOST_KEPT = 2000
_kept: dict[tuple[object, ...], Outline] = {}


class Rows:
    """Writes the rows of one answer, or only the menus behind their gears."""

    def __init__(
        self, request: AccountRequest, template: str = "images/image_list.html#row"
    ) -> None:
        self._request = request
        self._name = template
        self._outlines: dict[Kind, Outline] = {}
        self._regions = {region.code: region.name for region in request.regions}
        self._server = server_url(request, ANY_ID)

    def write(self, found: Found) -> SafeString:
        kind = Kind.of(found)
        if kind not in self._outlines:
            self._outlines[kind] = self._outline(kind)
        return self._outlines[kind].fill(
            {
                "id": str(found.id),
                "name": escape(found.name),
                "source": self._source(found),
                "region": escape(self._regions.get(found.region, found.region)),
                "region_code": escape(found.region),
                "os": escape(found.os),
                "created": date_text(found.created_at),
                "created_iso": found.created_at.isoformat(),
                "size": size_text(found.size) if found.size else "",
                "status_label": _status_label(kind.status, found.progress),
            }
        )

    def _outline(self, kind: Kind) -> Outline:
        request, region = self._request, self._request.region
        key = (self._name, request.account.pk, region, request.capabilities, kind)
        if key in _kept:
            return _kept[key]
        context: dict[str, Any] = {"kind": kind, "row": {**GAPS, "id": ANY_ID}}
        outline = Outline(get_template(self._name).render(context, request))
        # A refusal names users who may do it, and these change.
        if not (settings.DEBUG or hasattr(request, "holders")):
            if len(_kept) >= MOST_KEPT:
                _kept.clear()
            _kept[key] = outline
        return outline

    def _source(self, found: Found) -> str:
        if not found.is_own:
            return format_html(
                'Shared Image <small class="soft">by <bdi>{}</bdi> ({})</small>',
                found.producer_name,
                found.producer_number,
            )
        if found.origin == Image.Origin.UPLOAD:
            return "Uploaded"
        if not found.server_id:
            return format_html(
                '<bdi>{}</bdi> <small class="soft">(deleted server)</small>',
                found.server_name or "Server",
            )
        if not self._server:
            return escape(found.server_name or "Server")
        url = self._server.replace(str(ANY_ID), str(found.server_id))
        return format_html('<a href="{}"><bdi>{}</bdi></a>', url, found.server_name)


def gear_of(request: AccountRequest, found: Found) -> SafeString:
    """The menu behind an image's gear."""
    return Rows(request, "images/_gear.html").write(found)


def server_url(request: AccountRequest, server_id: UUID | None) -> str:
    """The address of the server an image came from; empty for who cannot go there."""
    if server_id is None or Capability.VIEW_SERVERS not in request.capabilities:
        return ""
    try:
        return reverse("servers:detail", args=[request.account.pk, server_id])
    except NoReverseMatch:  # no servers here
        return ""


def _status_label(status: Image.Status, progress: int) -> str:
    if status is Image.Status.SAVING and progress:
        return f"{status.label} {progress} %"
    return str(status.label)

"""The rows of Saved Images as the template prints them: every value a ready text.

A list shows 25 of them at once, so each figure is written here once, and the gear's
menu is rendered once for each kind of row, not for each row.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from django.template.loader import get_template
from django.urls import NoReverseMatch, reverse
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from accounts.access import AccountRequest
from accounts.models import Account
from images.figures import date_text, size_text
from images.listing import Found
from images.models import Image

# Stand for a row's own values in what is rendered once for many rows.
ANY_IMAGE = UUID(int=0)
ANY_REGION = "ANY-REGION"


class Kind(NamedTuple):
    """All that makes a difference to a gear's menu, besides the image's ID."""

    is_own: bool
    status: str
    is_protected: bool
    is_suspended: bool

    @classmethod
    def of(cls, found: Found) -> Kind:
        return cls(
            found.is_own,
            found.status,
            found.protected,
            found.producer_status == Account.Status.SUSPENDED,
        )

    @property
    def why_not_bootable(self) -> str:
        if self.is_suspended:
            return "The account that shares it is suspended."
        return self.why_not_active

    @property
    def why_not_active(self) -> str:
        if self.status == Image.Status.ACTIVE:
            return ""
        return f"The image is {Image.Status(self.status).label}, not Active."

    @property
    def why_not_deleted(self) -> str:
        if self.is_protected:
            return "The image is protected: switch that off under Edit."
        return ""


class Row(TypedDict):
    id: str
    url: str
    name: str
    row_url: str
    source: str
    region: str
    region_code: str
    os: str
    created: str
    created_iso: str
    size: str
    status: str
    status_label: str
    is_own: bool
    is_changing: bool
    gear: SafeString


class Rows:
    """Writes the rows of one answer."""

    def __init__(self, request: AccountRequest) -> None:
        self._gears = Gears(request)
        self._images = reverse("images:list", args=[request.account.pk])
        self._regions = {region.code: region.name for region in request.regions}
        self._query = f"?region={request.region.code}" if request.region else ""
        self._server = server_url(request.account, ANY_IMAGE)

    def write(self, found: Found) -> Row:
        image_id = str(found.id)
        status = Image.Status(found.status)
        saving = status == Image.Status.SAVING and found.progress
        return {
            "id": image_id,
            "url": f"{self._images}{image_id}/{self._query}",
            "name": found.name,
            "row_url": f"{self._images}{image_id}/row/{self._query}",
            "source": self._source(found),
            "region": self._regions.get(found.region, found.region),
            "region_code": found.region,
            "os": found.os,
            "created": date_text(found.created_at),
            "created_iso": found.created_at.isoformat(),
            "size": size_text(found.size) if found.size else "",
            "status": found.status,
            "status_label": f"{status.label} {found.progress} %"
            if saving
            else status.label,
            "is_own": found.is_own,
            "is_changing": status in {Image.Status.QUEUED, Image.Status.SAVING},
            "gear": self._gears.of(found),
        }

    def _source(self, found: Found) -> str:
        if not found.is_own:
            return format_html(
                'Shared Image <small class="soft">by <bdi>{}</bdi> ({})</small>',
                found.producer_name,
                found.producer_number,
            )
        if found.origin == Image.Origin.UPLOAD:
            return "Uploaded"
        if not (found.server_id and self._server):
            return found.server_name or "Server"
        url = self._server.replace(str(ANY_IMAGE), str(found.server_id))
        return format_html('<a href="{}"><bdi>{}</bdi></a>', url, found.server_name)


class Gears:
    """The menus behind the gears of one answer."""

    def __init__(self, request: AccountRequest) -> None:
        self._request = request
        self._kinds: dict[Kind, str] = {}

    def of(self, found: Found) -> SafeString:
        kind = Kind.of(found)
        if kind not in self._kinds:
            self._kinds[kind] = _render_gear(self._request, kind)
        menu = self._kinds[kind].replace(str(ANY_IMAGE), str(found.id))
        return mark_safe(menu.replace(ANY_REGION, escape(found.region)))  # noqa: S308


def _render_gear(request: AccountRequest, kind: Kind) -> str:
    context: dict[str, Any] = {
        "image_id": ANY_IMAGE,
        "image_region": ANY_REGION,
        "kind": kind,
    }
    return get_template("images/_gear.html").render(context, request)


def server_url(account: Account, server_id: UUID | None) -> str:
    """The address of the server an image came from; empty where there is none."""
    if server_id is None:
        return ""
    try:
        return reverse("servers:detail", args=[account.pk, server_id])
    except NoReverseMatch:  # no servers here
        return ""

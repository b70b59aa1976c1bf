"""An image as JSON: what its owner is told, and the less that a consumer is told."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.http import HttpResponse

HASH = "sha256"
# As the Image API calls what the panel calls by another name.
STATUSES = {
    "queued": "queued",
    "saving": "saving",
    "active": "active",
    "deactivated": "deactivated",
    "error": "killed",
}
STAGED = "uploading"


class Row(NamedTuple):
    """An image as the database gives it, whichever way it was found."""

    id: UUID
    name: str
    size: int
    created_at: datetime
    status: str
    staged: bool
    disk_format: str
    container_format: str
    virtual_size: int
    private: bool
    hidden: bool
    protected: bool
    min_disk_gb: int
    min_ram_mb: int
    owner_id: str | None
    updated_at: datetime
    tags: list[str]
    description: str
    os: str
    properties: str
    unbootable_reason: str
    digest: str | None
    md5: str | None

    @property
    def visibility(self) -> str:
        if self.owner_id is None:
            return "public"
        return "private" if self.private else "shared"

    @property
    def api_status(self) -> str:
        return STAGED if self.staged else STATUSES[self.status]

    def body_for(self, number: str) -> dict[str, Any]:
        """For the account of this number; a consumer sees no properties."""
        is_producer_s = self.owner_id not in {None, number}
        body: dict[str, Any] = {}
        if not is_producer_s and self.properties != "{}":
            body = json.loads(self.properties)
        for name in ("description", "os", "unbootable_reason"):
            if text := getattr(self, name):
                body[name] = text
        own_path = f"/v2/images/{self.id}"
        body |= {
            "id": str(self.id),
            "name": self.name,
            "status": self.api_status,
            "visibility": self.visibility,
            "os_hidden": self.hidden,
            "protected": False if is_producer_s else self.protected,
            "owner": self.owner_id,
            "disk_format": self.disk_format or None,
            "container_format": self.container_format or None,
            "size": self.size or None,
            "virtual_size": self.virtual_size or None,
            "min_disk": self.min_disk_gb,
            "min_ram": self.min_ram_mb,
            "checksum": self.md5 or None,
            "os_hash_algo": HASH if self.digest else None,
            "os_hash_value": self.digest,
            "tags": self.tags,
            "created_at": time_of(self.created_at),
            "updated_at": time_of(self.updated_at),
            "self": own_path,
            "file": f"{own_path}/file",
            "schema": "/v2/schemas/image",
        }
        return body


def time_of(at: datetime) -> str:
    """In UTC, which is what the database speaks, and to the second."""
    return f"{at.isoformat()[:19]}Z"


def answer_json(body: Any, status: int = 200, **headers: str) -> HttpResponse:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(
        text, status=status, content_type="application/json", headers=told
    )

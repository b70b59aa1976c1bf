"""How much an account may hold at once."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.db import models

from controlpanel.figures import size_text
from controlpanel.http import TooMany


class Quota(models.TextChoices):
    """What is limited. An account is charged in full for all that it holds, whatever
    the store saves by keeping the same bytes once."""

    SERVERS = "servers", "Servers"
    MEMORY_MB = "memory_mb", "Memory of all servers"
    IMAGES = "images", "Images"
    IMAGE_BYTES = "image_bytes", "Size of all images"

    @property
    def default(self) -> int:
        """What an account may hold for which nothing else was set."""
        most: int = settings.QUOTAS[self.value]
        return most

    def text(self, amount: int) -> str:
        """So much of it in words, such as "512 MB of memory"."""
        return f"{self.figure(amount)} {self._of_what(amount)}"

    def figure(self, amount: int) -> str:
        return size_text(amount) if self is Quota.IMAGE_BYTES else str(amount)

    def _of_what(self, amount: int) -> str:
        match self:
            case Quota.MEMORY_MB:
                return "MB of memory"
            case Quota.IMAGE_BYTES:
                return "of images"
        return self.value.removesuffix("s") if amount == 1 else self.value


class QuotaReached(TooMany):
    """The account would hold more than it may."""

    def __init__(self, use: QuotaUse, more: int) -> None:
        text = use.quota.text
        super().__init__(
            f"This account may have {text(use.limit)} and has {text(use.used)}, so "
            f"there is no room for {text(more)} more. Delete some first, or write to "
            f"{settings.SUPPORT_EMAIL} to have the limit raised."
        )


@dataclass(frozen=True)
class QuotaUse:
    """One limit of an account, and how much of it is used."""

    quota: Quota
    used: int
    limit: int

    @property
    def has_room(self) -> bool:
        return self.used < self.limit

    @property
    def is_short(self) -> bool:
        """Less than a fifth is left, so it is time to say so."""
        return self.left * 5 < self.limit or not self.has_room

    @property
    def left(self) -> int:
        # A limit may be lowered below what is there: that deletes nothing.
        return max(0, self.limit - self.used)

    @property
    def per_cent(self) -> int:
        return min(100, 100 * self.used // self.limit) if self.limit else 100

    @property
    def text(self) -> str:
        return f"{self.quota.figure(self.used)} of {self.quota.text(self.limit)}"

    @property
    def left_text(self) -> str:
        return self.quota.text(self.left)

    def check(self, more: int) -> None:
        """Raise QuotaReached unless so much more may be held."""
        if more > 0 and self.used + more > self.limit:
            raise QuotaReached(self, more)

"""What a server finds in a region and in its account's limits, for the forms."""

from __future__ import annotations

from collections.abc import Iterable

from accounts.models import Account, Quota, QuotaUse, Region
from servers.models import Flavor, Server, why_no_room
from servers.rows import why_unavailable


class Room:
    """Told before an order; the order itself asks again, and holds what it takes."""

    def __init__(
        self,
        account: Account,
        region: Region,
        flavors: Iterable[Flavor],
        *,
        but: Server | None = None,
    ) -> None:
        """For a new server, or for the one of `but`, which gives back what it has."""
        self.region = region
        self.servers, self.memory = account.quota_uses(Quota.SERVERS, Quota.MEMORY_MB)
        self.unavailable = why_unavailable(region.backend)
        self._but, self._given_back = but, but.flavor.ram_mb if but else 0
        self._full: dict[str, str] = {}
        if not self.unavailable:
            self._look_at_region(sorted(flavors, key=lambda flavor: flavor.ram_mb))

    @property
    def running_short(self) -> list[QuotaUse]:
        return [use for use in (self.servers, self.memory) if use.is_short]

    def why_not(self, flavor: Flavor) -> str:
        """Why no server of this size can be had now; empty if one can."""
        if self._full.get(flavor.pk):
            return f"There is no capacity for it in {self.region.name} at present."
        if flavor.ram_mb > self.memory.left + self._given_back:
            return f"This account has only {self.memory.left_text} left."
        return ""

    def _look_at_region(self, flavors: list[Flavor]) -> None:
        room = Server.objects.room_in(self.region, but=self._but)
        for flavor in flavors:
            self._full[flavor.pk] = why_no_room(self.region, room, flavor.ram_mb)
        # What holds for every flavor is told once, above all else: by the smallest.
        if flavors and all(self._full.values()):
            self.unavailable = self._full[flavors[0].pk]

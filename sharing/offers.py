"""How many images wait for an account's answer: cheap, since every page asks."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection
from django.utils.safestring import SafeString

from accounts.access import AccountRequest
from accounts.models import User
from accounts.permissions import Capability, roles_giving
from controlpanel.drawn import draw
from sharing.versions import version_of

# A count is exact up to this; beyond it, "100+".
MOST = 100
# One row a region with offers, or a single one without a region; no row at all for
# those who may not see them. The digest changes with every offer that comes or goes,
# and the last column with every accepted image that is taken back.
PENDING = """
SELECT pending.code, pending.name, pending.offers, pending.digest, (
    SELECT max(lost.id) FROM sharing_withdrawal AS lost
    WHERE lost.account_id = account.number
) AS newest_withdrawal
FROM accounts_account AS account
LEFT JOIN LATERAL (
    SELECT place.code, place.name, waiting.offers, waiting.digest
    FROM accounts_region AS place
    CROSS JOIN LATERAL (
        SELECT count(*) AS offers, sum(hashtext(offer.id::text)) AS digest
        FROM (
            SELECT share.id
            FROM sharing_imageshare AS share
            WHERE share.consumer_id = account.number
                AND share.region_id = place.code
                AND share.status = 'pending'
            ORDER BY share.created_at DESC, share.id DESC
            LIMIT %(limit)s
        ) AS offer
    ) AS waiting
    WHERE waiting.offers > 0
) AS pending ON true
WHERE account.number = %(number)s
    AND account.status = 'active'
    AND EXISTS (
        SELECT FROM accounts_rolegrant AS held
        JOIN auth_permission AS role ON role.id = held.permission_id
        WHERE held.content_object_id = account.number
            AND held.user_id = %(user)s
            AND role.codename = ANY(%(roles)s)
    )
ORDER BY pending.name
"""


@dataclass(frozen=True)
class RegionOffers:
    code: str
    name: str
    number: int

    @property
    def count(self) -> str:
        return _capped([self])


@dataclass(frozen=True)
class Offers:
    """The pending shares of an account, counted by region."""

    regions: tuple[RegionOffers, ...]
    # Pages send it back to ask whether anything has changed.
    version: str
    # Accepted images were taken back, and nobody has taken notice yet.
    has_withdrawals: bool

    @property
    def count(self) -> str:
        """Over all regions; empty when nothing waits."""
        return self.count_in(None)

    def count_in(self, code: str | None) -> str:
        return _capped([r for r in self.regions if code in {None, r.code}])


def _capped(regions: Sequence[RegionOffers]) -> str:
    number = sum(min(region.number, MOST) for region in regions)
    more = any(region.number > MOST for region in regions)
    return f"{number}+" if more else str(number or "")


def pending_offers(number: str, user: User) -> Offers | None:
    """The offers to the account of this number; none if the user may not see them."""
    with connection.cursor() as cursor:
        cursor.execute(
            PENDING,
            {
                "number": number,
                "user": user.pk,
                "roles": _ROLES,
                "limit": MOST + 1,
            },
        )
        rows = cursor.fetchall()
    if not rows:
        return None
    regions = tuple(RegionOffers(code, name, n) for code, name, n, *_ in rows if code)
    has_withdrawals = rows[0][-1] is not None
    return Offers(regions, version_of(rows), has_withdrawals)


def draw_offers(number: str, offers: Offers) -> SafeString:
    """The header's count, which every page shows."""
    return draw("_offers.html", number=number, offers=offers)


_ROLES = [str(role) for role in roles_giving(Capability.VIEW_IMAGES)]


def offers_of(request: AccountRequest) -> Offers | None:
    """The offers to the page's account, asked for once a request."""
    known: dict[str, Offers | None] = request.__dict__
    if "offers" not in known:
        known["offers"] = pending_offers(request.account.pk, request.user)
    return known["offers"]

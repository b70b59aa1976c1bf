"""What an account may do so many times in a period."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.db.models import F
from django.utils import timezone

from accounts.models.account import Account
from controlpanel.http import TooMany


class LimitUseQuerySet(models.QuerySet["LimitUse"]):
    def running(self, account: Account) -> LimitUseQuerySet:
        """What the account has used of its limits in the periods of this moment."""
        return self.filter(account=account, until__gt=timezone.now()).order_by("what")


class LimitUse(models.Model):
    """How often an account did something in a period that begins at a time."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    what = models.CharField(max_length=50)
    since = models.DateTimeField()
    until = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)
    limit = models.PositiveIntegerField()

    objects = LimitUseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "what", "since"], name="accounts_limituse_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account_id}: {self.what} {self.count} times since {self.since}"

    @classmethod
    def take(
        cls, account: Account, what: str, *, limit: int, per: timedelta, sentence: str
    ) -> None:
        """Count one more, or raise TooMany once the limit is reached."""
        since = _start_of_period(timezone.now(), per)
        use, _ = cls.objects.get_or_create(
            account=account,
            what=what,
            since=since,
            defaults={"until": since + per, "limit": limit},
        )
        # The WHERE clause is the guard: simultaneous requests cannot pass the limit.
        taken = cls.objects.filter(pk=use.pk, count__lt=limit)
        if not taken.update(count=F("count") + 1, limit=limit):
            raise TooMany(sentence)


def _start_of_period(now: datetime, per: timedelta) -> datetime:
    seconds = per.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, tz=now.tzinfo)

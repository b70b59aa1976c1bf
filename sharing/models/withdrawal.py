"""What consumers are told of images that they have lost."""

from __future__ import annotations

from django.db import models

from accounts.models import Account
from sharing.models.event import ShareEvent


class WithdrawalQuerySet(models.QuerySet["Withdrawal"]):
    def of_account(self, account: Account) -> WithdrawalQuerySet:
        """What the account has not been told yet, the newest first."""
        return self.filter(account=account).order_by("-pk")


class Withdrawal(models.Model):
    """An accepted image that was taken back. It is shown to the account until one of
    its users has taken notice for all of them.
    """

    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="withdrawals", db_index=False
    )
    event = models.OneToOneField(
        ShareEvent, on_delete=models.PROTECT, related_name="withdrawal"
    )

    objects = WithdrawalQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["account", "id"], name="sharing_withdrawn"),
        ]

    def __str__(self) -> str:
        return str(self.event)

    @classmethod
    def tell(cls, event: ShareEvent) -> None:
        """Nobody accepts an image for a number that no account has."""
        if event.consumer_id:
            cls.objects.create(account_id=event.consumer_id, event=event)

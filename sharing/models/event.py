"""What happened to shares."""

from __future__ import annotations

from django.db import models
from django.db.models import Value

from accounts.models import Account
from sharing.models.status import ShareStatus


class ShareEventQuerySet(models.QuerySet["ShareEvent"]):
    def sent_by(self, account: Account) -> ShareEventQuerySet:
        """What happened to the account's own images, as its users may read it."""
        return self.filter(producer=account)._read_by(ShareEvent.Side.PRODUCER)

    def received_by(self, account: Account) -> ShareEventQuerySet:
        """What happened to images offered to the account, as its users may read it."""
        return self.filter(consumer=account)._read_by(ShareEvent.Side.CONSUMER)

    def _read_by(self, side: ShareEvent.Side) -> ShareEventQuerySet:
        return self.order_by("-pk").annotate(reader=Value(side))  # type: ignore[no-redef]


class ShareEvent(models.Model):
    """What happened to a share, and who did it; written once, never changed.

    It outlives share, image and user, so it holds their names; the accounts can be
    referred to, since an account is closed and never deleted.
    """

    WITH_IMAGE = "The image was deleted"

    class Side(models.TextChoices):
        PRODUCER = "producer", "Producer"
        CONSUMER = "consumer", "Consumer"

    image_id = models.UUIDField()
    image_name = models.CharField(max_length=255)
    producer = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    consumer = models.ForeignKey(
        Account, null=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    consumer_number = models.CharField(max_length=8)
    side = models.CharField(max_length=10, choices=Side)
    actor_name = models.CharField(max_length=150)
    # Empty for the panel, else the way of the API, with the credential used.
    via = models.CharField(max_length=300, blank=True)
    # Empty where there was no share yet, or is none any more.
    from_status = models.CharField(max_length=10, choices=ShareStatus, blank=True)
    to_status = models.CharField(max_length=10, choices=ShareStatus, blank=True)
    note = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ShareEventQuerySet.as_manager()

    reader: str  # for the type checker: only sent_by() and received_by() fetch it

    class Meta:
        indexes = [
            models.Index(fields=["image_id", "id"], name="sharing_event_image"),
            models.Index(fields=["consumer", "id"], name="sharing_event_consumer"),
        ]

    def __str__(self) -> str:
        change = f"{self.from_status or 'none'} to {self.to_status or 'none'}"
        return f"{self.image_name}, {self.consumer_number}: {change}"

    @property
    def what(self) -> str:
        if not self.to_status:
            return "Sharing stopped"
        if not self.from_status:
            return "Shared"
        if (self.from_status, self.to_status) == ("accepted", "rejected"):
            return "Removed by the consumer"
        return str(self.get_to_status_display())

    @property
    def is_with_image(self) -> bool:
        """The share went because its image did."""
        return self.note == self.WITH_IMAGE

    @property
    def is_by_reader(self) -> bool:
        return self.side == self.reader

    @property
    def is_read_by_producer(self) -> bool:
        return self.reader == self.Side.PRODUCER

    @property
    def actor(self) -> str:
        """The reader's own users by name, the other side only as an account."""
        # A username is half of a credential.
        if self.is_by_reader:
            return f"{self.actor_name} ({self.via})" if self.via else self.actor_name
        by_producer = self.side == self.Side.PRODUCER
        return self.producer_id if by_producer else self.consumer_number

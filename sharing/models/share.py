"""The life of a share: the producer's account offers it, the consumer's answers.

    (offer)  -> pending -- accept --> accepted -- remove --> rejected
                pending -- reject --> rejected
    (revoke) deletes a share in any state; only then can it be offered again.
             Deleting the image revokes all its shares.

The panel follows these arrows; the Cloud Images API lets the consumer set any
status at any time. Every change goes through a verb below and leaves one
ShareEvent in the same transaction.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import cast

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, Value, When
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan
from django.utils import timezone
from procrastinate.contrib.django import app as jobs

from accounts.models import Account, LimitUse, Region, RoleGrant, User
from accounts.regions import RegionChoice
from controlpanel.jobs import MAIL
from images.models import PRIVATE, Image
from sharing.models.declaration import ShareDeclaration
from sharing.models.event import ShareEvent
from sharing.models.status import (
    AlreadyShared,
    ShareConflict,
    ShareLimit,
    ShareStatus,
)
from sharing.models.withdrawal import Withdrawal


class ImageShareQuerySet(models.QuerySet["ImageShare"]):
    def pending(self) -> ImageShareQuerySet:
        return self.filter(status=ImageShare.Status.PENDING)

    def accepted(self) -> ImageShareQuerySet:
        return self.filter(status=ImageShare.Status.ACCEPTED)

    def received_by(self, account: Account) -> ImageShareQuerySet:
        return self.filter(consumer=account)

    def sent_by(self, account: Account) -> ImageShareQuerySet:
        return self.filter(image__owner=account)

    def in_region(self, region: RegionChoice | None) -> ImageShareQuerySet:
        """Shares of one region's images, or of all when none is given."""
        return self.filter(region=region.code) if region else self.all()

    def older_than(self, at: datetime, pk: uuid.UUID) -> ImageShareQuerySet:
        """What comes after this one in a list with the newest first."""
        return self.filter(TupleLessThan(Tuple("created_at", "id"), (at, pk)))

    def with_declaration(self) -> ImageShareQuerySet:
        """Each with the time of the producer's newest answers about the image."""
        answers = ShareDeclaration.objects.filter(image=OuterRef("image"))
        newest = answers.order_by("-pk").values("created_at")[:1]
        return self.annotate(declared_at=Subquery(newest))  # type: ignore[no-redef]

    def with_consumer_name(self, reader: User) -> ImageShareQuerySet:
        """Each with the consumer's name, where the reader may know it."""
        # An account is known to those who have a role there, or by its own choice.
        own = RoleGrant.objects.filter(
            user=reader, content_object=OuterRef("consumer_id")
        )
        known = Q(consumer__discoverable=True) | Q(Exists(own))
        name = Case(When(known, then=F("consumer__name")), default=Value(""))
        return self.annotate(consumer_name=name)  # type: ignore[no-redef]

    @transaction.atomic
    def offer(
        self, image: Image, *, to: str, by: User, message: str = ""
    ) -> ImageShare:
        """Offer the image to the account with this number, known to us or not.

        Raises ShareConflict, or TooMany when the day's offers are used up.
        """
        locked = self._lock_for_offer(image, to)
        consumer = Account.objects.filter(pk=to).first()
        share = self._make(locked, to, consumer, by=by, message=message)
        share.record(
            side=ShareEvent.Side.PRODUCER, by=by, to_status=ImageShare.Status.PENDING
        )
        return share

    @transaction.atomic
    def offer_and_accept(
        self, image: Image, *, to: Account, by: User, answered_by: User
    ) -> ImageShare:
        """Share with an account whose user, with the right role, has agreed to it."""
        locked = self._lock_for_offer(image, to.pk)
        share = self._make(locked, to.pk, to, by=by)
        share.record(
            side=ShareEvent.Side.PRODUCER,
            by=by,
            to_status=ImageShare.Status.PENDING,
            note=WITH_ROLE,
        )
        share._move(
            ImageShare.Status.ACCEPTED, ACCEPTABLE_FROM, by=answered_by, note=WITH_ROLE
        )
        jobs.configure_task("sharing.tasks.tell_consumer", queue=MAIL).defer(
            share_id=str(share.pk)
        )
        return share

    def _lock_for_offer(self, image: Image, number: str) -> Image:
        """The image as it is now, kept from changing until the offer is made."""
        # Locked, so that it is not deleted in the meantime: delete_with_shares waits.
        # It also makes simultaneous offers queue, so that none passes the limit.
        locked = Image.objects.select_for_update().filter(pk=image.pk).first()
        if locked is None:
            raise ShareConflict(f"{image} has been deleted.")
        if locked.is_base:
            raise ShareConflict("A base image is there for everyone already.")
        if number == locked.owner_id:
            raise ShareConflict("This is your own account.")
        if not locked.is_active:
            raise ShareConflict(
                f"{image} cannot be shared: it is {locked.get_status_display()}."
            )
        if locked.private:
            raise ShareConflict(PRIVATE)
        limit = settings.SHARING["members_per_image"]
        others = self.filter(image=locked).exclude(consumer_number=number)
        if len(others.values_list("pk")[:limit]) >= limit:
            raise ShareLimit(
                f"{image} is shared with {limit} accounts already, which is as many "
                "as an image can have. Remove one first."
            )
        return locked

    def _make(
        self,
        image: Image,
        number: str,
        consumer: Account | None,
        *,
        by: User,
        message: str = "",
    ) -> ImageShare:
        share, created = self.get_or_create(
            image=image,
            consumer_number=number,
            defaults={
                "consumer": consumer,
                "region_id": image.region_id,
                "image_name": image.name,
                "image_size": image.size,
                "image_created_at": image.created_at,
                "message": message,
                "offered_by": by.get_username(),
            },
        )
        if not created:
            raise AlreadyShared(share.why_not_again)
        # Last, so that what is refused uses nothing up: it is rolled back.
        LimitUse.take(
            cast(Account, image.owner),
            "offers",
            limit=settings.SHARING["offers_per_day"],
            per=timedelta(days=1),
            sentence=OFFERS_USED_UP.format(settings.SHARING["offers_per_day"]),
        )
        return share

    @transaction.atomic
    def revoke(self, *, by: User, with_image: bool = False) -> int:
        """Take the images back whatever was answered; return how many shares went.

        `with_image`: because the image itself is about to be deleted.
        """
        # Locked, so that each event tells the status that its share really had.
        shares = self.select_for_update(of=["self"]).select_related("image")
        revoked = list(shares.order_by("pk"))
        for share in revoked:
            event = share.record(
                side=ShareEvent.Side.PRODUCER,
                by=by,
                from_status=share.status,
                note=ShareEvent.WITH_IMAGE if with_image else "",
            )
            if share.is_accepted:
                Withdrawal.tell(event)
        ImageShare.objects.filter(pk__in=[share.pk for share in revoked]).delete()
        for image in {share.image for share in revoked if share.is_accepted}:
            image.withdraw_from_servers()
        return len(revoked)

    # As with delete(): no ImageShare.objects.revoke(), which would take back all.
    revoke.queryset_only = True  # type: ignore[attr-defined]


class ImageShare(models.Model):
    """One image offered to one other account, which we may not know."""

    Status = ShareStatus

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Protected: an image goes by delete_with_shares, so that no share goes unrecorded.
    image = models.ForeignKey(
        Image, on_delete=models.PROTECT, related_name="shares", db_index=False
    )
    # The number as the producer typed it, since an error would tell which accounts
    # exist; and whose it was then. Nobody's stays nobody's: an account that is given
    # the number later must not find an offer that was not meant for it.
    consumer_number = models.CharField(max_length=8)
    consumer = models.ForeignKey(
        Account,
        null=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="received_shares",
        db_index=False,
    )
    status = models.CharField(
        max_length=10, choices=Status, default=Status.PENDING, editable=False
    )
    message = models.CharField(max_length=280, blank=True)
    offered_by = models.CharField(max_length=150, editable=False)

    # Of the image, again: the consumer's list is sorted and narrowed by these, among
    # thousands of shares, without a look at each image. Image.edit keeps the name true.
    region = models.ForeignKey(
        Region, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    image_name = models.CharField(max_length=255, editable=False)
    image_size = models.BigIntegerField(editable=False)
    image_created_at = models.DateTimeField(editable=False)

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    answered_at = models.DateTimeField(null=True, editable=False)

    objects = ImageShareQuerySet.as_manager()

    # For the type checker: only with_declaration() and with_consumer_name() fetch them.
    declared_at: datetime | None
    consumer_name: str

    class Meta:
        indexes = [
            *(
                models.Index(
                    F("consumer"),
                    *([F("region")] if region else []),
                    F(f"image_{key}"),
                    F("image"),
                    name=f"sharing_{region}{key}",
                    condition=Q(status="accepted"),
                )
                for region in ("", "reg_")
                for key in ("created_at", "name", "size")
            ),
            GinIndex(
                F("consumer"),
                OpClass(F("image_name"), name="gin_trgm_ops"),
                name="sharing_search",
                condition=Q(status="accepted"),
            ),
            # The API lists what was rejected; a scan of all shares would find it too.
            models.Index(
                fields=["consumer", "region", "image_created_at", "image"],
                name="sharing_rejected",
                condition=Q(status="rejected"),
            ),
            # The notifications of a region and of all; the header's count by region.
            models.Index(
                fields=["consumer", "region", "created_at", "id"],
                name="sharing_pending",
                condition=Q(status="pending"),
            ),
            models.Index(
                fields=["consumer", "created_at", "id"],
                name="sharing_pending_all",
                condition=Q(status="pending"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["image", "consumer_number"], name="sharing_imageshare_once"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "accepted", "rejected"]),
                name="sharing_imageshare_status_valid",
            ),
            models.CheckConstraint(
                condition=Q(consumer__isnull=True) | Q(consumer=F("consumer_number")),
                name="sharing_imageshare_consumer_is_number",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.image_name} to {self.consumer_number} ({self.status})"

    @property
    def is_pending(self) -> bool:
        return self.status == self.Status.PENDING

    @property
    def is_accepted(self) -> bool:
        return self.status == self.Status.ACCEPTED

    @property
    def is_rejected(self) -> bool:
        return self.status == self.Status.REJECTED

    @property
    def is_long_pending(self) -> bool:
        """So long without an answer that the number may be a mistake."""
        return self.is_pending and timezone.now() - self.created_at > LONG_PENDING

    @property
    def is_available(self) -> bool:
        """Could be booted now, were it accepted."""
        owner = cast(Account, self.image.owner)
        return self.image.is_bootable and not owner.is_suspended

    @property
    def can_be_accepted(self) -> bool:
        return self.status in ACCEPTABLE_FROM

    @property
    def can_be_removed(self) -> bool:
        return self.status in REMOVABLE_FROM

    @property
    def why_not_again(self) -> str:
        """Why the same pair cannot be shared a second time."""
        shared = f"{self.image_name} is already shared with {self.consumer_number}"
        if self.is_rejected:
            return (
                f"{shared}, which rejected it: remove the consumer, then share again."
            )
        return f"{shared} ({self.get_status_display()})."

    def accept(self, *, by: User) -> None:
        self._move(self.Status.ACCEPTED, ACCEPTABLE_FROM, by=by)

    def reject(self, *, by: User) -> None:
        """Refuse the offer. What was accepted meanwhile stays, until it is removed."""
        self._move(self.Status.REJECTED, REJECTABLE_FROM, by=by)

    def remove(self, *, by: User) -> None:
        """Reject an image that was accepted before."""
        self._move(self.Status.REJECTED, REMOVABLE_FROM, by=by)

    def set_status(self, status: ShareStatus, *, by: User) -> None:
        """What the Cloud Images API allows the consumer: any status at any time."""
        self._move(status, frozenset(self.Status), by=by)

    def revoke(self, *, by: User) -> None:
        if not ImageShare.objects.filter(pk=self.pk).revoke(by=by):
            raise ShareConflict("This share has been removed already.")

    @transaction.atomic
    def _move(
        self,
        status: ShareStatus,
        allowed: frozenset[ShareStatus],
        *,
        by: User,
        note: str = "",
    ) -> None:
        """Move to the status unless someone else has moved it in the meantime."""
        # The WHERE clause is the guard: of two simultaneous answers only one matches.
        # It asks for the status we saw, so that the event tells the one really left.
        seen, now = self.Status(self.status), timezone.now()
        answered = None if status == self.Status.PENDING else now
        moved = ImageShare.objects.filter(
            pk=self.pk, status__in=allowed & {seen}
        ).update(status=status, updated_at=now, answered_at=answered)
        if not moved:
            raise ShareConflict(self._why_not_moved())
        self.refresh_from_db(fields=["status", "updated_at", "answered_at"])
        self.record(
            side=ShareEvent.Side.CONSUMER,
            by=by,
            from_status=seen,
            to_status=status,
            note=note,
        )
        if seen == self.Status.ACCEPTED and status != seen:
            self.image.withdraw_from_servers()

    def _why_not_moved(self) -> str:
        current = ImageShare.objects.filter(pk=self.pk).first()
        if current is None:
            return "The producer has stopped sharing this image."
        return NOT_MOVED[self.Status(current.status)]

    def record(
        self,
        *,
        side: ShareEvent.Side,
        by: User,
        from_status: str = "",
        to_status: str = "",
        note: str = "",
    ) -> ShareEvent:
        return ShareEvent.objects.create(
            image_id=self.image.pk,
            image_name=self.image.name,
            producer_id=cast(str, self.image.owner_id),  # no share is of a base image
            consumer_id=self.consumer_id,
            consumer_number=self.consumer_number,
            side=side,
            actor_name=by.get_username(),
            via=by.via,
            from_status=from_status,
            to_status=to_status,
            note=note,
        )


NOT_MOVED = {
    ImageShare.Status.PENDING: "This offer is waiting for an answer again.",
    ImageShare.Status.ACCEPTED: (
        "This offer has been answered in the meantime: the image is accepted. Whoever "
        "does not want it removes it from the Saved Images."
    ),
    ImageShare.Status.REJECTED: (
        "This offer has been answered in the meantime: the image is rejected. Ask the "
        "producer to share it again."
    ),
}
LONG_PENDING = timedelta(days=3)
OFFERS_USED_UP = (
    "This account has shared images {} times today, which is the limit. "
    "It can share again tomorrow (UTC)."
)
WITH_ROLE = "Shared and accepted in one go, with a role on the consumer's account"
ACCEPTABLE_FROM = frozenset({ImageShare.Status.PENDING})
REJECTABLE_FROM = frozenset({ImageShare.Status.PENDING})
REMOVABLE_FROM = frozenset({ImageShare.Status.ACCEPTED})

"""Images and the blobs that hold their data.

    queued -> saving -> active <-> deactivated
              saving -> error
    An image is deleted from any state, unless it is protected.

A blob is one file of a store, named by its SHA-256. Images and servers point to it;
it goes with the last of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import connection, models, transaction
from django.db.models import F, Q
from django.utils import timezone
from procrastinate.contrib.django import app as jobs
from procrastinate.exceptions import AlreadyEnqueued

from accounts.models import Account, Region, User
from accounts.regions import RegionChoice
from controlpanel.http import Conflict
from controlpanel.jobs import HOUSEKEEPING

if TYPE_CHECKING:
    from images.stores.base import Stored


class ImageConflict(Conflict):
    """The image is not in a state that allows this."""


class BlobQuerySet(models.QuerySet["Blob"]):
    def hold(self, digest: str) -> None:
        """Keep others from adding or removing this file until the transaction ends."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [digest]
            )

    def keep(self, backend: str, stored: Stored) -> Blob:
        """The row of a file that is in the store; the caller holds the digest."""
        blob, _ = self.get_or_create(
            backend=backend,
            digest=stored.digest,
            defaults={
                "size": stored.size,
                "virtual_size": stored.virtual_size,
                "disk_format": stored.disk_format,
            },
        )
        return blob


class Blob(models.Model):
    """A file of an image store, never changed once it is there."""

    backend = models.CharField(max_length=50)
    digest = models.CharField("SHA-256", max_length=64)
    size = models.BigIntegerField(help_text="Bytes of the file.")
    virtual_size = models.BigIntegerField(help_text="Bytes of the disk.")
    disk_format = models.CharField(max_length=10)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = BlobQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["backend", "digest"], name="images_blob_once"
            ),
            models.CheckConstraint(
                condition=Q(digest__regex="^[0-9a-f]{64}$"),
                name="images_blob_digest_valid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.digest[:12]} ({self.disk_format})"

    @property
    def is_used(self) -> bool:
        return any(
            relation.related_model._default_manager.filter(
                **{relation.field.name: self}
            ).exists()
            for relation in self._meta.related_objects
        )

    @transaction.atomic
    def release(self) -> None:
        """Delete the row, and later the file, unless something still uses it."""
        Blob.objects.hold(self.digest)
        if Blob.objects.filter(pk=self.pk).exists() and not self.is_used:
            self.delete()
            jobs.configure_task("images.tasks.remove_file", queue=HOUSEKEEPING).defer(
                backend=self.backend, digest=self.digest
            )


class ImageQuerySet(models.QuerySet["Image"]):
    def base(self) -> ImageQuerySet:
        """Standard images, provided by the cloud to everyone."""
        return self.filter(owner=None)

    def owned_by(self, account: Account) -> ImageQuerySet:
        return self.filter(owner=account)

    def accepted_by(self, account: Account) -> ImageQuerySet:
        """Images of other accounts that this one has accepted."""
        # A subquery, since joining to shares would repeat an image once per share.
        return self.filter(pk__in=account.received_shares.accepted().values("image"))

    def usable_by(self, account: Account) -> ImageQuerySet:
        """The account's Saved Images: its own, and those it accepted.

        For one image at a time; a list takes the branches apart (images.listing).
        """
        accepted = account.received_shares.accepted().values("image")
        return self.filter(Q(owner=account) | Q(pk__in=accepted))

    def visible_to(self, account: Account) -> ImageQuerySet:
        """Base images, own ones, and all that were offered, whatever was answered."""
        offered = account.received_shares.values("image")
        return self.filter(Q(owner=None) | Q(owner=account) | Q(pk__in=offered))

    def bootable(self) -> ImageQuerySet:
        """Active images, without those of suspended accounts."""
        return self.filter(status=Image.Status.ACTIVE).exclude(
            owner__status=Account.Status.SUSPENDED
        )

    def bootable_by(self, account: Account) -> ImageQuerySet:
        """What may become a server of the account, by no request anything else."""
        accepted = account.received_shares.accepted().values("image")
        return self.bootable().filter(
            Q(owner=None) | Q(owner=account) | Q(pk__in=accepted)
        )

    def in_region(self, region: RegionChoice | None) -> ImageQuerySet:
        """Images of one region, or of all when none is given."""
        return self.filter(region=region.code) if region else self.all()


class Image(models.Model):
    """A disk image that servers are started from, in one region of the cloud."""

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        SAVING = "saving", "Saving"
        ACTIVE = "active", "Active"
        DEACTIVATED = "deactivated", "Deactivated"
        ERROR = "error", "Error"

    class Origin(models.TextChoices):
        BASE = "base", "Base image"
        UPLOAD = "upload", "Uploaded"
        SERVER = "server", "Server"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Nobody owns a base image.
    owner = models.ForeignKey(
        Account,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="images",
        db_index=False,
    )
    region = models.ForeignKey(
        Region, on_delete=models.PROTECT, related_name="images", db_index=False
    )
    name = models.CharField(max_length=255)
    description = models.CharField(max_length=1000, blank=True)
    tags = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    os = models.CharField("operating system", max_length=100, blank=True)
    status = models.CharField(
        max_length=12, choices=Status, default=Status.QUEUED, editable=False
    )
    status_reason = models.CharField(max_length=500, blank=True, editable=False)
    # Per cent of the work that a saving image waits for.
    progress = models.PositiveSmallIntegerField(default=0, editable=False)
    protected = models.BooleanField(default=False)
    min_disk_gb = models.PositiveIntegerField("minimum disk (GB)", default=0)
    min_ram_mb = models.PositiveIntegerField("minimum RAM (MB)", default=0)

    origin = models.CharField(max_length=10, choices=Origin, editable=False)
    source_server_id = models.UUIDField(null=True, editable=False)
    source_server_name = models.CharField(max_length=255, blank=True, editable=False)
    # The schedule of that server, if nobody asked for this very image.
    schedule_id = models.UUIDField(null=True, editable=False)
    uploaded_format = models.CharField(max_length=20, blank=True, editable=False)
    created_by = models.CharField(max_length=150, blank=True, editable=False)
    # When its own account last ordered a server from it, to look at it before sharing.
    tried_at = models.DateTimeField(null=True, editable=False)

    # The file, and its figures again for lists that sort by size.
    blob = models.ForeignKey(
        Blob, null=True, on_delete=models.PROTECT, related_name="images", editable=False
    )
    size = models.BigIntegerField(default=0, editable=False)
    virtual_size = models.BigIntegerField(default=0, editable=False)

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ImageQuerySet.as_manager()

    class Meta:
        indexes = [
            # One for each order of the Saved Images list, with and without a region.
            *(
                models.Index(F("owner"), F(key), F("id"), name=f"images_own_{name}")
                for name, key in (
                    ("created", "created_at"),
                    ("name", "name"),
                    ("size", "size"),
                )
            ),
            *(
                models.Index(
                    F("owner"), F("region"), F(key), F("id"), name=f"images_reg_{name}"
                )
                for name, key in (
                    ("created", "created_at"),
                    ("name", "name"),
                    ("size", "size"),
                )
            ),
            GinIndex(
                F("owner"),
                OpClass(F("name"), name="gin_trgm_ops"),
                name="images_search",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    status__in=["queued", "saving", "active", "deactivated", "error"]
                ),
                name="images_image_status_valid",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["active", "deactivated"])
                | Q(blob__isnull=False),
                name="images_image_active_has_blob",
            ),
            models.CheckConstraint(
                condition=Q(owner__isnull=True, origin="base")
                | (Q(owner__isnull=False) & ~Q(origin="base")),
                name="images_image_base_has_no_owner",
            ),
            # It is also the index of the base images.
            models.UniqueConstraint(
                fields=["region", "name"],
                condition=Q(owner__isnull=True),
                name="images_image_base_once",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_base(self) -> bool:
        return self.owner_id is None

    @property
    def is_active(self) -> bool:
        return self.status == self.Status.ACTIVE

    @property
    def is_changing(self) -> bool:
        """Still on its way: pages ask again in a moment."""
        return self.status in {self.Status.QUEUED, self.Status.SAVING}

    def is_owned_by(self, account: Account) -> bool:
        return self.owner_id == account.pk

    @transaction.atomic
    def edit(
        self,
        *,
        name: str,
        description: str,
        os: str,
        tags: Iterable[str],
        protected: bool,
        min_disk_gb: int,
        min_ram_mb: int,
    ) -> None:
        """Write what the owner may change. The shares' copy of the name goes along."""
        changed = Image.objects.filter(pk=self.pk).update(
            name=name,
            description=description,
            os=os,
            tags=list(tags),
            protected=protected,
            min_disk_gb=min_disk_gb,
            min_ram_mb=min_ram_mb,
            updated_at=timezone.now(),
        )
        if not changed:
            raise ImageConflict(f"{self} has been deleted in the meantime.")
        self.shares.update(image_name=name)
        self.refresh_from_db()

    @transaction.atomic
    def activate(self, backend: str, stored: Stored) -> None:
        """The data has come and is sound. The caller holds the digest (Blob.hold)."""
        blob = Blob.objects.keep(backend, stored)
        self._move(
            self.Status.ACTIVE,
            {self.Status.QUEUED, self.Status.SAVING},
            blob=blob,
            size=blob.size,
            virtual_size=blob.virtual_size,
            progress=100,
        )

    def show_progress(self, per_cent: int) -> bool:
        """False if nobody waits for the image any more."""
        saving = Image.objects.filter(pk=self.pk, status=self.Status.SAVING)
        changed = saving.update(progress=per_cent, updated_at=timezone.now())
        return bool(changed)

    def mark_tried(self) -> None:
        """Keep that its account ordered a server from it, which may be gone soon."""
        self.tried_at = timezone.now()
        Image.objects.filter(pk=self.pk).update(tried_at=self.tried_at)

    def deactivate(self, reason: str) -> None:
        """Nothing boots from it any more; the reason is a sentence for the user."""
        self._move(
            self.Status.DEACTIVATED, {self.Status.ACTIVE}, status_reason=reason[:500]
        )

    def reactivate(self) -> None:
        """Its data is in order again."""
        self._move(self.Status.ACTIVE, {self.Status.DEACTIVATED}, status_reason="")

    def start_saving(self) -> None:
        self._move(self.Status.SAVING, {self.Status.QUEUED})

    def fail(self, reason: str) -> None:
        """The data is of no use; the reason is a sentence for the user."""
        waiting = {self.Status.QUEUED, self.Status.SAVING}
        # It takes no room, so it does not count against the quota either.
        nothing = {"size": 0, "virtual_size": 0}
        self._move(self.Status.ERROR, waiting, status_reason=reason[:500], **nothing)

    def _move(self, status: Status, allowed: set[Status], **changes: object) -> None:
        # The WHERE clause is the guard: of two workers only one moves the image on.
        moved = Image.objects.filter(pk=self.pk, status__in=allowed).update(
            status=status, updated_at=timezone.now(), **changes
        )
        if not moved:
            raise ImageConflict(f"{self} has changed or was deleted in the meantime.")
        self.refresh_from_db()

    def withdraw_from_servers(self) -> None:
        """Have the servers looked for whose accounts have just lost it, and which need
        its data still."""
        try:
            with transaction.atomic():
                jobs.configure_task(
                    "servers.withdrawals.look",
                    queue=HOUSEKEEPING,
                    queueing_lock=f"withdrawal-{self.pk}",
                ).defer(timestamp=0)
        except AlreadyEnqueued:
            pass  # and whatever it overlooks is found a minute later

    @transaction.atomic
    def delete_with_shares(self, *, by: User) -> None:
        """Take the image back from everyone it is shared with, then delete it.

        Servers that run from it go on: they hold its blob until their disks have been
        detached from it. Raises ImageConflict when it is protected or gone.
        """
        image = self._locked_to_delete()
        image.shares.all().revoke(by=by, with_image=True)
        image._delete_with_blob()

    @transaction.atomic
    def delete_unshared(self) -> None:
        """Delete it if it is offered to nobody. Raises ImageConflict when it
        is shared, protected or gone.
        """
        image = self._locked_to_delete()
        if image.shares.exists():
            raise ImageConflict(f"{self} is shared.")
        image._delete_with_blob()

    def _locked_to_delete(self) -> Image:
        # Locked, so that it is not offered in the meantime: offer() waits.
        image = Image.objects.select_for_update().filter(pk=self.pk).first()
        if image is None:
            raise ImageConflict(f"{self} has been deleted already.")
        if image.protected:
            raise ImageConflict(
                f"{self} is protected. Switch the protection off under Edit first."
            )
        return image

    def _delete_with_blob(self) -> None:
        self.withdraw_from_servers()
        # Only now: a join would not see a blob that came while we waited for the lock.
        blob = self.blob
        self.delete()
        if blob:
            blob.release()

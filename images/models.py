"""Images and the blobs that hold their data.

    queued -> saving -> active <-> deactivated
    queued <- saving -> error
    An image is deleted from any state, unless it is protected. Data that the Cloud
    Images API has staged leaves an image queued until its import is asked for.

A blob is one file of a store, named by its SHA-256. Images and servers point to it;
it goes with the last of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Q
from django.utils import timezone
from procrastinate.contrib.django import app as jobs
from procrastinate.exceptions import AlreadyEnqueued

from accounts.models import Account, Quota, Region, User
from accounts.regions import RegionChoice
from controlpanel.http import Conflict
from controlpanel.jobs import HOUSEKEEPING, IMAGES, defer_for, has_job

if TYPE_CHECKING:
    from images.stores.base import Inspection, Stored


class ImageConflict(Conflict):
    """The image is not in a state that allows this."""


class ImageProtected(ImageConflict):
    """The image is protected from being deleted."""


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
                "md5": stored.md5,
            },
        )
        return blob

    def remove_file_later(self, backend: str, digest: str) -> None:
        """Have the file deleted, unless a row names it or a disk rests on it."""
        removal = jobs.configure_task(
            "servers.reconciling.remove_file", queue=HOUSEKEEPING
        )
        removal.defer(backend=backend, digest=digest)


class Blob(models.Model):
    """A file of an image store, never changed once it is there."""

    backend = models.CharField(max_length=50)
    digest = models.CharField("SHA-256", max_length=64)
    # Empty where the file came before this was taken.
    md5 = models.CharField("MD5", max_length=32, blank=True)
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
            Blob.objects.remove_file_later(self.backend, self.digest)


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
        """Active images that a server can start from, without those of suspended
        accounts.
        """
        return self.filter(status=Image.Status.ACTIVE, unbootable_reason="").exclude(
            owner__status=Account.Status.SUSPENDED
        )

    def bootable_by(self, account: Account) -> ImageQuerySet:
        """What may become a server of the account, by no request anything else."""
        accepted = account.received_shares.accepted().values("image")
        return self.bootable().filter(
            Q(owner=None) | Q(owner=account) | Q(pk__in=accepted)
        )

    def awaiting_upload(self) -> ImageQuerySet:
        """Images for which the store has data, or is being sent some."""
        saving = Q(status=Image.Status.SAVING)
        return self.filter(saving | Q(status=Image.Status.QUEUED, staged=True))

    def cut_off(self, *, since: datetime) -> ImageQuerySet:
        """Images whose data was coming, or was looked at, when the process that did it
        went away: it has not beaten since then, and has handed nothing over.
        """
        return self.awaiting_upload().filter(
            Q(status=Image.Status.SAVING, uploaded_format="") | Q(staged=True, size=0),
            origin=Image.Origin.UPLOAD,
            updated_at__lt=since,
        )

    @transaction.atomic
    def register(
        self,
        account: Account,
        *,
        region: str,
        by: User,
        image_id: uuid.UUID | None = None,
        **changes: Unpack[Changes],
    ) -> Image:
        """A new image of the account whose data is still to come.

        One without a name is called by its ID. Raises QuotaReached, or ImageConflict
        for an ID that is taken, also by a deleted image with which jobs still deal.
        """
        account.make_room({Quota.IMAGES: 1})
        image = Image(
            id=image_id or uuid.uuid4(),
            owner=account,
            region_id=region,
            origin=Image.Origin.UPLOAD,
            created_by=by.get_username(),
            **changes,
        )
        image.name = image.name or str(image.pk)
        try:
            with transaction.atomic():
                image.save(force_insert=True)
        except IntegrityError:
            raise ImageConflict(f"Image ID {image.pk} already exists!") from None
        # Asked only now: where the other is just being deleted, saving has waited.
        if image_id and has_job(image_id=image_id):
            raise ImageConflict(f"Image ID {image.pk} already exists!")
        return image

    def in_region(self, region: RegionChoice | None) -> ImageQuerySet:
        """Images of one region, or of all when none is given."""
        return self.filter(region=region.code) if region else self.all()


class Changes(TypedDict, total=False):
    """What the owner may change of an image."""

    name: str
    description: str
    os: str
    tags: list[str]
    protected: bool
    min_disk_gb: int
    min_ram_mb: int
    hidden: bool
    private: bool
    disk_format: str
    container_format: str
    properties: dict[str, str]


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

    # Set through the Cloud Images API alone: left out of its list, and closed to
    # sharing.
    hidden = models.BooleanField(default=False, editable=False)
    private = models.BooleanField(default=False, editable=False)
    # As the owner declares them, until the data has come and tells.
    disk_format = models.CharField(max_length=20, blank=True, editable=False)
    container_format = models.CharField(
        max_length=20, blank=True, default="bare", editable=False
    )
    # What clients keep with the image, text by name; only the owner sees it.
    properties = models.JSONField(default=dict, blank=True, editable=False)
    # A queued image whose data is on its way to an import, or waits for it.
    staged = models.BooleanField(default=False, editable=False)
    # A sentence, where the data is of no use to a server.
    unbootable_reason = models.CharField(max_length=500, blank=True, editable=False)

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
            # Few at any time, looked for every five minutes.
            models.Index(
                fields=["updated_at"],
                condition=Q(status__in=["queued", "saving"]),
                name="images_on_their_way",
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
    def is_bootable(self) -> bool:
        return self.is_active and not self.unbootable_reason

    @property
    def is_changing(self) -> bool:
        """Still on its way: pages ask again in a moment."""
        return self.status in {self.Status.QUEUED, self.Status.SAVING}

    @property
    def is_awaiting_data(self) -> bool:
        """Its owner has still to send the data, or to ask for the import of it."""
        return self.status == self.Status.QUEUED and self.origin == self.Origin.UPLOAD

    @property
    def is_being_sent(self) -> bool:
        """Its data is on its way, and nothing was handed over to the worker so far."""
        is_upload = self.origin == self.Origin.UPLOAD
        saving = self.status == self.Status.SAVING
        return is_upload and saving and not self.uploaded_format

    def is_owned_by(self, account: Account) -> bool:
        return self.owner_id == account.pk

    @transaction.atomic
    def edit(self, **changes: Unpack[Changes]) -> None:
        """Write what the owner changes. The shares' copy of the name goes along."""
        # Locked, so that it is not offered in the meantime: offer() waits.
        if not Image.objects.select_for_update().filter(pk=self.pk).exists():
            raise ImageConflict(f"{self} has been deleted in the meantime.")
        if changes.get("private") and self.shares.exists():
            raise ImageConflict(
                f"{self} is shared with other accounts: remove them all, and then it "
                "can be made private."
            )
        if changes.get("name") == "":
            changes["name"] = str(self.pk)
        Image.objects.filter(pk=self.pk).update(updated_at=timezone.now(), **changes)
        if "name" in changes:
            self.shares.update(image_name=changes["name"])
        self.refresh_from_db()

    @transaction.atomic
    def activate(self, backend: str, stored: Stored) -> None:
        """The data has come and is sound.

        Raises QuotaReached: converted, it may be far larger than what was sent.
        """
        this = Image.objects.filter(pk=self.pk)
        counted = this.values_list("size", flat=True).first()
        more = 0 if counted is None else stored.size - counted
        if self.owner and more > 0:
            self.owner.make_room({Quota.IMAGE_BYTES: more})
        # In the order of all others: account, image, digest.
        this.select_for_update(no_key=True).first()
        Blob.objects.hold(stored.digest)
        blob = Blob.objects.keep(backend, stored)
        # Nobody can tell kinds of raw data apart, so there the owner's word counts.
        declared = self.disk_format if stored.disk_format == "raw" else ""
        self._move(
            self.Status.ACTIVE,
            {self.Status.QUEUED, self.Status.SAVING},
            blob=blob,
            disk_format=declared or stored.disk_format,
            size=blob.size,
            virtual_size=blob.virtual_size,
            progress=100,
        )

    def show_progress(self, per_cent: int) -> bool:
        """False if nobody waits for the image any more."""
        saving = Image.objects.filter(pk=self.pk, status=self.Status.SAVING)
        changed = saving.update(progress=per_cent, updated_at=timezone.now())
        return bool(changed)

    def beat(self) -> bool:
        """Somebody is at work on it; False if nobody waits for that any more."""
        awaited = Q(status=self.Status.SAVING) | Q(staged=True)
        # One made anew under its ID waits for data of its own.
        images = Image.objects.filter(awaited, pk=self.pk, created_at=self.created_at)
        return bool(images.update(updated_at=timezone.now()))

    def mark_tried(self) -> None:
        """Keep that its account ordered a server from it, which may be gone soon."""
        self.tried_at = timezone.now()
        Image.objects.filter(pk=self.pk).update(tried_at=self.tried_at)

    def deactivate(self, reason: str) -> None:
        """Nothing boots from it any more; the reason is a sentence for the user. One
        that got other data since it was read is another matter.
        """
        self._move(
            self.Status.DEACTIVATED,
            {self.Status.ACTIVE},
            where={"blob": self.blob_id},
            status_reason=reason[:500],
        )

    def reactivate(self) -> None:
        """Its data is in order again, unless it was deactivated for something else."""
        self._move(
            self.Status.ACTIVE,
            {self.Status.DEACTIVATED},
            where={"status_reason": self.status_reason},
            status_reason="",
        )

    def switch_off(self) -> None:
        """Its owner wants nothing to boot from it, until they switch it on again."""
        self.deactivate(SWITCHED_OFF)

    def switch_on(self) -> None:
        """Undo switch_off(), and nothing else: damage is not mended by it."""
        self._move(
            self.Status.ACTIVE,
            {self.Status.DEACTIVATED},
            where={"status_reason": SWITCHED_OFF},
            status_reason="",
        )

    def start_saving(self, *, staged: bool = False) -> None:
        """Its data comes from now on; or what is staged is taken in."""
        allowed = {self.Status.QUEUED}
        self._move(self.Status.SAVING, allowed, where={"staged": staged}, staged=False)

    def start_staging(self) -> None:
        allowed = {self.Status.QUEUED}
        self._move(self.Status.QUEUED, allowed, where={"staged": False}, staged=True)

    @transaction.atomic
    def note_staged(self, size: int, account: Account) -> None:
        """All of the data is there, and waits for the import; raises QuotaReached."""
        account.make_room({Quota.IMAGE_BYTES: size - self.size})
        allowed = {self.Status.QUEUED}
        self._move(self.Status.QUEUED, allowed, where={"staged": True}, size=size)

    def note_received(self, size: int, found: Inspection, unbootable: str) -> None:
        """All of the data is there, and is now to be checked."""
        self._move(
            self.Status.SAVING,
            {self.Status.SAVING},
            size=size,
            virtual_size=found.virtual_size,
            uploaded_format=found.format,
            unbootable_reason=unbootable[:500],
        )

    def await_data_again(self) -> None:
        """The data did not come, or was not taken: the owner may send other data."""
        waiting = {self.Status.QUEUED, self.Status.SAVING}
        nothing: dict[str, Any] = {"size": 0, "virtual_size": 0, "progress": 0}
        nothing |= {"uploaded_format": "", "unbootable_reason": ""}
        self._move(self.Status.QUEUED, waiting, staged=False, **nothing)

    def await_import_again(self) -> None:
        """What was staged was not taken in: the owner may ask for it once more."""
        self._move(self.Status.QUEUED, {self.Status.SAVING}, staged=True)

    def fail(self, reason: str) -> None:
        """The data is of no use; the reason is a sentence for the user."""
        waiting = {self.Status.QUEUED, self.Status.SAVING}
        # It takes no room, so it does not count against the quota either.
        nothing: dict[str, Any] = {"size": 0, "virtual_size": 0}
        self._move(self.Status.ERROR, waiting, status_reason=reason[:500], **nothing)

    def _move(
        self,
        status: Status,
        allowed: set[Status],
        *,
        where: Mapping[str, object] = MappingProxyType({}),
        **changes: object,
    ) -> None:
        # The WHERE clause is the guard: of two workers only one moves the image on. One
        # that was deleted and made anew under its ID is another.
        same = Image.objects.filter(pk=self.pk, created_at=self.created_at)
        moved = same.filter(status__in=allowed, **where).update(
            status=status, updated_at=timezone.now(), **changes
        )
        try:
            if moved:
                self.refresh_from_db()
        except Image.DoesNotExist:
            moved = 0
        if not moved:
            raise ImageConflict(f"{self} has changed or was deleted in the meantime.")

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
            raise ImageProtected(
                f"{self} is protected. Switch the protection off under Edit first."
            )
        return image

    def _delete_with_blob(self) -> None:
        self.withdraw_from_servers()
        # Only now: a join would not see a blob that came while we waited for the lock.
        blob, staged_id = self.blob, self.pk if self.staged else None
        self.delete()
        if blob:
            blob.release()
        if staged_id:  # this job finds no image, and forgets the data
            task, image_id = "images.tasks.admit", str(staged_id)
            defer_for(cast(str, self.owner_id), task, IMAGES, image_id=image_id)


SWITCHED_OFF = "Its owner has deactivated it."
# Why an image fails whose disk does not fit into the quota: then the limit follows.
GREW = "Its disk takes more room than its file."
PRIVATE = (
    "The image is private: it can be shared once its visibility is set to shared "
    "through the Cloud Images API."
)

"""The life of a server.

    (order) -> BUILD -> ACTIVE <-> SHUTOFF
               BUILD -> ERROR      ACTIVE -> ERROR (crashed) -> ACTIVE
    (delete) ends it in any state.

An image is made of a server that is ACTIVE or SHUTOFF, which stays as it is.

A deed takes two steps. The verb marks the row with a task, in the WHERE clause, and
hands a job to the worker in the same transaction; the worker does it and settles the
row, unless another deed has been marked since. Every step leaves a ServerEvent.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, models, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.text import slugify

from accounts.models import Account, Quota, Region, User
from accounts.regions import RegionChoice
from controlpanel.http import Conflict
from controlpanel.jobs import SERVERS, defer_for
from images.models import Image, ImageQuerySet
from servers.compute.backends import compute_for
from servers.compute.base import Capacity, NoCapacity
from servers.models.boot import NotBootable, lock_bootable
from servers.models.event import ServerEvent, What
from servers.models.flavor import GIB, Flavor
from servers.models.source import MadeFrom, made_from
from sharing.models import ImageShare


class ServerConflict(Conflict):
    """The server is not in a state that allows this."""


class AlreadyOrdered(Conflict):
    """The same form was sent twice; `server` is what its first sending made."""

    def __init__(self, server: Server) -> None:
        super().__init__(f"{server} has been created by this form already.")
        self.server = server


class ServerQuerySet(models.QuerySet["Server"]):
    def owned_by(self, account: Account) -> ServerQuerySet:
        return self.filter(account=account)

    def in_region(self, region: RegionChoice | None) -> ServerQuerySet:
        """Servers of one region, or of all when none is given."""
        return self.filter(region=region.code) if region else self.all()

    def with_parts(self) -> ServerQuerySet:
        """With all that the region has to know of them."""
        return self.select_related("account", "region", "flavor", "blob")

    def settled(self) -> ServerQuerySet:
        """Servers that have been built, and with which nothing is being done."""
        return self.filter(task="", launched_at__isnull=False)

    def withdrawn(self) -> ServerQuerySet:
        """Servers whose disk rests on data of an image that their account may not use
        any more: a base image, an own one, or one that it has accepted. The same data
        under another name does not count, since nobody would know of it.
        """
        images = Image.objects.filter(pk=OuterRef("image"), blob=OuterRef("blob"))
        shares = ImageShare.objects.accepted().filter(
            image=OuterRef("image"),
            image__blob=OuterRef("blob"),
            consumer=OuterRef("account"),
        )
        return self.filter(
            ~Exists(images.filter(Q(owner=None) | Q(owner=OuterRef("account")))),
            ~Exists(shares),
            blob__isnull=False,
        )

    def to_detach(self) -> ServerQuerySet:
        """Withdrawn servers with which nothing is being done; the one that was tried
        longest ago comes first.
        """
        return (
            self.withdrawn()
            .filter(task="")
            .order_by(F("detach_tried_at").asc(nulls_first=True), "pk")
        )

    def resting_on(self, images: Iterable[Image]) -> ServerQuerySet:
        """Servers that were made from the images, and still need their data."""
        return self.filter(image__in=images, blob__isnull=False)

    def with_disk(self) -> ServerQuerySet:
        """The newest servers first, without those that are not built or broken."""
        return self.filter(status__in=_WITH_DISK).order_by("-created_at", "-id")

    @transaction.atomic
    def order(
        self,
        account: Account,
        image: Image,
        flavor: Flavor,
        *,
        name: str,
        password_hash: str,
        public_key: str,
        token: UUID,
        by: User,
    ) -> Server:
        """Make the row of a new server and have the worker build it.

        Raises NotBootable, AlreadyOrdered, QuotaReached or NoCapacity.
        """
        # Locked, so that the limit holds, and a form that is sent twice waits for
        # itself. Without the key, for shares that are offered meanwhile refer to it.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        twin = self.filter(account=account, order_token=token).first()
        if twin:
            raise AlreadyOrdered(twin)
        account.make_room({Quota.SERVERS: 1, Quota.MEMORY_MB: flavor.ram_mb})
        image = lock_bootable(image.pk, account)
        if refusal := flavor.why_not(image):
            raise NotBootable(refusal)
        self.take_place(image.region, flavor.ram_mb)
        server = self.create(
            account=account,
            region_id=image.region_id,
            name=name,
            flavor=flavor,
            password_hash=password_hash,
            public_key=public_key,
            order_token=token,
            created_by=by.get_username(),
            changed_at=timezone.now(),
            **made_from(image),
        )
        server.record(What.CREATE, by=by, note=f"From {image.name}, {flavor.name}")
        if image.owner_id == account.pk:
            image.mark_tried()
        server.defer("build")
        return server

    def holding_places(self, backend: str) -> ServerQuerySet:
        """Those that have their place with a backend, which one keeps while it is
        shut off, and never had if it could not be built.
        """
        built = self.exclude(status=Server.Status.ERROR, launched_at=None, task="")
        return built.filter(region__backend=backend)

    def room_in(self, region: Region, *, but: Server | None = None) -> Capacity:
        """What the region's backend has left, for all accounts; not counting `but`."""
        has = compute_for(region.backend).capacity()
        others = self.holding_places(region.backend)
        if but:
            others = others.exclude(pk=but.pk)
        # While it is being resized, the larger of two: it may stay as it was.
        memory = Greatest("flavor__ram_mb", "resize_order__before__ram_mb")
        taken = others.values_list(memory, flat=True)[: has.servers]
        return Capacity(
            servers=has.servers - len(taken),
            memory_mb=max(0, has.memory_mb - sum(taken)),
            free_bytes=has.free_bytes,
        )

    def take_place(
        self, region: Region, memory_mb: int, *, but: Server | None = None
    ) -> None:
        """Raise NoCapacity if the region has no room for a server of this size.

        Others who order there wait for the end of the transaction, so that no two
        take the last place. What comes after the account's and the image's locks.
        """
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"capacity of {region.backend}"],
            )
        if reason := why_no_room(region, self.room_in(region, but=but), memory_mb):
            raise NoCapacity(reason)


def why_no_room(region: Region, room: Capacity, memory_mb: int) -> str:
    """Why no server of this size finds room there, as a sentence; empty if it does."""
    if not room.free_bytes:
        return (
            f"There is too little disk space in {region.name} at present, so nothing "
            "new is begun there. Try again later, or choose another region."
        )
    lacking = ""
    if room.servers < 1:
        lacking = "all places for servers are taken"
    elif room.memory_mb < memory_mb:
        lacking = f"it has no {memory_mb} MB of memory left"
    if lacking:
        return (
            f"There is no capacity in {region.name} at present: {lacking}. Try again "
            "later, or choose another region."
        )
    return ""


class Server(MadeFrom):
    """A machine of an account, on an overlay of the image that it was made from."""

    class Status(models.TextChoices):
        BUILD = "BUILD", "Building"
        ACTIVE = "ACTIVE", "Active"
        SHUTOFF = "SHUTOFF", "Shut off"
        ERROR = "ERROR", "Error"

    class Task(models.TextChoices):
        SPAWNING = "spawning", "Building"
        REBOOTING = "rebooting", "Rebooting"
        REBOOTING_HARD = "rebooting_hard", "Rebooting hard"
        POWERING_OFF = "powering-off", "Powering off"
        POWERING_ON = "powering-on", "Powering on"
        IMAGING = "image_snapshot", "Creating an image"
        REBUILDING = "rebuilding", "Rebuilding"
        RESIZING = "resizing", "Resizing"
        DELETING = "deleting", "Deleting"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="servers", db_index=False
    )
    region = models.ForeignKey(
        Region, on_delete=models.PROTECT, related_name="servers", db_index=False
    )
    name = models.CharField(max_length=255)
    flavor = models.ForeignKey(
        Flavor, on_delete=models.PROTECT, related_name="servers", db_index=False
    )
    status = models.CharField(
        max_length=10, choices=Status, default=Status.BUILD, editable=False
    )
    task = models.CharField(
        max_length=15,
        choices=Task,
        default=Task.SPAWNING,
        blank=True,
        editable=False,
    )
    # Why it is in error, or was shut off: a sentence for its user.
    reason = models.CharField(max_length=500, blank=True, editable=False)
    password_hash = models.CharField(max_length=128, editable=False)
    public_key = models.TextField(blank=True, editable=False)
    ssh_host = models.CharField(max_length=100, blank=True, editable=False)
    ssh_port = models.PositiveIntegerField(default=0, editable=False)
    # When the account lost the image, and how: a sentence for its users. From then on
    # the disk is being detached from the image's data, or, without a blob, has been.
    withdrawn_at = models.DateTimeField(null=True, editable=False)
    withdrawn_how = models.CharField(max_length=500, blank=True, editable=False)
    detach_tried_at = models.DateTimeField(null=True, editable=False)
    # Why that has to wait.
    detach_problem = models.CharField(max_length=500, blank=True, editable=False)
    order_token = models.UUIDField(editable=False)
    created_by = models.CharField(max_length=150, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # Grows with every change: an open page asks by it whether there is news.
    changed_at = models.DateTimeField(editable=False)
    # When its process started last, when it did so first, and when its console
    # first asked for a login.
    started_at = models.DateTimeField(null=True, editable=False)
    launched_at = models.DateTimeField(null=True, editable=False)
    prompt_at = models.DateTimeField(null=True, editable=False)

    objects = ServerQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["account", "-created_at", "-id"], name="servers_own_created"
            ),
            models.Index(
                fields=["account", "region", "-created_at", "-id"],
                name="servers_reg_created",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "order_token"], name="servers_server_ordered_once"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["BUILD", "ACTIVE", "SHUTOFF", "ERROR"]),
                name="servers_server_status_valid",
            ),
            models.CheckConstraint(
                condition=Q(
                    task__in=[
                        "",
                        "spawning",
                        "rebooting",
                        "rebooting_hard",
                        "powering-off",
                        "powering-on",
                        "image_snapshot",
                        "rebuilding",
                        "resizing",
                        "deleting",
                    ]
                ),
                name="servers_server_task_valid",
            ),
            models.CheckConstraint(
                condition=Q(ssh_port__lte=65535), name="servers_server_port_valid"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    # Questions

    @property
    def is_active(self) -> bool:
        return self.status == self.Status.ACTIVE

    @property
    def is_broken(self) -> bool:
        return self.status == self.Status.ERROR

    @property
    def is_deleting(self) -> bool:
        return self.task == self.Task.DELETING

    @property
    def is_changing(self) -> bool:
        """Something is being done with it: pages ask again in a moment."""
        return bool(self.task)

    @property
    def is_booting(self) -> bool:
        """Running, but not yet seen to ask for a login, in its first minutes."""
        if not self.is_active or self.prompt_at or not self.started_at:
            return False
        return (timezone.now() - self.started_at).total_seconds() < 300

    @property
    def is_from_shared_image(self) -> bool:
        return self.image_owner_id not in {None, self.account_id}

    @property
    def is_detached(self) -> bool:
        """Its disk needs nothing of the image that it was made from any more."""
        return self.blob_id is None

    @property
    def can_be_rebooted(self) -> bool:
        return self.is_active and not self.task

    @property
    def can_be_powered_off(self) -> bool:
        return self.is_active and not self.task

    @property
    def can_be_powered_on(self) -> bool:
        stopped = self.status in {self.Status.SHUTOFF, self.Status.ERROR}
        return stopped and not self.task and self.launched_at is not None

    @property
    def can_be_imaged(self) -> bool:
        return self.status in _WITH_DISK and not self.task

    @property
    def can_be_rebuilt(self) -> bool:
        built = self.launched_at is not None and self.status != self.Status.BUILD
        return built and not self.task

    @property
    def can_be_resized(self) -> bool:
        return self.status in _WITH_DISK and not self.task

    @property
    def can_be_deleted(self) -> bool:
        return not self.is_deleting

    @property
    def disk_size(self) -> int:
        """Bytes of its disk, which is never smaller than that of its image."""
        return max(self.flavor.disk_gb * GIB, self.image_virtual_size)

    def images_made(self) -> ImageQuerySet:
        return Image.objects.filter(owner=self.account_id, source_server_id=self.pk)

    def images_being_made(self) -> ImageQuerySet:
        """At most one, save for a moment while the server is being deleted."""
        return self.images_made().filter(status=Image.Status.SAVING)

    @property
    def state(self) -> str:
        """Its status in words, or what is being done with it."""
        return self.get_task_display() or self.get_status_display()

    @property
    def hostname(self) -> str:
        """What the machine calls itself: its name as far as that can be one."""
        name = slugify(self.name).replace("_", "-")[:63].strip("-")
        name = re.sub("-+", "-", name)
        return name or f"server-{str(self.pk)[:8]}"

    # Verbs

    def reboot(self, *, by: User, hard: bool = False) -> None:
        task = self.Task.REBOOTING_HARD if hard else self.Task.REBOOTING
        self.begin(task, self.Status.ACTIVE, by=by)

    def power_off(self, *, by: User) -> None:
        self.begin(self.Task.POWERING_OFF, self.Status.ACTIVE, by=by)

    def power_on(self, *, by: User) -> None:
        """Start it again, also after it crashed, on the disk and in the place that it
        has kept.
        """
        if not compute_for(self.region.backend).capacity().free_bytes:
            raise ServerConflict(
                f"There is too little disk space in {self.region.name} at present, so "
                f"{self} stays off. Try again later."
            )
        stopped = (self.Status.SHUTOFF, self.Status.ERROR)
        self.begin(self.Task.POWERING_ON, *stopped, by=by, launched_at__isnull=False)

    @transaction.atomic
    def create_image(
        self,
        *,
        name: str,
        by: User | None,
        schedule_id: UUID | None = None,
        properties: dict[str, str] | None = None,
    ) -> Image:
        """Have an image of its own made for the account, of the disk as it is now.

        A schedule has it made for nobody. Raises ServerConflict or QuotaReached.
        """
        blob = self.blob
        # The file's size is known when it is there; so far, that it is hardly less.
        # The account is locked by this, so that two requests come here one by one.
        size = blob.size if blob else 0
        self.account.make_room({Quota.IMAGES: 1, Quota.IMAGE_BYTES: size})
        if being_made := self.images_being_made().first():
            raise ServerConflict(
                f"An image of {self} is being made already: {being_made}. Wait until "
                "it is done."
            )
        image = Image(
            owner_id=self.account_id,
            region_id=self.region_id,
            name=name,
            os=self.image_os,
            origin=Image.Origin.SERVER,
            status=Image.Status.SAVING,
            source_server_id=self.pk,
            source_server_name=self.name,
            created_by=by.get_username() if by else "",
            schedule_id=schedule_id,
            virtual_size=self.disk_size,
            min_disk_gb=-(-self.disk_size // GIB),
            min_ram_mb=self.image_min_ram_mb,
            properties=properties or {},
        )
        self.begin(self.Task.IMAGING, *_WITH_DISK, by=by, making=image)
        image.save(force_insert=True)
        return image

    @transaction.atomic
    def delete_later(self, *, by: User) -> None:
        """Delete the server and its disk. Whatever else is being done comes first."""
        waiting = Server.objects.filter(pk=self.pk).exclude(task=self.Task.DELETING)
        if not waiting.update(task=self.Task.DELETING, changed_at=timezone.now()):
            raise ServerConflict(f"{self} is being deleted already.")
        self._refresh()
        self.record(What.DELETE, by=by)
        self.defer("delete")

    @transaction.atomic
    def rename(self, name: str, *, by: User) -> None:
        """Change the name in the panel; the machine keeps its host name."""
        if name == self.name:
            return
        kept = Server.objects.filter(pk=self.pk).exclude(task=self.Task.DELETING)
        if not kept.update(name=name, changed_at=timezone.now()):
            raise ServerConflict(f"{self} has been deleted in the meantime.")
        self.record(What.RENAME, by=by, note=f"{self.name} to {name}"[:500])
        self._refresh()

    @transaction.atomic
    def begin(
        self,
        task: Task,
        *allowed: Status,
        by: User | None,
        making: Image | None = None,
        note: str = "",
        **also: object,
    ) -> None:
        """Mark it with the task, in one of the states that allow it and if all else is
        so, too; and have the worker do it. Raises ServerConflict.
        """
        # The WHERE clause is the guard: of two simultaneous deeds only one matches.
        begun = Server.objects.filter(
            pk=self.pk, task="", status__in=allowed, **also
        ).update(task=task, changed_at=timezone.now())
        if not begun:
            raise ServerConflict(self._why_not_begun(task, allowed))
        self._refresh()
        what = What.SCHEDULED_IMAGE if making and not by else _RECORDED[task]
        note = making.name if making else note
        self.record(what, by=by, note=note, image=making)
        self.defer(JOBS[Server.Task(task)])

    def _why_not_begun(self, task: Task, allowed: Collection[Status]) -> str:
        current = Server.objects.filter(pk=self.pk).first()
        if current is None:
            return f"{self} has been deleted."
        if current.task:
            return f"{self}: {current.state} is under way. Wait until it is done."
        if current.changed_at != self.changed_at and current.status in allowed:
            return f"{self} has changed in the meantime. Look at it again."
        return (
            f"{self} is {current.get_status_display().lower()}, so "
            f"“{_RECORDED[task].label}” cannot be done."
        )

    # The worker's verbs

    @transaction.atomic
    def settle(self, what: What | None, *, note: str = "", **changes: Any) -> bool:
        """Write how things stand, unless another deed was begun since this was read;
        or ended, where it is not a deed's own job that has seen it.
        """
        same = Server.objects.filter(pk=self.pk, task=self.task, status=self.status)
        if not self.task:
            same = same.filter(changed_at=self.changed_at)
        settled = same.update(changed_at=timezone.now(), **changes)
        if not settled:
            return False
        self._refresh()
        if what:
            self.record(what, note=note)
        return True

    @transaction.atomic
    def withdraw(self, how: str, at: datetime) -> None:
        """Write down, once, that the account has lost the image, and how."""
        # One that has been rebuilt since may have the image of its new disk.
        unaware = Server.objects.filter(
            pk=self.pk, withdrawn_at=None, blob=self.blob_id
        )
        if unaware.update(
            withdrawn_at=at, withdrawn_how=how[:500], changed_at=timezone.now()
        ):
            self.record(What.WITHDRAWN, note=how)

    @transaction.atomic
    def give_back(self) -> None:
        """The account may use the image again, before the disk was detached from it."""
        aware = Server.objects.filter(pk=self.pk, withdrawn_at=self.withdrawn_at)
        if aware.update(
            withdrawn_at=None,
            withdrawn_how="",
            detach_problem="",
            changed_at=timezone.now(),
        ):
            self.record(What.GIVEN_BACK, note=self.image_name)

    @transaction.atomic
    def let_go_of_image(self) -> bool:
        """The disk stands alone. False if anything was done with the server since it
        was read, for then the disk may be another one.
        """
        blob = self.blob
        same = Server.objects.filter(pk=self.pk, task="", changed_at=self.changed_at)
        if blob is None or not same.update(
            blob=None, detach_problem="", changed_at=timezone.now()
        ):
            return False
        if self.launched_at:
            self.record(What.DETACHED, note=self.image_name)
        blob.release()
        return True

    @transaction.atomic
    def forget(self) -> None:
        """Its disk is gone: let go of the image's data, and delete the row."""
        # Images before the server, as everywhere. They keep its name, and lead nowhere.
        self.images_made().update(source_server_id=None)
        locked = Server.objects.select_for_update(of=["self"]).select_related("blob")
        server = locked.filter(pk=self.pk).first()
        if server is None:
            return
        server.record(What.DELETED)
        rebuild = getattr(server, "rebuild_order", None)
        blobs = [server.blob, rebuild and rebuild.blob]
        server.delete()
        for blob in filter(None, blobs):
            blob.release()

    def record(
        self,
        what: What,
        *,
        by: User | None = None,
        note: str = "",
        image: Image | None = None,
    ) -> None:
        """Write down what happened; nobody stands for the cloud itself."""
        ServerEvent.objects.create(
            server_id=self.pk,
            server_name=self.name,
            account_id=self.account_id,
            what=what,
            actor_name=by.get_username() if by else "",
            via=by.via if by else "",
            note=note[:500],
            image_id=image.pk if image else None,
        )

    def defer(self, job: str) -> None:
        """Have the worker do it, after all that it was told to do with this server."""
        task, server_id = f"servers.tasks.{job}", str(self.pk)
        defer_for(self.account_id, task, SERVERS, server_id=server_id)

    def _refresh(self) -> None:
        self.refresh_from_db(
            fields=[
                "name",
                "status",
                "task",
                "reason",
                "ssh_host",
                "ssh_port",
                "changed_at",
                "started_at",
                "launched_at",
                "prompt_at",
            ]
        )


JOBS = {
    Server.Task.SPAWNING: "build",
    Server.Task.REBOOTING: "reboot",
    Server.Task.REBOOTING_HARD: "reboot",
    Server.Task.POWERING_OFF: "power_off",
    Server.Task.POWERING_ON: "power_on",
    Server.Task.IMAGING: "snapshot",
    Server.Task.REBUILDING: "rebuild",
    Server.Task.RESIZING: "resize",
    Server.Task.DELETING: "delete",
}
_RECORDED = {
    Server.Task.REBOOTING: What.REBOOT,
    Server.Task.REBOOTING_HARD: What.REBOOT_HARD,
    Server.Task.POWERING_OFF: What.POWER_OFF,
    Server.Task.POWERING_ON: What.POWER_ON,
    Server.Task.IMAGING: What.CREATE_IMAGE,
    Server.Task.REBUILDING: What.REBUILD,
    Server.Task.RESIZING: What.RESIZE,
}
# In these it has a disk that is in order.
_WITH_DISK = (Server.Status.ACTIVE, Server.Status.SHUTOFF)

"""Images that are made of a server every day or every week, and how long they stay.

    set_for -> next_at -> run -> an image, or the reason why there is none
               ^----------'
    Its last image active: the oldest of its images go, down to `keep`.

The clock of a machine may jump. Forward, it makes one image, however many moments were
passed over. Back, it makes none a second time; and a next moment that is further ahead
than the schedule reaches is put right, so that at most one is left out.
"""

from __future__ import annotations

import calendar
import contextlib
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import Account, QuotaReached, User
from images.models import Image, ImageConflict, ImageQuerySet
from servers.models.event import What
from servers.models.server import Server, ServerConflict

# Images that one schedule may keep.
MOST_KEPT = 30
WEEKDAYS = list(calendar.day_name)
_DAY, _WEEK = timedelta(days=1), timedelta(weeks=1)


class ImageScheduleQuerySet(models.QuerySet["ImageSchedule"]):
    def due(self, now: datetime) -> ImageScheduleQuerySet:
        """Whose moment has come, the longest waiting first. A server with which
        something is being done comes when that is done; one that is being built may
        never be.
        """
        free = Q(server__task__in=["", Server.Task.SPAWNING])
        return self.filter(free, next_at__lte=now).order_by("next_at", "pk")

    def astray(self, now: datetime) -> ImageScheduleQuerySet:
        """Whose next moment was reckoned by a clock that was far ahead."""
        return self.filter(
            Q(weekday__isnull=True, next_at__gt=now + 2 * _DAY)
            | Q(weekday__isnull=False, next_at__gt=now + 2 * _WEEK)
        )

    @transaction.atomic
    def set_for(
        self,
        server: Server,
        *,
        weekday: int | None,
        hour: int,
        keep: int,
        by: User,
        now: datetime | None = None,
    ) -> ImageSchedule:
        """Have images made of the server from now on, or otherwise than so far."""
        _lock(server)
        schedule = self.filter(server=server).first() or ImageSchedule(server=server)
        same_moments = (schedule.weekday, schedule.hour) == (weekday, hour)
        schedule.weekday, schedule.hour, schedule.keep = weekday, hour, keep
        schedule.set_by = by.get_username()
        # One that is due this very minute stays so if only the number is changed.
        if schedule._state.adding or not same_moments:
            schedule.next_at = schedule.first_after(now or timezone.now())
        schedule.save()
        schedule._record(What.SCHEDULE_SET, by=by, note=f"{schedule}")
        return schedule

    def keep_newest(self, made: Image) -> None:
        """Delete what is too old beside an image that has become active.

        Only beside the last one of a schedule: the job of an earlier image may come
        again late, and knows of fewer.
        """
        if made.schedule_id and made.is_active:
            schedules = self.filter(pk=made.schedule_id, image_id=made.pk)
            for schedule in schedules.select_related("server"):
                schedule._keep_newest(made)


class ImageSchedule(models.Model):
    """When images of a server are made by themselves, and how many of them are kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # It ends with its server, and its images stay.
    server = models.OneToOneField(
        Server, on_delete=models.CASCADE, related_name="image_schedule"
    )
    # Monday is 0; none is every day.
    weekday = models.PositiveSmallIntegerField(null=True)
    # Of the day in UTC.
    hour = models.PositiveSmallIntegerField()
    keep = models.PositiveSmallIntegerField()
    set_by = models.CharField(max_length=150)
    next_at = models.DateTimeField(db_index=True)
    # The last run: when, and the image that it made, or why it made none.
    ran_at = models.DateTimeField(null=True)
    image_id = models.UUIDField(null=True)
    reason = models.CharField(max_length=500, blank=True)

    objects = ImageScheduleQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(hour__lte=23), name="servers_imageschedule_hour_valid"
            ),
            models.CheckConstraint(
                condition=Q(weekday__isnull=True) | Q(weekday__lte=6),
                name="servers_imageschedule_weekday_valid",
            ),
            models.CheckConstraint(
                condition=Q(keep__gte=1, keep__lte=MOST_KEPT),
                name="servers_imageschedule_keep_valid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rhythm}, the newest {self.keep} are kept"

    @property
    def rhythm(self) -> str:
        day = "day" if self.weekday is None else WEEKDAYS[self.weekday]
        return f"Every {day} at {self.hour:02}:00 UTC"

    @property
    def is_waiting(self) -> bool:
        """Its moment has come, and the server is not free yet."""
        return self.next_at <= timezone.now()

    def images(self) -> ImageQuerySet:
        """What it has made and is still there, in every state, the newest first."""
        made = self.server.images_made().filter(schedule_id=self.pk)
        return made.order_by("-created_at", "-id")

    def images_kept(self) -> ImageQuerySet:
        return self.images().filter(status=Image.Status.ACTIVE)

    def last_image(self) -> Image | None:
        """The image of the last run, unless it has been deleted since."""
        if self.image_id is None:
            return None
        return self.images().filter(pk=self.image_id).first()

    def first_after(self, moment: datetime) -> datetime:
        start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        at = start.replace(hour=self.hour)
        if self.weekday is not None:
            at += (self.weekday - at.weekday()) % 7 * _DAY
        if at > moment:
            return at
        return at + (_DAY if self.weekday is None else _WEEK)

    @transaction.atomic
    def stop(self, *, by: User) -> None:
        """Make no more images; those that are there stay, and none of them goes."""
        _lock(self.server)
        stopped, _ = ImageSchedule.objects.filter(pk=self.pk).delete()
        if not stopped:
            raise ServerConflict("The schedule has been stopped already.")
        self._record(What.SCHEDULE_STOPPED, by=by)

    @transaction.atomic
    def run(self, *, now: datetime) -> None:
        """Have the image made whose moment has come, unless that has been done.

        Raises ServerConflict if the server is busy: then it is still due.
        """
        # In the order in which everybody locks: a deletion takes its server, then this.
        Account.objects.select_for_update(no_key=True).get(pk=self.server.account_id)
        server = _lock(self.server)
        if not self._claim(now):
            return
        if server.status in {Server.Status.BUILD, Server.Status.ERROR}:
            state = server.get_status_display()
            self._give_up(f"The server's status was {state}.")
            return
        name = f"{server.name[:244]} {now.astimezone(UTC):%Y-%m-%d}"
        try:
            image = server.create_image(name=name, by=None, schedule_id=self.pk)
        except QuotaReached as full:
            self._give_up(str(full))
        else:
            ImageSchedule.objects.filter(pk=self.pk).update(image_id=image.pk)

    def forget_failed(self) -> None:
        """Delete what became of runs that failed: each counts as an image."""
        self._delete_each(self.images().filter(status=Image.Status.ERROR))

    @transaction.atomic
    def skip(self, reason: str, *, now: datetime) -> None:
        """Leave out the image whose moment has come, unless that has been done."""
        _lock(self.server)
        if self._claim(now):
            self._give_up(reason)

    @transaction.atomic
    def put_right(self, *, now: datetime) -> None:
        """Reckon the next moment anew, by a clock that is not so far ahead."""
        _lock(self.server)
        same = ImageSchedule.objects.filter(pk=self.pk, next_at=self.next_at)
        same.update(next_at=self.first_after(now))

    def _claim(self, now: datetime) -> bool:
        # The WHERE clause is the guard: of two workers only one finds the same moment,
        # and neither does after somebody has set another one.
        due = ImageSchedule.objects.filter(pk=self.pk, next_at=self.next_at)
        claimed = due.update(
            next_at=self.first_after(now), ran_at=now, image_id=None, reason=""
        )
        return bool(claimed)

    def _give_up(self, reason: str) -> None:
        ImageSchedule.objects.filter(pk=self.pk).update(reason=reason[:500])
        self._record(What.SCHEDULE_SKIPPED, note=reason)

    def _keep_newest(self, made: Image) -> None:
        earlier = self.images().exclude(pk=made.pk)
        kept = list(earlier.filter(status=Image.Status.ACTIVE))
        # What bears a later date is of a clock that was wrong, and goes first.
        kept.sort(key=lambda image: image.created_at > made.created_at)
        self._delete_each(kept[self.keep - 1 :])

    def _delete_each(self, images: Iterable[Image]) -> None:
        for image in images:
            # Shared, protected or gone; or the server is about to go.
            with contextlib.suppress(ImageConflict, ServerConflict):
                self._delete(image)

    @transaction.atomic
    def _delete(self, image: Image) -> None:
        # Locked before this is asked: who orders a server from it waits, or has done.
        if Image.objects.select_for_update().filter(pk=image.pk).first() is None:
            return  # another worker has done it
        _lock(self.server)
        is_going_on = ImageSchedule.objects.filter(pk=self.pk).exists()
        is_awaited = image.servers.exclude(task="").exists() or image.rebuilds.exists()
        if is_going_on and not is_awaited:
            self._record(What.OLD_IMAGE_DELETED, note=image.name, image=image)
            image.delete_unshared()

    def _record(
        self,
        what: What,
        *,
        by: User | None = None,
        note: str = "",
        image: Image | None = None,
    ) -> None:
        """Write it down with the server, whose open pages show it then."""
        self.server.record(what, by=by, note=note, image=image)
        servers = Server.objects.filter(pk=self.server_id)
        servers.update(changed_at=timezone.now())


def _lock(server: Server) -> Server:
    """The server as it is, until the end of the transaction."""
    locked = Server.objects.select_for_update(of=["self"])
    found = locked.select_related("account", "flavor", "blob").filter(pk=server.pk)
    fresh = found.exclude(task=Server.Task.DELETING).first()
    if fresh is None:
        raise ServerConflict(f"{server} has been deleted in the meantime.")
    return fresh

"""Images that are made by themselves. Every test has a clock of its own."""

from datetime import UTC, datetime, timedelta
from functools import partial
from unittest import mock

import pytest
from django.db import IntegrityError, transaction
from django.test import TransactionTestCase

from accounts.permissions import Role
from images.models import Image
from images.stores import StoreError, StoreFull
from images.tasks import MOST_ATTEMPTS
from servers import schedules, snapshots, tasks
from servers.models import (
    ImageSchedule,
    Rebuild,
    Server,
    ServerConflict,
    ServerEvent,
    What,
)
from sharing.models import ImageShare
from tests.factories import (
    AccountFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
)
from tests.images.case import work
from tests.limits import limited
from tests.races import at_once
from tests.servers.factories import ServerFactory
from tests.servers.fakes import FakeComputeMixin, FakeStore
from tests.servers.test_snapshots import SnapshotTestCase
from tests.servers.test_views import ServerViewTestCase

# A Tuesday, two hours before most schedules here.
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def set_for(server, *, by, weekday=None, hour=2, keep=7, now=MIDNIGHT):
    return ImageSchedule.objects.set_for(
        server, weekday=weekday, hour=hour, keep=keep, by=by, now=now
    )


class ScheduleTestCase(SnapshotTestCase):
    def schedule(self, **plan):
        return set_for(self.server, by=self.bob, **plan)

    def make_due(self, now):
        """The worker's minute, and all that it leads to."""
        schedules.make_due(now)
        work()

    def made(self):
        images = Image.objects.filter(schedule_id__isnull=False)
        return list(images.order_by("created_at"))

    def days(self):
        return [int(image.name[-2:]) for image in self.made()]

    def notes(self, what):
        events = ServerEvent.objects.filter(server_id=self.server.pk, what=what)
        return list(events.order_by("pk").values_list("note", flat=True))


class MomentTests(ScheduleTestCase):
    def test_the_first_moment_is_the_next_that_comes(self):
        tuesday = MIDNIGHT
        plans = [
            ({}, tuesday, tuesday + 2 * HOUR),
            ({}, tuesday + 2 * HOUR, tuesday + DAY + 2 * HOUR),
            ({"hour": 0}, tuesday, tuesday + DAY),
            ({"weekday": 1}, tuesday, tuesday + 2 * HOUR),
            ({"weekday": 1}, tuesday + 2 * HOUR, tuesday + 7 * DAY + 2 * HOUR),
            ({"weekday": 0}, tuesday, tuesday + 6 * DAY + 2 * HOUR),
            ({"weekday": 2}, tuesday + 9 * HOUR, tuesday + DAY + 2 * HOUR),
            ({"hour": 23}, tuesday + timedelta(minutes=1), tuesday + 23 * HOUR),
        ]
        for plan, now, then in plans:
            with self.subTest(plan=plan, now=now):
                schedule = ImageSchedule(**{"hour": 2, **plan})
                assert schedule.first_after(now) == then

    def test_setting_it_anew_changes_the_one_that_is_there(self):
        first = self.schedule()
        second = self.schedule(weekday=4, hour=5, keep=2)

        assert (second.pk, ImageSchedule.objects.count()) == (first.pk, 1)
        assert second.next_at == MIDNIGHT + 3 * DAY + 5 * HOUR
        assert self.notes(What.SCHEDULE_SET) == [
            "Every day at 02:00 UTC, the newest 7 are kept",
            "Every Friday at 05:00 UTC, the newest 2 are kept",
        ]

    def test_another_number_to_keep_does_not_lose_what_is_due(self):
        due = self.schedule().next_at

        changed = self.schedule(keep=2, now=due + HOUR)
        assert (changed.next_at, changed.keep) == (due, 2)

    def test_the_database_refuses_what_cannot_be(self):
        self.schedule()
        for plan in [{"hour": 24}, {"weekday": 7}, {"keep": 0}, {"keep": 31}]:
            refused = pytest.raises(IntegrityError, match="imageschedule")
            with self.subTest(plan=plan), refused, transaction.atomic():
                ImageSchedule.objects.update(**plan)

    def test_a_server_that_is_being_deleted_gets_no_schedule(self):
        self.server.delete_later(by=self.bob)
        with pytest.raises(ServerConflict):
            self.schedule()

    def test_it_is_stopped_once_and_its_images_stay(self):
        schedule = self.schedule()
        self.make_due(schedule.next_at)
        schedule.stop(by=self.bob)

        with pytest.raises(ServerConflict, match="stopped already"):
            schedule.stop(by=self.bob)
        assert len(self.made()) == 1
        event = ServerEvent.objects.get(what=What.SCHEDULE_STOPPED)
        assert event.actor_name == "bob"
        self.make_due(MIDNIGHT + 3 * DAY)
        assert len(self.made()) == 1


class RunTests(ScheduleTestCase):
    def test_an_image_is_made_when_its_moment_comes(self):
        schedule = self.schedule()
        self.make_due(schedule.next_at - timedelta(seconds=1))
        assert self.made() == []
        self.make_due(schedule.next_at)

        [image] = self.made()
        assert (image.name, image.status) == ("web-1 2026-11-24", "active")
        assert (image.owner, image.source_server_id) == (self.beta, self.server.pk)
        assert (image.created_by, image.schedule_id) == ("", schedule.pk)
        schedule.refresh_from_db()
        assert schedule.next_at == MIDNIGHT + DAY + 2 * HOUR
        assert (schedule.ran_at, schedule.reason) == (MIDNIGHT + 2 * HOUR, "")
        assert schedule.last_image() == image
        assert list(schedule.images_kept()) == [image]

    def test_the_events_name_the_schedule_and_nobody(self):
        self.make_due(self.schedule().next_at)

        events = ServerEvent.objects.filter(server_id=self.server.pk).order_by("-pk")
        told = [(e.what, e.actor_name, e.note) for e in events[:2]]
        assert told == [
            (What.IMAGE_CREATED, "", "web-1 2026-11-24"),
            (What.SCHEDULED_IMAGE, "", "web-1 2026-11-24"),
        ]

    def test_a_long_name_is_cut_and_keeps_its_date(self):
        self.server.rename("x" * 255, by=self.bob)
        self.make_due(self.schedule().next_at)

        [image] = self.made()
        assert image.name == "x" * 244 + " 2026-11-24"

    def test_what_was_missed_is_made_once(self):
        self.schedule()
        long_after = MIDNIGHT + 9 * DAY + 7 * HOUR
        for minute in range(3):
            self.make_due(long_after + timedelta(minutes=minute))

        assert len(self.made()) == 1
        assert ImageSchedule.objects.get().next_at == MIDNIGHT + 10 * DAY + 2 * HOUR

    def test_a_weekly_one_is_made_once_a_week(self):
        self.schedule(weekday=3)
        for hours in range(0, 22 * 24, 6):
            self.make_due(MIDNIGHT + timedelta(hours=hours))

        assert self.days() == [26, 3, 10]

    def test_a_busy_server_is_tried_again_until_it_is_free(self):
        schedule = self.schedule()
        self.server.reboot(by=self.bob)
        schedules.make_due(schedule.next_at)
        assert self.made() == []
        schedule.refresh_from_db()
        assert schedule.is_waiting is (schedule.next_at <= datetime.now(UTC))
        work()
        self.make_due(schedule.next_at + 5 * HOUR)

        assert len(self.made()) == 1
        assert self.notes(What.SCHEDULE_SKIPPED) == []

    def test_a_broken_server_that_is_being_started_is_waited_for(self):
        schedule = self.schedule()
        Server.objects.update(status="ERROR", task="powering-on")
        schedules.make_due(schedule.next_at)

        schedule.refresh_from_db()
        assert schedule.ran_at is None

    def test_it_waits_for_an_image_that_somebody_makes(self):
        schedule = self.schedule()
        self.create_image()
        self.run_snapshot()  # the server is free, and its image is not there yet
        schedules.make_due(schedule.next_at)
        assert self.made() == []
        schedule.refresh_from_db()
        assert (schedule.ran_at, schedule.next_at) == (None, MIDNIGHT + 2 * HOUR)
        work()
        self.make_due(schedule.next_at)

        assert len(self.made()) == 1

    def test_a_server_in_error_or_being_built_is_skipped_with_an_event(self):
        for status, task in [("ERROR", ""), ("BUILD", "spawning")]:
            with self.subTest(status=status):
                Server.objects.update(status=status, task=task)
                ImageSchedule.objects.all().delete()
                schedule = self.schedule()
                schedules.make_due(schedule.next_at)

                schedule.refresh_from_db()
                assert schedule.next_at == MIDNIGHT + DAY + 2 * HOUR
                assert "status was" in schedule.reason
                assert self.notes(What.SCHEDULE_SKIPPED)[-1] == schedule.reason
        assert self.made() == []

    def test_a_server_that_is_being_deleted_is_left_alone(self):
        schedule = self.schedule()
        self.server.delete_later(by=self.bob)
        schedules.make_due(schedule.next_at)

        assert self.notes(What.SCHEDULE_SKIPPED) == []
        work()
        assert not ImageSchedule.objects.exists()

    def test_the_images_outlive_the_server(self):
        self.make_due(self.schedule().next_at)
        self.server.delete_later(by=self.bob)
        work()

        [image] = self.made()
        assert (image.status, image.source_server_id) == ("active", None)

    def test_a_quota_that_is_reached_is_told_and_the_schedule_goes_on(self):
        schedule = self.schedule()
        with limited(images=0):
            self.make_due(schedule.next_at)
        schedule.refresh_from_db()
        assert "may have 0 images" in schedule.reason
        assert self.notes(What.SCHEDULE_SKIPPED) == [schedule.reason]
        self.make_due(schedule.next_at)

        schedule.refresh_from_db()
        assert (len(self.made()), schedule.reason) == (1, "")

    def test_a_store_without_room_is_asked_for_an_hour(self):
        schedule = self.schedule()
        full = mock.patch("servers.schedules.check_room", side_effect=StoreFull("Full"))
        with full:
            for minutes in [0, 30, 59]:
                schedules.make_due(schedule.next_at + timedelta(minutes=minutes))
            assert self.notes(What.SCHEDULE_SKIPPED) == []
            schedules.make_due(schedule.next_at + HOUR)
            schedules.make_due(schedule.next_at + HOUR)
        assert self.notes(What.SCHEDULE_SKIPPED) == ["Full"]
        assert self.made() == []

    def test_the_periodic_job_reads_the_real_clock(self):
        self.schedule(now=datetime.now(UTC) - 2 * DAY)
        schedules.make_images(0)

        assert len(self.made()) == 1

    def test_a_run_that_is_cut_short_leaves_nothing(self):
        schedule = self.schedule()
        cut = mock.patch.object(Server, "defer", side_effect=KeyboardInterrupt)
        with cut, pytest.raises(KeyboardInterrupt):
            schedules.make_due(schedule.next_at)
        assert self.made() == []
        self.make_due(schedule.next_at)

        assert len(self.made()) == 1


class ClockTests(ScheduleTestCase):
    def test_a_clock_that_goes_back_makes_none_twice(self):
        for back in [timedelta(minutes=5), 3 * HOUR, 23 * HOUR]:
            with self.subTest(back=back):
                Image.objects.filter(schedule_id__isnull=False).delete()
                ImageSchedule.objects.all().delete()
                done_at = self.schedule().next_at
                self.make_due(done_at)
                now = done_at - back
                while now <= done_at + HOUR:
                    self.make_due(now)
                    now += timedelta(minutes=30)
                assert len(self.made()) == 1
                self.make_due(done_at + DAY)
                assert len(self.made()) == 2

    def test_a_clock_that_was_far_ahead_leaves_out_one_at_most(self):
        for ahead, plan in [(90 * DAY, {}), (90 * DAY, {"weekday": 1})]:
            with self.subTest(plan=plan):
                Image.objects.filter(schedule_id__isnull=False).delete()
                ImageSchedule.objects.all().delete()
                schedule = self.schedule(**plan)
                period = 7 * DAY if plan else DAY
                self.make_due(schedule.next_at + ahead)
                assert len(self.made()) == 1
                # Back again, the next moment comes as if nothing had been.
                for n in range(3):
                    self.make_due(MIDNIGHT + HOUR + n * period)
                    self.make_due(MIDNIGHT + 3 * HOUR + n * period)
                assert len(self.made()) == 4

    def test_a_moment_that_is_set_anew_meanwhile_is_not_put_right(self):
        self.schedule(now=MIDNIGHT + 90 * DAY)
        stale = ImageSchedule.objects.get()
        fresh = self.schedule(hour=9)
        stale.put_right(now=MIDNIGHT)

        fresh.refresh_from_db()
        assert fresh.next_at == MIDNIGHT + 9 * HOUR

    def test_a_new_image_is_kept_beside_one_of_the_future(self):
        schedule = self.schedule(keep=1)
        self.make_due(schedule.next_at)
        Image.objects.filter(schedule_id=schedule.pk).update(
            created_at=datetime.now(UTC) + 90 * DAY
        )
        self.make_due(MIDNIGHT + DAY + 2 * HOUR)

        assert self.days() == [25]

    def test_one_of_the_future_goes_first(self):
        schedule = self.schedule(keep=2)
        self.make_due(schedule.next_at)
        [future] = self.made()
        Image.objects.filter(pk=future.pk).update(
            created_at=datetime.now(UTC) + 90 * DAY
        )
        for day in 1, 2:
            self.make_due(MIDNIGHT + day * DAY + 2 * HOUR)
        assert future not in self.made()
        assert self.days() == [25, 26]


class RetentionTests(ScheduleTestCase):
    def run_days(self, *days):
        for day in days:
            self.make_due(MIDNIGHT + day * DAY + 2 * HOUR)

    def test_the_newest_stay_and_the_others_go_as_events_tell(self):
        self.schedule(keep=2)
        self.run_days(0, 1, 2, 3)

        assert self.days() == [26, 27]
        event = ServerEvent.objects.filter(what=What.OLD_IMAGE_DELETED).first()
        assert (event.note, event.actor_name) == ("web-1 2026-11-24", "")
        assert len(self.notes(What.OLD_IMAGE_DELETED)) == 2

    def test_none_goes_before_the_new_one_is_active(self):
        self.schedule(keep=1)
        self.run_days(0)
        schedules.make_due(MIDNIGHT + DAY + 2 * HOUR)
        assert self.days() == [24, 25]
        self.run_snapshot()
        assert self.days() == [24, 25]
        work()

        assert self.days() == [25]

    def test_none_goes_for_one_that_failed_and_that_one_goes_later(self):
        self.schedule(keep=1)
        self.run_days(0)
        schedules.make_due(MIDNIGHT + DAY + 2 * HOUR)
        self.compute.trouble = snapshots.SnapshotFailed("No.")
        work()
        assert [image.status for image in self.made()] == ["active", "error"]
        self.run_days(2)

        assert self.days() == [26]

    def test_what_failed_does_not_fill_the_account(self):
        self.schedule(keep=2)
        with limited(images=4):
            for day in range(6):
                self.compute.trouble = snapshots.SnapshotFailed("No.")
                self.run_days(day)
                assert self.statuses() == ["error"]
            self.run_days(6, 7)
            assert self.statuses() == ["active", "active"]

    def statuses(self):
        return [image.status for image in self.made()]

    def test_none_goes_for_one_that_the_store_did_not_take(self):
        self.schedule(keep=1)
        self.run_days(0)
        schedules.make_due(MIDNIGHT + DAY + 2 * HOUR)
        self.run_snapshot()
        fault = "images.stores.local.LocalStore.take_over"
        with mock.patch(fault, side_effect=StoreError("The store has a fault.")):
            self.save(self.made()[-1], attempts=MOST_ATTEMPTS - 1)

        assert [image.status for image in self.made()] == ["active", "error"]

    def test_fewer_to_keep_counts_from_the_next_image_on(self):
        self.schedule(keep=3)
        self.run_days(0, 1, 2)
        self.schedule(keep=1)
        assert self.days() == [24, 25, 26]
        self.run_days(3)

        assert self.days() == [27]

    def test_only_its_own_images_go(self):
        by_hand = self.create_image()
        work()
        first = self.schedule(keep=1)
        self.run_days(0)
        first.stop(by=self.bob)
        self.schedule(keep=1)
        self.run_days(0, 1)

        assert Image.objects.filter(pk=by_hand.pk).exists()
        # The schedule before it had one of its own.
        assert self.days() == [24, 25]

    def test_what_is_protected_or_shared_with_anyone_stays(self):
        schedule = self.schedule(keep=1)
        self.run_days(0)
        kept = {}
        shares = [{}, {"accepted": True}, {"rejected": True}, None]
        for day, share in enumerate(shares, start=1):
            image = self.made()[-1]
            if share is None:
                Image.objects.filter(pk=image.pk).update(protected=True)
            else:
                ImageShareFactory.create(image=image, **share)
            kept[day] = image
            self.run_days(day)

        assert len(self.made()) == 5
        assert self.notes(What.OLD_IMAGE_DELETED) == []
        Image.objects.update(protected=False)
        ImageShare.objects.all().revoke(by=self.bob)
        self.run_days(6)
        assert list(schedule.images()) == [self.made()[-1]]

    def test_what_a_server_is_being_made_of_stays_until_the_next_time(self):
        self.schedule(keep=1)
        self.run_days(0)
        [image] = self.made()
        other = ServerFactory.create(account=self.beta, image=image)
        schedules.make_due(MIDNIGHT + DAY + 2 * HOUR)
        self.run_snapshot()
        self.save(self.made()[-1])
        assert self.days() == [24, 25]
        work()
        self.run_days(2)

        assert self.days() == [26]
        # Its server has taken the data to itself.
        other.refresh_from_db()
        assert (other.status, other.image_id) == ("ACTIVE", None)
        assert other.is_detached
        assert other.pk in self.compute.detached

    def test_so_does_what_a_server_is_to_be_rebuilt_from(self):
        self.schedule(keep=1)
        self.run_days(0)
        [image] = self.made()
        other = ServerFactory.create(account=self.beta, active=True)
        Rebuild.order(other, image, password_hash="$6$", by=self.bob)
        schedules.make_due(MIDNIGHT + DAY + 2 * HOUR)
        self.run_snapshot()
        self.save(self.made()[-1])
        assert self.days() == [24, 25]
        work()
        other.refresh_from_db()
        assert (other.status, other.image_uuid) == ("ACTIVE", image.pk)

    def test_the_job_of_an_earlier_image_deletes_nothing_newer(self):
        self.schedule(keep=1)
        self.run_days(0)
        [earlier] = self.made()
        Image.objects.filter(pk=earlier.pk).update(protected=True)
        self.run_days(1)
        self.save(earlier)

        assert self.days() == [24, 25]

    def test_a_worker_that_is_killed_before_it_deletes_does_so_later(self):
        self.schedule(keep=1)
        self.run_days(0)
        schedules.make_due(MIDNIGHT + DAY + 2 * HOUR)
        self.run_snapshot()
        made = self.made()[-1]
        cut = mock.patch.object(Image, "delete_unshared", side_effect=KeyboardInterrupt)
        with cut, pytest.raises(KeyboardInterrupt):
            self.save(made)
        assert self.days() == [24, 25]
        assert self.notes(What.OLD_IMAGE_DELETED) == []
        self.save(made)
        self.save(made)

        assert self.days() == [25]
        assert len(self.notes(What.OLD_IMAGE_DELETED)) == 1

    def test_a_schedule_that_was_stopped_meanwhile_deletes_nothing(self):
        schedule = self.schedule(keep=1)
        self.run_days(0)
        [image] = self.made()
        stale = ImageSchedule.objects.select_related("server").get()
        schedule.stop(by=self.bob)
        stale._delete(image)

        assert self.days() == [24]


class SimultaneousTests(FakeComputeMixin, TransactionTestCase):
    def setUp(self):
        super().setUp()
        check = mock.patch("servers.schedules.check_room")
        self.enterContext(check)
        self.beta = AccountFactory.create(name="Beta")
        self.bob = UserFactory.create(username="bob")
        self.server = ServerFactory.create(account=self.beta, active=True)

    def test_workers_that_meet_make_one_image(self):
        for day in range(4):
            now = MIDNIGHT + day * DAY + 2 * HOUR
            set_for(self.server, by=self.bob, now=now - HOUR)
            outcomes = at_once([partial(schedules.make_due, now)] * 4)

            assert outcomes == {"done": 4}
            # One of them the server's own; the one that failed before has gone.
            assert Image.objects.count() == 2
            assert ServerEvent.objects.filter(what="scheduled_image").count() == day + 1
            Image.objects.filter(status="saving").update(status="error")
            Server.objects.update(task="")

    def test_workers_that_meet_skip_once(self):
        Server.objects.update(status="ERROR")
        schedule = set_for(self.server, by=self.bob)
        at_once([partial(schedules.make_due, schedule.next_at)] * 4)

        assert ServerEvent.objects.filter(what="schedule_skipped").count() == 1

    def test_one_of_four_clicks_stops_it(self):
        schedule = set_for(self.server, by=self.bob)
        copies = [
            ImageSchedule.objects.select_related("server").get(pk=schedule.pk)
            for _ in range(4)
        ]

        outcomes = at_once([partial(copy.stop, by=self.bob) for copy in copies])
        assert outcomes == {"done": 1, "conflict": 3}

    def test_two_who_set_it_at_once_leave_one(self):
        deeds = [
            partial(set_for, self.server, by=self.bob, hour=hour) for hour in range(4)
        ]
        assert at_once(deeds) == {"done": 4}
        assert ImageSchedule.objects.count() == 1

    def test_a_run_and_the_end_of_the_server_wait_for_one_another(self):
        for _ in range(5):
            server = ServerFactory.create(account=self.beta, active=True)
            schedule = set_for(server, by=self.bob)
            Server.objects.filter(pk=server.pk).update(task="deleting")
            outcomes = at_once(
                [
                    Server.objects.get(pk=server.pk).forget,
                    partial(schedules.make_due, schedule.next_at),
                ]
            )
            assert outcomes == {"done": 2}
            assert not ImageSchedule.objects.filter(pk=schedule.pk).exists()

    def test_an_old_image_goes_or_is_offered_but_never_both(self):
        alice = AccountFactory.create()
        for _ in range(4):
            schedule = set_for(self.server, by=self.bob, keep=1)
            old, new = (
                ImageFactory.create(
                    owner=self.beta,
                    origin="server",
                    source_server_id=self.server.pk,
                    schedule_id=schedule.pk,
                )
                for _ in range(2)
            )
            ImageSchedule.objects.update(image_id=new.pk)
            offer = partial(ImageShare.objects.offer, old, to=alice.number, by=self.bob)
            at_once([offer, partial(ImageSchedule.objects.keep_newest, new)])

            is_there = Image.objects.filter(pk=old.pk).exists()
            assert ImageShare.objects.filter(image_id=old.pk).exists() == is_there
            schedule.stop(by=self.bob)


class PageTests(ServerViewTestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(
            mock.patch("servers.snapshots.store_for", return_value=FakeStore())
        )
        self.web = self.server(name="web-1")

    def set(self, htmx=False, **changes):
        data = {"day": "every", "hour": "2", "keep": "7", **changes}
        return self.post("schedule", self.web.pk, htmx=htmx, **data)

    def test_bob_sets_changes_and_stops_it(self):
        for htmx in [False, True]:
            with self.subTest(htmx=htmx):
                there = "HX-Redirect" if htmx else "Location"
                assert self.set(htmx=htmx)[there] == self.url("detail", self.web.pk)
                page = self.get("detail", self.web.pk)
                self.assertContains(page, "Every day at 02:00 UTC")
                self.assertContains(page, "0 of 7")
                self.set(htmx=htmx, day="6", hour="23", keep="30")
                page = self.get("detail", self.web.pk)
                self.assertContains(page, "Every Sunday at 23:00 UTC")
                assert self.post("stop-schedule", self.web.pk, htmx=htmx)[there]
                page = self.get("detail", self.web.pk)
                self.assertNotContains(page, "Every Sunday at 23:00 UTC</dd>")
                self.assertContains(page, "A schedule makes an image of this server")

    def test_the_dialog_shows_what_is_set(self):
        self.assertContains(
            self.get("schedule", self.web.pk), "Schedule Image</button>"
        )
        self.set(day="3", hour="5", keep="9")

        page = self.get("schedule", self.web.pk)
        self.assertContains(page, '<option value="3" selected>Every Thursday')
        self.assertContains(page, '<option value="5" selected>05:00 UTC')
        self.assertContains(page, 'value="9"')
        page = self.get("detail", self.web.pk)
        self.assertContains(page, f"/servers/{self.web.pk}/schedule/stop/")

    def test_wrong_input_is_answered_beside_its_field(self):
        wrong = {
            "day": ["", "7", "-1", "Monday"],
            "hour": ["", "24", "x"],
            "keep": ["", "0", "31", "1.5", "x"],
        }
        for field, values in wrong.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    response = self.set(htmx=True, **{field: value})
                    assert response.status_code == 422
                    assert list(response.context["form"].errors) == [field]
        assert not ImageSchedule.objects.exists()

    def test_stopping_what_is_stopped_is_a_conflict(self):
        for request in [self.get, self.post]:
            response = request("stop-schedule", self.web.pk, htmx=True)
            self.assertContains(response, "has no schedule", status_code=409)

    def test_of_a_server_that_goes_meanwhile_it_is_not_found(self):
        self.set()
        stop = ImageSchedule.stop

        def too_late(schedule, *, by):
            self.web.delete_later(by=self.bob)
            self.web.forget()
            stop(schedule, by=by)

        with mock.patch.object(ImageSchedule, "stop", too_late):
            response = self.post("stop-schedule", self.web.pk, htmx=True)
        assert response.status_code == 404

    def test_a_server_that_is_being_deleted_is_a_conflict(self):
        self.web.delete_later(by=self.bob)
        response = self.set(htmx=True)

        self.assertContains(response, "deleted in the meantime", status_code=409)

    def test_an_observer_sees_it_and_why_it_cannot_be_changed(self):
        self.set()
        self.sign_in(Role.SERVERS_CREATOR)
        page = self.get("detail", self.web.pk)

        self.assertContains(page, "Every day at 02:00 UTC")
        self.assertContains(page, "Scheduling images needs nova:admin.")

    def test_the_page_tells_how_the_last_one_went(self):
        self.set()
        schedule = ImageSchedule.objects.get()
        self.assertContains(self.get("detail", self.web.pk), "None yet")
        schedule.run(now=schedule.next_at)
        image = Image.objects.get(schedule_id=schedule.pk)
        self.assertContains(self.get("detail", self.web.pk), "Saving")
        image.fail("The disk is gone.")
        page = self.get("detail", self.web.pk)
        self.assertContains(page, "The last image was not made.")
        self.assertContains(page, "The disk is gone.")

        image.delete_with_shares(by=self.bob)
        self.assertContains(self.get("detail", self.web.pk), "deleted since")
        Server.objects.update(status="ERROR")
        schedule.refresh_from_db()
        schedule.run(now=schedule.next_at)
        page = self.get("detail", self.web.pk)
        self.assertContains(page, "status was Error")
        self.assertContains(page, "The schedule goes on.")

    def test_what_is_kept_is_linked_for_who_may_see_images(self):
        self.set(keep="1")
        schedule = ImageSchedule.objects.get()
        images = [
            ImageFactory.create(
                owner=self.beta,
                origin="server",
                name=f"web-1 {n}",
                source_server_id=self.web.pk,
                schedule_id=schedule.pk,
            )
            for n in range(2)
        ]
        page = self.get("detail", self.web.pk)
        self.assertContains(page, "2 of 1")
        self.assertContains(page, "The oldest go when the next image is active")
        for image in images:
            self.assertContains(page, f"/images/{image.pk}/")
        self.sign_in(Role.SERVERS_ADMIN)
        self.assertNotContains(self.get("detail", self.web.pk), f"{images[0].pk}")

    def test_an_open_page_follows(self):
        seen = self.get("detail", self.web.pk).context["row"].version
        self.set()

        page = self.get("detail", self.web.pk, htmx=True, seen=seen)
        self.assertContains(page, 'id="server-schedule"')
        self.assertContains(page, "Every day at 02:00 UTC")

    def test_the_image_says_that_nobody_made_it(self):
        self.set()
        schedule = ImageSchedule.objects.get()
        schedule.run(now=schedule.next_at)
        tasks.snapshot(server_id=str(self.web.pk))
        image = Image.objects.get(schedule_id=schedule.pk)

        page = self.client.get(f"/{self.beta.number}/images/{image.pk}/")
        self.assertContains(page, "The schedule of its server")

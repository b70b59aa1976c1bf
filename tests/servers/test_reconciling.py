import json
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from unittest import mock

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from images.models import Image
from images.stores import StoreError, Unavailable
from servers import reconciling, tasks, watching
from servers.compute import handover
from servers.compute.base import ComputeError, PowerState, ServerBusy
from servers.models import Reconciliation, Server, ServerEvent
from tests.cast import CastTestCase
from tests.factories import BlobFactory, UserFactory
from tests.images.case import StoreMixin, lose_jobs, waiting, work
from tests.servers.factories import ServerFactory
from tests.servers.fakes import FakeComputeMixin, FakeStore

HOUR = timedelta(hours=1)


class ReconcilingTestCase(StoreMixin, FakeComputeMixin, CastTestCase):
    """Bob's server runs, from an image that these tests give no file: what the store
    has to say of images is tested with the images.
    """

    def setUp(self):
        super().setUp()
        of_images = mock.patch("images.reconciling.all_findings", return_value=[])
        of_images.start()
        self.addCleanup(of_images.stop)
        self.server = ServerFactory.create(account=self.beta, by=self.bob, active=True)
        lose_jobs()

    def kinds(self):
        return [finding.kind for finding in reconciling.find(older_than=HOUR)]

    def repair(self, *, with_consent=True):
        return [
            (outcome.finding.kind, outcome.is_left)
            for outcome in reconciling.repair(
                older_than=HOUR, with_consent=with_consent
            )
        ]

    def state(self):
        self.server.refresh_from_db()
        return self.server.status, self.server.reason


class FindingTests(ReconcilingTestCase):
    def test_nothing_is_found_where_all_agree(self):
        assert reconciling.find(older_than=timedelta(0)) == []

    def test_a_look_changes_nothing(self):
        self.compute.power[self.server.pk] = PowerState.CRASHED

        assert self.kinds() == ["server in another state"]
        assert self.state()[0] == "ACTIVE"

    def test_a_server_in_another_state_is_settled(self):
        self.compute.power[self.server.pk] = PowerState.CRASHED
        self.compute.reasons[self.server.pk] = "A reason."

        assert self.repair() == [("server in another state", False)]
        assert self.state() == ("ERROR", "A reason.")

    def test_a_process_that_is_seen_at_a_glance_ends_no_error(self):
        """It may stand still: only who looks closely can tell."""
        self.compute.busy.add(self.server.pk)
        Server.objects.update(status="ERROR", reason="Its kernel has panicked.")
        assert self.kinds() == []
        self.compute.busy.clear()
        assert self.kinds() == ["server in another state"]

    def test_a_glance_takes_no_reason_away(self):
        self.compute.busy.add(self.server.pk)
        Server.objects.update(reason="Its disk file is missing.")
        self.server.refresh_from_db()
        watching.put_right(self.server)
        assert self.state() == ("ACTIVE", "Its disk file is missing.")
        assert self.server.ssh_port == self.compute.port

    def test_a_server_that_cannot_be_seen_just_now_is_left_alone(self):
        with mock.patch.object(
            self.compute, "observe", side_effect=ComputeError("busy")
        ):
            assert self.kinds() == []

    def test_what_is_left_of_a_deleted_server_is_destroyed(self):
        self.server.delete_later(by=self.bob)
        work()
        self.compute.power[self.server.pk] = PowerState.RUNNING

        assert self.repair(with_consent=False) == [("server without a row", False)]
        assert self.compute.server_ids() == set()

    def test_one_that_cannot_be_destroyed_is_left_and_told(self):
        self.compute.power = {self.image.pk: PowerState.RUNNING}
        Server.objects.all().delete()
        self.compute.trouble = ComputeError("The disk is read-only.")

        assert self.repair() == [("server without a row", True)]

    def test_a_process_without_its_folder_waits_for_consent(self):
        Server.objects.update(status="ERROR")
        self.compute.power[self.server.pk] = PowerState.NOSTATE

        assert self.repair(with_consent=False) == [("process out of reach", True)]
        assert self.repair() == [("process out of reach", False)]
        assert self.compute.server_ids() == set()

    def test_one_that_is_made_anew_before_it_is_ended_is_left_alone(self):
        Server.objects.update(status="ERROR")
        self.compute.power[self.server.pk] = PowerState.NOSTATE
        [finding] = reconciling.find(older_than=HOUR)
        self.server.refresh_from_db()
        self.server.power_on(by=self.bob)
        work()
        assert reconciling.mend(finding)
        assert self.compute.power[self.server.pk] is PowerState.RUNNING
        assert self.state()[0] == "ACTIVE"

    def test_while_a_region_is_away_nothing_is_known_of_its_disks(self):
        away = mock.Mock(side_effect=ComputeError("The region is away."))
        path = self.add_file("ab" * 32)
        with (
            mock.patch.object(self.compute, "images_needed", away),
            pytest.raises(StoreError, match="The region is away"),
        ):
            reconciling.remove_file("local", path.stem)
        assert path.exists()

    def test_a_file_on_which_an_unknown_disk_rests_outlives_its_row(self):
        """As where the database is an older backup, and an image is deleted."""
        needed, other = self.add_file("ab" * 32), self.add_file("cd" * 32)
        rest_on = {needed.stem}
        with mock.patch.object(self.compute, "images_needed", return_value=rest_on):
            for path in (needed, other):
                BlobFactory.create(digest=path.stem).release()
            work()
        assert needed.exists()
        assert not other.exists()

    def add_file(self, digest):
        path = self.folder / "images" / "blobs" / digest[:2] / f"{digest}.raw"
        path.parent.mkdir(parents=True)
        path.touch()
        return path

    def test_one_with_which_something_is_being_done_is_in_reach(self):
        Server.objects.update(status="ERROR")
        busy = ServerBusy("Something else is being done with this server.")
        with mock.patch.object(self.compute, "observe", side_effect=busy):
            assert self.kinds() == []

    def test_one_whose_disk_may_come_back_is_left_alone(self):
        Server.objects.update(status="ERROR")
        self.compute.power[self.server.pk] = PowerState.NOSTATE
        self.compute.reasons[self.server.pk] = "The server's disk is missing."

        assert self.kinds() == []

    def test_a_deed_without_a_job_gets_one(self):
        self.server.power_off(by=self.bob)
        Server.objects.update(changed_at=timezone.now() - HOUR)
        assert self.kinds() == []
        lose_jobs()
        assert self.repair() == [("server without a job", False)]

        assert len(waiting("power_off")) == 1

    def test_a_disk_that_no_image_awaits_is_removed_once_it_is_old(self):
        handover.path_of(self.image.pk).touch()

        assert self.kinds() == []
        with mock.patch("images.reconciling.ORPHANED_AFTER", -HOUR):
            found = reconciling.find(older_than=-HOUR)
        assert [finding.kind for finding in found] == ["disk nobody awaits"]
        reconciling.repair(older_than=-HOUR, with_consent=True)
        assert list(handover.waiting()) == []

    def test_jobs_about_what_is_gone_are_cancelled_once_they_are_old(self):
        self.server.defer("screenshot")
        Server.objects.all().delete()
        self.compute.power = {}
        assert self.kinds() == []
        found = reconciling.find(older_than=-HOUR)
        assert [finding.kind for finding in found] == ["job about nothing"]
        reconciling.repair(older_than=-HOUR, with_consent=False)

        assert waiting("screenshot") == []


class ImageFileTests(ReconcilingTestCase):
    """A base file is removed by hand."""

    def setUp(self):
        super().setUp()
        gone = mock.patch.object(FakeStore, "empty", new=True)
        gone.start()
        self.addCleanup(mock.patch.stopall)

    def test_a_server_that_runs_goes_on_and_says_it(self):
        tasks.reconcile(0)

        status, reason = self.state()
        assert status == "ACTIVE"
        assert "once it is shut off, it cannot be started" in reason
        assert self.kinds() == []

    def test_one_that_is_off_is_in_error_with_the_reason(self):
        self.compute.power[self.server.pk] = PowerState.SHUTDOWN

        assert self.repair() == [("server in another state", False)]
        status, reason = self.state()
        assert status == "ERROR"
        assert "file of the image" in reason
        assert self.kinds() == []

    def test_nothing_is_concluded_where_the_disk_cannot_tell(self):
        mock.patch.stopall()
        away = mock.Mock(side_effect=Unavailable("It cannot be read."))
        with mock.patch.object(FakeStore, "path", away):
            tasks.reconcile(0)
        assert self.state() == ("ACTIVE", "")

    def test_it_starts_again_once_the_file_is_back(self):
        self.compute.power[self.server.pk] = PowerState.SHUTDOWN
        self.repair()
        mock.patch.stopall()
        with mock.patch("images.reconciling.all_findings", return_value=[]):
            assert self.kinds() == []
        self.server.refresh_from_db()
        self.server.power_on(by=self.bob)
        tasks.power_on(server_id=str(self.server.pk))

        assert self.state() == ("ACTIVE", "")


class RestoredTests(ReconcilingTestCase):
    """A backup of the database and one of the files are never of the same moment."""

    def test_a_database_that_is_older_than_the_files(self):
        newer = ServerFactory.create(account=self.beta, by=self.bob, active=True)
        deleted = self.server
        lose_jobs()
        # As the backup has it: the newer one was not there, and this one still was.
        Server.objects.filter(pk=newer.pk).delete()
        ServerEvent.objects.filter(server_id=newer.pk).delete()
        del self.compute.power[deleted.pk]

        # Nobody has asked to delete that disk, so the panel by itself does not.
        assert sorted(self.repair(with_consent=False)) == [
            ("server in another state", False),
            ("server without a row", True),
        ]
        assert self.state() == (
            "ERROR",
            "The region does not know this server any more.",
        )
        assert self.compute.server_ids() == {newer.pk}
        assert self.repair() == [("server without a row", False)]
        assert self.compute.server_ids() == set()
        deleted.delete_later(by=self.bob)
        work()
        assert not Server.objects.exists()
        assert self.kinds() == []

    def test_a_database_that_is_newer_than_the_files(self):
        building = ServerFactory.create(account=self.beta, by=self.bob)
        image = self.server.create_image(name="golden", by=self.bob)
        lose_jobs()
        self.compute.power = {}
        old = timezone.now() - 2 * HOUR
        Server.objects.update(changed_at=old)
        Image.objects.filter(pk=image.pk).update(updated_at=old)
        self.repair()
        with mock.patch("servers.snapshots.store_for"):
            self.compute.snapshot = mock.Mock(side_effect=ComputeError("No disk."))
            work()
        self.repair()

        building.refresh_from_db()
        image.refresh_from_db()
        assert building.status == "ACTIVE"  # built anew: its disk had nothing yet
        assert self.state()[0] == "ERROR"
        assert (image.status, image.status_reason) == ("error", "No disk.")
        assert self.kinds() == []


class ScheduleTests(ReconcilingTestCase):
    def test_what_the_hourly_look_found_is_kept_for_the_staff(self):
        self.compute.power[self.server.pk] = PowerState.CRASHED
        self.compute.power[self.image.pk] = PowerState.RUNNING
        reconciling.reconcile_all(0)

        run = Reconciliation.objects.get()
        assert (run.found, run.left) == (2, 1)
        self.client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
        url = reverse("admin:servers_reconciliation_change", args=[run.pk])
        page = self.client.get(url)
        self.assertContains(page, "an old backup?")
        self.assertContains(page, str(self.image.pk))
        listed = reverse("admin:servers_reconciliation_changelist")
        assert self.client.get(listed).status_code == 200

    def test_old_ones_are_forgotten(self):
        long_ago = timezone.now() - timedelta(days=31)
        Reconciliation.objects.create(started_at=long_ago, found=0, left=0)
        reconciling.reconcile_all(0)

        assert Reconciliation.objects.count() == 1


class CommandTests(ReconcilingTestCase):
    def run_command(self, *options):
        """What it says, and with which status it ends."""
        out = StringIO()
        try:
            with redirect_stdout(out):
                call_command("reconcile", *options, stdout=out)
        except SystemExit as end:
            return out.getvalue(), end.code
        return out.getvalue(), 0

    def test_all_is_well(self):
        said = "Database, files and processes agree.\n"
        assert self.run_command() == (said, 0)
        assert self.run_command("--repair") == (said, 0)
        assert self.run_command("--json", "--deep") == ("[]\n", 0)

    def test_a_dry_run_tells_and_changes_nothing(self):
        self.compute.power[self.server.pk] = PowerState.CRASHED
        said, status = self.run_command()

        assert status == 1
        assert f"found: server in another state {self.server.pk}" in said
        assert self.state()[0] == "ACTIVE"
        assert not Reconciliation.objects.exists()

    def test_a_repair_mends_also_what_needs_consent(self):
        self.compute.power[self.image.pk] = PowerState.RUNNING
        said, status = self.run_command("--repair")

        assert status == 0
        assert f"mended: server without a row {self.image.pk}" in said
        assert self.run_command()[1] == 0

    def test_what_is_left_is_told_by_the_status(self):
        self.compute.power[self.image.pk] = PowerState.RUNNING
        self.compute.trouble = ComputeError("The disk is read-only.")
        said, status = self.run_command("--repair")

        assert status == 1
        assert "1 of 1 are left." in said

    def test_json_is_for_machines(self):
        self.compute.power[self.image.pk] = PowerState.RUNNING
        said, status = self.run_command("--json")

        [found] = json.loads(said)
        assert status == 1
        assert found["kind"] == "server without a row"
        assert found["subject"] == str(self.image.pk)
        assert found["left"]
        assert found["needs_consent"]

    def test_an_odd_age_is_refused(self):
        with pytest.raises(Exception, match="older-than"):
            call_command("reconcile", "--older-than", "soon")

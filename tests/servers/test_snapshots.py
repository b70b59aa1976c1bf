"""From a server's disk to an image, with a real store and no machine."""

import tempfile
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from django.utils import timezone

from images.models import Image
from images.stores import StoreError, StoreFull, Unavailable, store_for
from images.stores.local import LocalStore
from images.tasks import MOST_ATTEMPTS
from servers import snapshots, tasks
from servers.compute import handover
from servers.compute.base import NoCapacity, ServerBusy, SnapshotFailed
from servers.models import Server, ServerEvent, What
from sharing.models import ImageShare
from tests.cast import CastTestCase
from tests.factories import BlobFactory, ImageFactory, ImageShareFactory
from tests.images.case import StoreMixin, lose_jobs, waiting, work
from tests.images.stores import corpus
from tests.limits import limited
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.servers.fakes import FakeComputeMixin


class SnapshotTestCase(StoreMixin, FakeComputeMixin, CastTestCase):
    def setUp(self):
        super().setUp()
        real = mock.patch("servers.snapshots.store_for", store_for)
        self.enterContext(real)
        self.compute.disk = self.disk_of_a_server()
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        Image.objects.filter(pk=self.image.pk).update(os="Debian 13", min_ram_mb=256)
        self.server = ServerFactory.create(
            account=self.beta,
            by=self.bob,
            name="web-1",
            image=self.image,
            flavor=FlavorFactory.create(disk_gb=2),
            active=True,
        )

    def disk_of_a_server(self):
        with tempfile.TemporaryDirectory() as folder:
            return corpus.converted(Path(folder, "disk"), "qcow2").read_bytes()

    def create_image(self, name="golden"):
        return self.server.create_image(name=name, by=self.bob)

    def run_snapshot(self):
        tasks.snapshot(server_id=str(self.server.pk))
        self.server.refresh_from_db()

    def save(self, image, *, attempts=0):
        context = mock.Mock(job=mock.Mock(attempts=attempts))
        snapshots.save(context, image_id=str(image.pk))

    def events(self):
        events = ServerEvent.objects.filter(server_id=self.server.pk).order_by("pk")
        return list(events.values_list("what", flat=True))

    def drafts(self):
        return [image_id for image_id, _ in handover.waiting()]


class SnapshotTests(SnapshotTestCase):
    def test_the_image_is_the_account_s_own_with_what_a_server_of_it_needs(self):
        image = self.create_image()
        assert (image.status, image.progress) == ("saving", 0)
        assert self.server.task == "image_snapshot"
        work()

        image.refresh_from_db()
        self.server.refresh_from_db()
        assert (image.status, image.progress) == ("active", 100)
        assert (image.owner, image.region) == (self.beta, self.server.region)
        assert (image.origin, image.source_server_id) == ("server", self.server.pk)
        assert (image.min_disk_gb, image.min_ram_mb) == (2, 256)
        assert (image.os, image.created_by) == ("Debian 13", "bob")
        assert image.size == len(self.compute.disk)
        assert image.virtual_size == corpus.DISK
        assert self.store.verify(image.blob.digest)
        assert (self.server.status, self.server.task) == ("ACTIVE", "")
        assert self.events()[-2:] == [What.CREATE_IMAGE, What.IMAGE_CREATED]
        # Nothing but the blob is left.
        assert self.drafts() == []
        assert [name[:5] for name in self.files()] == ["blobs"]

    def test_a_disk_larger_than_the_flavor_counts_in_whole_gigabytes(self):
        self.server.image_virtual_size = (5 << 30) + 1

        assert self.create_image().min_disk_gb == 6

    def test_the_job_names_ids_only(self):
        image = self.create_image()
        assert waiting("snapshot")[-1].args == {"server_id": str(self.server.pk)}
        self.run_snapshot()
        assert waiting("save")[-1].args == {"image_id": str(image.pk)}

    def test_the_server_is_free_as_soon_as_its_disk_is_written(self):
        image = self.create_image()
        self.run_snapshot()

        image.refresh_from_db()
        assert (self.server.task, image.status) == ("", "saving")
        assert self.server.can_be_rebooted

    def test_a_server_that_is_shut_off_stays_so(self):
        Server.objects.update(status="SHUTOFF")
        self.server.refresh_from_db()
        self.create_image()
        work()

        self.server.refresh_from_db()
        assert (self.server.status, self.server.task) == ("SHUTOFF", "")

    def test_progress_grows_and_never_back(self):
        told = []
        show = Image.show_progress
        self.create_image()

        def note(image, per_cent):
            told.append(per_cent)
            return show(image, per_cent)

        with (
            mock.patch.object(Image, "show_progress", note),
            mock.patch("servers.snapshots._TELL_EVERY", 0),
        ):
            work()

        assert told[:3] == [17, 35, 70]
        assert told == sorted(told)
        assert told[-1] <= 100

    def test_the_copy_outlives_the_shared_image(self):
        image = self.create_image()
        work()
        self.share.revoke(by=self.alice)
        self.image.delete_with_shares(by=self.alice)
        work()

        image.refresh_from_db()
        assert image in Image.objects.bootable_by(self.beta)
        assert self.store.verify(image.blob.digest)
        share = ImageShare.objects.offer(image, to=self.corp.number, by=self.bob)
        assert share.image == image

    def test_a_withdrawal_in_the_midst_of_it_stops_nothing(self):
        image = self.create_image()

        def withdraw():
            self.share.revoke(by=self.alice)
            self.image.delete_with_shares(by=self.alice)

        self.compute.at_snapshot = withdraw
        work()

        image.refresh_from_db()
        assert (image.status, image.min_ram_mb) == ("active", 256)

    def test_of_a_deleted_server_the_image_keeps_the_name(self):
        image = self.create_image()
        work()
        self.server.refresh_from_db()
        self.server.delete_later(by=self.bob)
        work()

        image.refresh_from_db()
        assert (image.source_server_id, image.source_server_name) == (None, "web-1")
        self.client.force_login(self.bob)
        for page in ("", f"{image.pk}/"):
            response = self.client.get(f"/{self.beta.number}/images/{page}")
            self.assertContains(response, "(deleted server)")


class FailureTests(SnapshotTestCase):
    def assert_failed(self, image, reason):
        image.refresh_from_db()
        self.server.refresh_from_db()
        assert image.status == "error"
        assert reason in image.status_reason
        assert image.size == 0
        assert (self.server.status, self.server.task) == ("ACTIVE", "")
        event = ServerEvent.objects.latest("pk")
        assert event.what == What.IMAGE_FAILED
        assert reason in event.note
        assert self.drafts() == []
        assert self.files() == []

    def test_a_failed_snapshot_says_why_and_the_server_goes_on(self):
        for trouble in [SnapshotFailed("no progress"), NoCapacity("no space")]:
            image = self.create_image()
            self.compute.trouble = trouble
            work()
            self.assert_failed(image, str(trouble))

    def test_a_disk_that_the_store_refuses_says_why(self):
        self.compute.disk = b"no disk at all " * 1000
        image = self.create_image()
        work()

        self.assert_failed(image, "")

    def test_a_busy_server_is_tried_again(self):
        self.create_image()
        self.compute.trouble = ServerBusy("busy")

        with pytest.raises(ServerBusy):
            self.run_snapshot()
        self.server.refresh_from_db()
        assert self.server.task == "image_snapshot"

    def test_a_store_that_fails_is_asked_again_and_given_up_at_last(self):
        image = self.create_image()
        self.run_snapshot()
        fault = mock.patch(
            "images.stores.local.LocalStore.take_over",
            side_effect=StoreError("The store has a fault."),
        )
        with fault:
            with pytest.raises(StoreError):
                self.save(image)
            assert self.drafts() == [image.pk]
            self.save(image, attempts=MOST_ATTEMPTS - 1)

        self.assert_failed(image, "The store has a fault.")

    def test_a_quota_that_is_reached_in_the_middle_is_named(self):
        image = self.create_image()
        self.run_snapshot()
        with limited(image_bytes=len(self.compute.disk) - 1):
            self.save(image)

        self.assert_failed(image, "This account may have")

    def test_the_true_size_takes_the_place_of_the_estimate(self):
        image = self.create_image()
        self.run_snapshot()
        with limited(image_bytes=len(self.compute.disk), images=1):
            self.save(image)

        image.refresh_from_db()
        assert image.status == "active"

    def test_a_deleted_image_ends_the_snapshot(self):
        image = self.create_image()
        self.compute.at_snapshot = lambda: image.delete_with_shares(by=self.bob)
        work()

        self.server.refresh_from_db()
        assert (self.server.status, self.server.task) == ("ACTIVE", "")
        assert not Image.objects.filter(origin="server").exists()
        assert (self.drafts(), self.files()) == ([], [])
        assert not self.server.images_being_made().exists()

    def test_an_image_deleted_before_or_after_the_snapshot_leaves_nothing(self):
        for done_before in [False, True]:
            with self.subTest(done_before=done_before):
                image = self.create_image()
                if done_before:
                    self.run_snapshot()
                image.delete_with_shares(by=self.bob)
                work()

                self.server.refresh_from_db()
                assert self.server.task == ""
                assert (self.drafts(), self.files()) == ([], [])

    def test_an_image_deleted_while_it_is_saved_leaves_nothing(self):
        image = self.create_image()
        self.run_snapshot()
        activate = Image.activate

        def deleted_first(image, *given):
            Image.objects.get(pk=image.pk).delete_with_shares(by=self.bob)
            activate(image, *given)

        with mock.patch.object(Image, "activate", deleted_first):
            self.save(image)
        work()

        assert (self.drafts(), self.files()) == ([], [])

    def test_a_server_deleted_during_the_snapshot_ends_it(self):
        image = self.create_image()
        self.compute.at_snapshot = lambda: Server.objects.get().delete_later(
            by=self.bob
        )
        work()

        assert not Server.objects.exists()
        image.refresh_from_db()
        assert image.status == "error"
        assert "The server was deleted" in image.status_reason
        assert self.drafts() == []
        assert self.events().count(What.IMAGE_FAILED) == 1

    def test_a_server_deleted_before_the_snapshot_fails_the_image(self):
        image = self.create_image()
        self.server.delete_later(by=self.bob)
        work()

        image.refresh_from_db()
        assert image.status == "error"
        assert "snapshot" not in self.compute.deeds

    def test_a_server_deleted_after_the_snapshot_stops_nothing(self):
        image = self.create_image()
        self.run_snapshot()
        self.server.delete_later(by=self.bob)
        tasks.delete(server_id=str(self.server.pk))
        work()

        image.refresh_from_db()
        assert (image.status, image.source_server_id) == ("active", None)

    def test_a_store_without_room_is_asked_before(self):
        store = mock.Mock()
        store.unavailable_reason.return_value = "qemu-img is missing."
        with mock.patch("servers.snapshots.store_for", return_value=store):
            with pytest.raises(Unavailable, match="qemu-img"):
                snapshots.check_room(self.server.region)
            store.unavailable_reason.return_value = ""
            store.free_bytes.return_value = 0
            with pytest.raises(StoreFull):
                snapshots.check_room(self.server.region)


class Killed(BaseException):
    """Stands for the end of the worker, which no line of ours sees."""


class KilledWorkerTests(SnapshotTestCase):
    """Whatever the last line was that ran, the same job run again ends it."""

    def kill_at(self, place, image, *, after=False):
        module, _, name = place.rpartition(".")
        real = getattr(self.places[module], name)

        def killed(*given, **named):
            if after:
                real(*given, **named)
            raise Killed

        with (
            mock.patch.object(self.places[module], name, killed),
            pytest.raises(Killed),
        ):
            self.finish(image)

    def finish(self, image):
        tasks.snapshot(server_id=str(self.server.pk))
        self.save(image)

    @property
    def places(self):
        return {
            "compute": self.compute,
            "snapshots": snapshots,
            "handover": handover,
            "store": LocalStore,
            "image": Image,
        }

    def test_at_every_step(self):
        places = [
            *("compute.snapshot", "snapshots.hand_over", "snapshots._make_room"),
            *("store.take_over", "store._link_in", "store.admit", "image.activate"),
            *("snapshots._tell", "store.discard", "handover.discard"),
        ]
        for place in places:
            for after in [False, True]:
                with self.subTest(place=place, after=after):
                    image = self.create_image()
                    self.kill_at(place, image, after=after)
                    self.finish(image)
                    self.save(image)

                    image.refresh_from_db()
                    self.server.refresh_from_db()
                    assert image.status == "active"
                    assert (self.server.status, self.server.task) == ("ACTIVE", "")
                    of_image = ServerEvent.objects.filter(image_id=image.pk)
                    assert sorted(of_image.values_list("what", flat=True)) == [
                        What.CREATE_IMAGE,
                        What.IMAGE_CREATED,
                    ]
                    assert self.drafts() == []
                    assert len(self.files()) == 1

    def test_a_written_disk_is_not_written_anew(self):
        image = self.create_image()
        self.kill_at("snapshots.hand_over", image)
        self.finish(image)

        assert self.compute.deeds.count("snapshot") == 1

    def test_a_lost_job_is_handed_out_again(self):
        self.create_image()
        long_ago = timezone.now() - timedelta(minutes=5)
        Server.objects.update(changed_at=long_ago)
        lose_jobs()
        with mock.patch.object(Server, "defer") as defer:
            tasks.reconcile(0)
        defer.assert_called_once_with("snapshot")


class ResumeTests(SnapshotTestCase):
    def stale(self, image):
        long_ago = timezone.now() - timedelta(minutes=11)
        Image.objects.filter(pk=image.pk).update(updated_at=long_ago)

    def test_a_file_whose_job_was_lost_is_saved(self):
        image = self.create_image()
        self.run_snapshot()
        with mock.patch.object(snapshots, "defer_save") as defer:
            snapshots.resume(0)
            self.stale(image)
            snapshots.resume(0)
            assert not defer.called
            lose_jobs()
            snapshots.resume(0)
        defer.assert_called_once_with(image)

    def test_an_image_that_nothing_leads_to_any_more_fails(self):
        image = self.create_image()
        self.stale(image)
        snapshots.resume(0)
        image.refresh_from_db()
        assert image.status == "saving"

        Server.objects.update(task="")
        snapshots.resume(0)
        image.refresh_from_db()
        assert image.status == "error"
        assert "Create the image again" in image.status_reason

    def test_files_that_nobody_awaits_go_after_a_day(self):
        image = self.create_image()
        self.run_snapshot()
        stranger = ImageFactory.create(owner=self.beta, blob=BlobFactory.create())
        for name in ("qcow2", "qcow2.part"):
            handover.path_of(stranger.pk).with_suffix(f".{name}").touch()
        (self.folder / "snapshots" / "notes.qcow2").touch()
        snapshots.resume(0)
        assert set(self.drafts()) == {image.pk, stranger.pk}
        with mock.patch("servers.snapshots.ORPHANED_AFTER", timedelta(minutes=-1)):
            snapshots.resume(0)

        assert self.drafts() == [image.pk]

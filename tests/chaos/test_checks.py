"""Each check sees what it is there for: the panel is broken by hand, one way a test."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from django.db import connection
from django.test import TestCase
from django.utils import timezone

from chaos.checks import Checks, Finding, Kind
from chaos.ledger import Deed, Ledger, Outcome, Thing
from images.models import Blob, Image
from servers.models import Resize, Server, ServerEvent
from sharing.models import ImageShare, ShareEvent
from tests.factories import (
    AccountFactory,
    BlobFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
)
from tests.servers.factories import ServerFactory


class Rows:
    """The test's own connection, in place of one past the panel."""

    def rows(self, query, *values):
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()


class FakeWorld:
    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.running = []
        self.images_at_work = []

    def qemus(self):
        return iter(self.running)

    def qemu_imgs(self):
        return self.images_at_work


class ChecksTests(TestCase):
    """Alice's image is shared with Beta, and Bob's server runs from it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.enterContext(folder)
        self.data_dir = Path(folder.name)
        self.world = FakeWorld(self.data_dir)
        self.ledger = Ledger()
        self.checks = Checks(self.world, Rows(), self.ledger)

        self.acme = AccountFactory.create()
        self.beta = AccountFactory.create()
        self.image = ImageFactory.create(owner=self.acme, name="image-1")
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        self.server = ServerFactory.create(
            account=self.beta, image=self.image, name="server-1"
        )
        now = timezone.now()
        Server.objects.update(status="ACTIVE", task="", launched_at=now, started_at=now)
        self.world.running = [(self.server.pk, os.getpid())]
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM procrastinate_jobs")

        self.blob = self.file(f"images/blobs/ab/{self.image.blob.digest}.qcow2")
        self.disk = self.file(f"servers/{self.server.pk}/disk.qcow2")
        self.known_image = self.written("image", self.image)
        self.known_image.digest = self.image.blob.digest
        self.known_server = self.written("server", self.server)
        self.known_server.source = self.known_image
        self.known_share = self.ledger.share(self.known_image, self.beta.pk)
        self.known_share.deeds += [
            Deed("offer", Outcome.DONE),
            Deed("accept", Outcome.DONE),
        ]

    def file(self, name):
        path = self.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("bytes")
        return path

    def written(self, kind, row):
        thing = Thing(kind, row.name, "", "IAD", id=row.pk)
        thing.deeds.append(Deed("create", Outcome.DONE))
        return self.ledger.add(thing)

    def sees(self, kind, words):
        found = self.checks.all()
        assert any(each.kind == kind and words in each.text for each in found), found

    def test_a_panel_that_is_well_gives_no_finding(self):
        assert self.checks.all() == []

    # Lost

    def test_an_image_that_is_gone(self):
        self.checks.ledger.add(self.thing("image", "image-2", Outcome.DONE))
        self.sees(Kind.LOST, "image-2 was acknowledged, and is gone")

    def test_an_image_whose_data_is_not_there(self):
        Image.objects.filter(pk=self.image.pk).update(status="queued")
        self.sees(Kind.LOST, "image-1 waits for data that was taken")

    def test_an_order_without_an_answer_may_be_gone(self):
        self.checks.ledger.add(self.thing("server", "server-2", Outcome.UNKNOWN))
        assert self.checks.all() == []

    def thing(self, kind, name, outcome):
        return Thing(kind, name, "", "IAD", deeds=[Deed("create", outcome)])

    def test_a_server_that_is_gone_with_all_that_belongs_to_it(self):
        Server.objects.all().delete()
        self.disk.unlink()
        self.disk.parent.rmdir()
        self.world.running = []
        self.sees(Kind.LOST, "server-1 was acknowledged, and is gone")

    def test_a_deletion_that_came_to_nothing(self):
        self.known_image.deeds.append(Deed("delete", Outcome.DONE))
        self.sees(Kind.LOST, "image-1 was deleted, and is there")

    def test_an_image_with_other_bytes_than_were_sent(self):
        self.known_image.digest = "0" * 64
        self.sees(Kind.LOST, "image-1 has other bytes")

    def test_a_blob_whose_bytes_have_changed(self):
        found = list(self.checks.damaged_blobs())
        assert [each.kind for each in found] == [Kind.LOST]

    def test_an_image_that_failed_though_nobody_harmed_it(self):
        Image.objects.filter(pk=self.image.pk).update(status="error", status_reason="?")
        self.sees(Kind.LOST, "image-1 is in error")

    def test_a_server_that_failed_though_nobody_harmed_it(self):
        self.world.running = []
        Server.objects.update(status="ERROR", reason="It crashed.")
        self.sees(Kind.LOST, "server-1 is in ERROR: It crashed.")

    def test_a_server_whose_process_we_killed_may_be_in_error_with_a_reason(self):
        self.world.running = []
        Server.objects.update(status="ERROR", reason="It crashed.")
        self.known_server.harmed_at = float("inf")
        assert self.checks.all() == []
        Server.objects.update(reason="")
        self.sees(Kind.UNEXPLAINED, "server-1 is in ERROR without a reason")

    def test_a_server_that_nobody_shut_off(self):
        self.world.running = []
        Server.objects.update(status="SHUTOFF")
        self.sees(Kind.LOST, "server-1 is SHUTOFF by nobody")

    def test_a_server_without_its_disk(self):
        self.disk.unlink()
        self.sees(Kind.LOST, "server-1 has no disk")

    def test_a_share_that_is_gone(self):
        ImageShare.objects.filter(pk=self.share.pk)._raw_delete("default")
        self.sees(Kind.LOST, "is none, its events say accepted")

    def test_a_share_whose_status_no_event_tells(self):
        ImageShare.objects.update(status="rejected")
        self.sees(Kind.LOST, "is rejected, its events say accepted")

    def test_an_event_of_a_share_that_is_gone(self):
        ShareEvent.objects.filter(to_status="pending").delete()
        self.sees(Kind.LOST, "0 events of 1 x offer")

    def test_an_event_of_a_server_that_is_gone(self):
        ServerEvent.objects.filter(what="create").delete()
        self.sees(Kind.LOST, "server-1: 0 events of 1 x create")

    def test_a_blob_whose_file_is_gone(self):
        self.blob.unlink()
        self.sees(Kind.LOST, "has no file")

    # Doubled

    def test_an_image_that_came_twice_of_one_upload(self):
        ImageFactory.create(owner=self.acme, name="image-1", blob=self.image.blob)
        self.sees(Kind.DOUBLED, "image-1 is there 2 times")

    def test_an_order_that_was_refused_and_is_there(self):
        self.known_server.deeds[0].outcome = Outcome.NOT_DONE
        self.sees(Kind.DOUBLED, "server-1 is there 1 times")

    def test_two_processes_of_one_server(self):
        self.world.running *= 2
        self.sees(Kind.DOUBLED, "2 QEMU run")

    def test_an_event_that_was_written_twice(self):
        self.server.refresh_from_db()
        self.server.record("delete", by=UserFactory.create())
        self.sees(Kind.DOUBLED, "server-1: 1 events of 0 x delete")

    def test_an_answer_that_was_written_twice(self):
        event = ShareEvent.objects.get(to_status="accepted")
        event.pk = None
        event.save()
        self.sees(Kind.DOUBLED, "2 events of 1 x accept")

    # Orphaned

    def test_a_process_without_a_row(self):
        self.world.running.append((uuid4(), 1))
        self.sees(Kind.ORPHANED, "which has no row")

    def test_a_row_without_a_process(self):
        self.world.running = []
        self.sees(Kind.ORPHANED, "server-1 is ACTIVE without a process")

    def test_a_process_of_a_server_that_is_off(self):
        Server.objects.update(status="SHUTOFF")
        self.sees(Kind.ORPHANED, "server-1 is SHUTOFF, and its process runs")

    def test_files_that_belong_to_nothing(self):
        for name, words in [
            (f"servers/{uuid4()}/disk.qcow2", "has no row"),
            (f"servers/{self.server.pk}/disk.new", "disk.new"),
            (f"servers/{self.server.pk}/rebuilt", "rebuilt"),
            (f"images/uploads/{uuid4()}.part", ".part"),
            (f"images/blobs/cd/{'cd' * 32}.raw", "has no row"),
            (f"snapshots/{uuid4()}.qcow2", "snapshots/"),
        ]:
            with self.subTest(name):
                path = self.file(name)
                self.sees(Kind.ORPHANED, words)
                path.unlink()
                if path.parent.name != str(self.server.pk):
                    path.parent.rmdir()

    def test_data_that_nobody_sends_any_more(self):
        for state in (
            {"status": "saving", "staged": False},
            {"status": "queued", "staged": True, "size": 0},
        ):
            with self.subTest(state):
                Image.objects.filter(pk=self.image.pk).update(
                    origin="upload", uploaded_format="", **state
                )
                self.sees(Kind.ORPHANED, "nobody sends the data of image-1 any more")
                before = timezone.now()
                assert self.checks.age_leftovers()
                [image] = Image.objects.cut_off(since=before - timedelta(days=1))
                assert image == self.image

    def test_data_that_is_staged_belongs_to_its_image(self):
        staged = ImageFactory.create(owner=self.acme, name="image-2")
        Image.objects.filter(pk=staged.pk).update(
            status="queued", staged=True, size=5, blob=None
        )
        staged.blob.delete()
        self.ledger.add(self.thing("image", "image-2", Outcome.UNKNOWN))
        self.file(f"images/uploads/{staged.pk}.data")
        assert self.checks.all() == []
        self.file(f"images/uploads/{staged.pk}.part")
        self.sees(Kind.ORPHANED, ".part")

    def test_an_order_that_is_done_or_given_up(self):
        Resize.objects.create(server=self.server, before=self.server.flavor)
        Server.objects.update(task="resizing")
        assert all(each.kind is Kind.UNFINISHED for each in self.checks.all())
        Server.objects.update(task="")
        self.sees(Kind.ORPHANED, "order of server-1, which is not resizing")

    def test_a_blob_that_nothing_refers_to(self):
        blob = BlobFactory.create()
        self.file(f"images/blobs/cd/{blob.digest}.qcow2")
        assert Blob.objects.count() == 2
        self.sees(Kind.ORPHANED, "nothing refers to blob")

    # Unexplained, and not at rest

    def test_an_image_in_error_without_a_reason(self):
        Image.objects.filter(pk=self.image.pk).update(status="deactivated")
        self.sees(Kind.UNEXPLAINED, "image-1: deactivated, no reason")

    def test_work_that_does_not_end(self):
        Image.objects.filter(pk=self.image.pk).update(
            status="saving", uploaded_format="raw"
        )
        self.sees(Kind.UNFINISHED, "image-1 is still saving")
        Server.objects.update(task="rebooting")
        self.sees(Kind.UNFINISHED, "server-1 is still rebooting")
        self.world.images_at_work = [os.getpid()]
        self.sees(Kind.UNFINISHED, "still running")

    def test_a_job_that_nobody_works_on(self):
        self.server.defer("reboot")
        self.sees(Kind.UNFINISHED, "servers.tasks.reboot is still to be done")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE procrastinate_jobs SET status = 'doing'")
        self.sees(Kind.UNFINISHED, "nobody works on servers.tasks.reboot")


class LedgerTests(TestCase):
    def test_what_was_taken_away_may_end_in_error_and_nothing_else(self):
        ledger = Ledger()
        image = ledger.add(Thing("image", "image-1", "acme", "IAD"))
        server = ledger.add(Thing("server", "server-1", "beta", "IAD", source=image))
        with ledger.deed(server, "create"):
            pass
        assert not ledger.may_be_broken(server)
        with ledger.deed(ledger.share(image, "beta"), "revoke") as revoked:
            pass
        assert ledger.may_be_broken(server)
        revoked.outcome = Outcome.NOT_DONE
        assert not ledger.may_be_broken(server)
        with ledger.deed(image, "delete"):
            pass
        assert ledger.may_be_broken(server)

    def test_harm_of_before_the_last_start_is_no_excuse(self):
        ledger = Ledger()
        server = ledger.add(Thing("server", "server-1", "beta", "IAD"))
        server.harmed_at = 5
        server.deeds = [Deed("create", at=1)]
        assert ledger.may_be_broken(server)
        unanswered = Deed("power-on", at=6)
        server.deeds.append(unanswered)
        assert ledger.may_be_broken(server)
        unanswered.outcome = Outcome.DONE
        assert not ledger.may_be_broken(server)

    def test_a_finding_is_compared_by_what_it_says(self):
        assert len({Finding(Kind.LOST, "a"), Finding(Kind.LOST, "a")}) == 1

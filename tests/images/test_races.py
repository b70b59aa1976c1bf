"""Two act on an image at the same moment: one of them wins, nothing is left over."""

import threading
import time
from functools import partial
from unittest import mock

from django.db import connection, transaction
from django.test import TransactionTestCase

from accounts.models import Quota
from images import tasks
from images.models import Blob, Image
from images.stores import Stored
from sharing.models import ImageShare, ShareEvent
from tests.factories import AccountFactory, ImageFactory, UserFactory
from tests.images.case import StoreMixin, work
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu
from tests.limits import limited
from tests.races import at_once


def make_image(account, **fields):
    with transaction.atomic():
        account.make_room({Quota.IMAGES: 1, Quota.IMAGE_BYTES: fields.get("size", 0)})
        return Image.objects.create(
            owner=account,
            region=account.home_region,
            name="web",
            status="saving",
            origin="upload",
            uploaded_format="raw",
            **fields,
        )


class RaceTests(TransactionTestCase):
    def setUp(self):
        self.acme = AccountFactory.create(name="Acme")
        self.alice = UserFactory.create(username="alice")

    def test_uploads_at_once_stay_within_the_number_of_images(self):
        with limited(images=3):
            done = at_once([partial(make_image, self.acme)] * 8)

        assert done == {"done": 3, "too many": 5}

    def test_uploads_at_once_stay_within_the_bytes(self):
        with limited(image_bytes=250):
            done = at_once([partial(make_image, self.acme, size=100)] * 8)

        assert done == {"done": 2, "too many": 6}

    def test_of_simultaneous_uploads_to_one_image_one_begins(self):
        image = ImageFactory.create(owner=self.acme, status="queued", blob=None)
        copies = [Image.objects.get(pk=image.pk) for _ in range(6)]
        verbs = [copy.start_saving for copy in copies[:3]]
        verbs += [copy.start_staging for copy in copies[3:]]

        assert at_once(verbs) == {"done": 1, "conflict": 5}

    def test_an_image_is_never_private_and_shared(self):
        for _ in range(4):
            image = ImageFactory.create(owner=self.acme)
            offer = partial(
                ImageShare.objects.offer, image, to="82000118", by=self.alice
            )
            close = partial(Image.objects.get(pk=image.pk).edit, private=True)

            assert at_once([offer, close]) == {"done": 1, "conflict": 1}

            image.refresh_from_db()
            assert image.private != image.shares.exists()

    def test_of_simultaneous_deletions_one_wins(self):
        image = ImageFactory.create(owner=self.acme)
        image.shares.model.objects.offer(image, to="82000118", by=self.alice)
        copies = [Image.objects.get(pk=image.pk) for _ in range(6)]

        done = at_once(
            [partial(copy.delete_with_shares, by=self.alice) for copy in copies]
        )

        assert done == {"done": 1, "conflict": 5}
        assert not ImageShare.objects.exists()
        assert ShareEvent.objects.filter(to_status="").count() == 1
        assert not Blob.objects.exists()

    def test_an_id_is_taken_as_long_as_its_deletion_is_being_committed(self):
        image = ImageFactory.create(
            owner=self.acme, blob=None, status="queued", staged=True
        )
        deleted = threading.Event()

        def delete():
            with transaction.atomic():
                image.delete_unshared()
                deleted.set()
                self.wait_until_somebody_waits()

        def make_anew():
            deleted.wait(60)
            register = partial(Image.objects.register, by=self.alice, image_id=image_id)
            register(self.acme, region=image.region_id, name="anew")

        image_id = image.pk
        assert at_once([delete, make_anew]) == {"done": 1, "conflict": 1}
        work()
        make_anew()

    def wait_until_somebody_waits(self):
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        with connection.cursor() as cursor:
            for _ in range(6000):
                # Else a transaction sees only who was connected at its first look.
                cursor.execute("SELECT pg_stat_clear_snapshot()")
                cursor.execute(waiting)
                if cursor.fetchone() is not None:
                    return
                time.sleep(0.01)
        raise AssertionError("nobody waits")

    def test_who_waits_for_the_account_holds_no_digest(self):
        image = make_image(self.acme, size=1)
        stored = Stored("ab" * 32, 10, 10, "raw", "cd" * 16)
        activating = threading.Thread(
            target=at_once, args=[[partial(image.activate, "local", stored)]]
        )
        with transaction.atomic():
            self.acme.make_room({Quota.IMAGES: 0})
            activating.start()
            self.wait_until_somebody_waits()
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '500ms'")
                Blob.objects.hold(stored.digest)
        activating.join()
        image.refresh_from_db()
        assert image.status == "active"

    def test_an_image_that_is_deleted_as_it_becomes_active_leaves_no_blob(self):
        stored = Stored("ab" * 32, 10, 10, "raw", "cd" * 16)
        for _ in range(5):
            image = make_image(self.acme)
            copy = Image.objects.get(pk=image.pk)

            def activate(image=image):
                image.activate("local", stored)

            done = at_once([activate, partial(copy.delete_with_shares, by=self.alice)])

            assert done["done"] >= 1
            assert not Image.objects.exists()
            assert not Blob.objects.exists()


@needs_qemu
class AdmitRaceTests(StoreMixin, TransactionTestCase):
    def test_two_workers_that_admit_the_same_upload_make_one_blob(self):
        acme = AccountFactory.create()
        image = make_image(acme)
        disk = corpus.raw_mbr(self.folder / "disk")
        with self.store.receive(image.pk, limit=1 << 30) as receiver:
            receiver.write(disk.read_bytes())
            receiver.finish()
        job = partial(tasks.admit, mock.Mock(job=mock.Mock(attempts=0)), str(image.pk))

        done = at_once([job] * 4)
        work()

        assert done == {"done": 4}
        image.refresh_from_db()
        assert image.status == "active"
        assert len(self.files()) == 1
        assert Blob.objects.count() == 1

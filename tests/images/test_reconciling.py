import errno
import os
from datetime import timedelta
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest
from django.utils import timezone

from images.models import Blob, Image
from images.reconciling import GONE, all_findings, mend, remove_file
from images.stores import StoreError
from images.stores.local import LocalStore
from tests.cast import CastTestCase
from tests.factories import BlobFactory, ImageFactory
from tests.images.case import StoreMixin, waiting, work
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu


class ReconcilingTestCase(StoreMixin, CastTestCase):
    """Alice's image has its file; what is older than an hour is old here."""

    # Digests on which disks rest; None while that is unknown.
    needed = ()

    def setUp(self):
        super().setUp()
        Image.objects.all().delete()
        Blob.objects.all().delete()
        self.web = self.stored_image("web")

    def stored_image(self, name, size=0):
        file = corpus.raw_mbr(self.folder / name)
        with file.open("ab") as stream:
            stream.write(name.encode().ljust(512, b"\0") + bytes(size))
        upload_id = uuid4()
        stored = self.store.import_file(file, upload_id=upload_id)
        blob = Blob.objects.keep("local", stored)
        self.store.discard(upload_id)
        return ImageFactory.create(owner=self.acme, name=name, blob=blob)

    def find(self, *, age=timedelta(hours=1), deep=False):
        now = timezone.now()
        about = {"before": now - age, "stale": now - age, "deep": deep}
        return list(all_findings(needed=self.needed_by_disks, **about))

    def needed_by_disks(self, backend):
        if isinstance(self.needed, StoreError):
            raise self.needed
        return self.needed

    def kinds(self, **options):
        return [finding.kind for finding in self.find(**options)]

    def mend(self, **options):
        for finding in self.find(**options):
            assert mend(finding)
        work()

    def make_old(self, *paths):
        for path in paths:
            os.utime(path, (0, 0))

    def status(self, image):
        image.refresh_from_db()
        return image.status, image.status_reason


@needs_qemu
class FindingTests(ReconcilingTestCase):
    def test_nothing_is_found_where_rows_and_files_agree(self):
        self.make_old(self.store.path(self.web.blob.digest))

        assert self.find(deep=True) == []

    def test_a_file_without_a_row_is_removed_once_it_is_old(self):
        path = self.store.path(self.web.blob.digest)
        Image.objects.all().delete()
        Blob.objects.all().delete()
        assert self.kinds() == []
        self.make_old(path)
        assert self.kinds() == ["file without a row"]
        self.needed = StoreError("A server: its disk cannot be read.")
        assert self.kinds() == ["disks unknown"]
        self.needed = [self.web.blob.digest]
        [finding] = self.find()
        assert "disk of a server rests" in finding.sentence
        assert not mend(finding)
        assert path.exists()
        self.needed = ()
        self.mend()

        assert self.files() == []
        assert self.kinds() == []

    def test_a_file_that_is_being_admitted_is_left_alone(self):
        upload_id = uuid4()
        file = corpus.raw_mbr(self.folder / "new")
        stored = self.store.import_file(file, upload_id=upload_id)
        self.make_old(self.store.path(stored.digest))

        assert "file without a row" not in self.kinds()

    def test_a_row_that_comes_after_the_look_saves_its_file(self):
        path = self.store.path(self.web.blob.digest)
        blob = self.web.blob
        Image.objects.all().delete()
        Blob.objects.all().delete()
        self.make_old(path)
        found = self.find()
        blob.pk = None
        blob.save(force_insert=True)

        assert mend(found[0])
        assert path.exists()

    def test_more_unknown_files_than_known_ones_wait_for_consent(self):
        """Whoever starts the panel on an empty database must not lose the store."""
        for name in map(str, range(12)):
            self.stored_image(name)
        self.make_old(*(self.folder / "images/blobs").glob("??/*"))
        Image.objects.all().delete()
        Blob.objects.all().delete()

        assert {finding.needs_consent for finding in self.find()} == {True}

    def test_an_upload_that_nobody_awaits_is_discarded_once_it_is_old(self):
        with self.store.receive(uuid4(), limit=100) as receiver:
            receiver.write(b"x")
            receiver.finish()
        assert self.kinds() == []
        self.make_old(*(self.folder / "images/uploads").iterdir())
        assert self.kinds() == ["upload nobody awaits"]
        self.mend()

        assert len(self.files()) == 1

    def test_where_the_disks_are_not_known_nothing_is_deleted_and_it_is_told(self):
        self.needed = StoreError("A server: its disk cannot be read.")
        [finding] = self.find()
        assert finding.kind == "disks unknown"
        assert "A server: its disk cannot be read." in finding.sentence
        path = self.store.path(self.web.blob.digest)
        Image.objects.all().delete()
        Blob.objects.update(created_at=timezone.now() - timedelta(days=2))
        for finding in self.find():
            mend(finding)
        assert path.exists()

    def test_a_file_that_an_upload_claims_is_tried_again(self):
        stored = self.web.blob
        Image.objects.all().delete()
        Blob.objects.all().delete()
        upload_id = uuid4()
        claim = self.folder / "images/uploads" / f"{upload_id}.claim"
        claim.hardlink_to(self.store.path(stored.digest))
        with pytest.raises(StoreError, match="claims the file"):
            remove_file("local", stored.digest)
        self.store.discard(upload_id)
        remove_file("local", stored.digest)
        assert self.files() == []

    def test_what_the_disk_cannot_tell_of_a_file_is_no_loss(self):
        path, stat = self.store.path(self.web.blob.digest), Path.stat
        self.make_old(path)

        def stat_badly(asked, **options):
            if asked == path:
                raise OSError(errno.EIO, "Input/output error")
            return stat(asked, **options)

        with mock.patch.object(Path, "stat", stat_badly):
            assert self.kinds() == []
            assert self.kinds(deep=True) == ["image with damaged data"]

    def test_a_row_that_nobody_uses_goes_with_its_file(self):
        Image.objects.all().delete()
        assert self.kinds() == []
        Blob.objects.update(created_at=timezone.now() - timedelta(days=2))
        assert self.kinds() == ["row nobody uses"]
        self.mend()

        assert self.files() == []
        assert not Blob.objects.exists()

    def test_an_image_without_its_file_boots_nothing_and_says_why(self):
        self.store.path(self.web.blob.digest).unlink()
        assert self.kinds() == ["image without its file"]
        self.mend()

        assert self.status(self.web) == ("deactivated", GONE)
        assert self.find() == []

    def test_one_that_was_repaired_since_it_was_looked_at_stays_on(self):
        self.store.path(self.web.blob.digest).unlink()
        [finding] = self.find()
        Image.objects.filter(pk=self.web.pk).update(blob=BlobFactory.create())
        assert mend(finding)

        assert self.status(self.web) == ("active", "")

    def test_it_comes_back_with_its_file(self):
        path = self.store.path(self.web.blob.digest)
        kept = path.read_bytes()
        path.unlink()
        self.mend()
        path.write_bytes(kept[:-1])
        assert self.kinds() == []
        path.write_bytes(kept)
        assert self.kinds() == ["image with its file again"]
        self.mend()

        assert self.status(self.web) == ("active", "")

    def test_an_image_deactivated_for_another_reason_stays_so(self):
        self.web.deactivate("Its licence has ended.")

        assert self.find(deep=True) == []

    def test_changed_bytes_are_found_when_all_is_read(self):
        path = self.store.path(self.web.blob.digest)
        path.chmod(0o644)
        path.write_bytes(b"x" + path.read_bytes()[1:])

        assert self.kinds() == []
        assert self.kinds(deep=True) == ["image with damaged data"]

    def test_one_that_is_read_too_slowly_tells_nothing_and_hides_nothing(self):
        other = self.stored_image("other")
        self.store.path(other.blob.digest).chmod(0o644)
        self.store.path(other.blob.digest).write_bytes(b"changed")
        usual = LocalStore.verify

        def verify(store, digest):
            if digest == self.web.blob.digest:
                raise StoreError("Reading the image took too long.")
            return usual(store, digest)

        with mock.patch.object(LocalStore, "verify", verify):
            assert self.kinds(deep=True) == ["image with damaged data"]

    def test_an_image_that_no_job_moves_on_gets_one(self):
        Image.objects.update(
            status="saving", uploaded_format="raw", updated_at=timezone.now()
        )
        assert self.kinds() == []
        Image.objects.update(updated_at=timezone.now() - timedelta(hours=2))
        assert self.kinds() == ["image without a job"]
        assert mend(self.find()[0])
        assert len(waiting("admit")) == 1

        assert self.kinds() == []

    def test_a_store_that_cannot_be_used_is_told_and_nothing_is_mended(self):
        self.store.path(self.web.blob.digest).unlink()
        trouble = mock.patch("os.access", return_value=False)
        with trouble:
            found = self.find()

        assert [finding.kind for finding in found] == ["store unavailable"]
        assert not mend(found[0])
        assert self.status(self.web) == ("active", "")

    def test_one_that_cannot_be_mended_does_not_keep_the_others(self):
        self.store.path(self.web.blob.digest).unlink()
        finding = self.find()[0]
        with mock.patch.object(Image, "_move", side_effect=OSError("read-only")):
            assert not mend(finding)

    def test_an_image_deleted_since_the_look_is_no_fault(self):
        self.store.path(self.web.blob.digest).unlink()
        finding = self.find()[0]
        Image.objects.get().delete_with_shares(by=self.alice)

        assert mend(finding)

    def test_what_its_owner_has_switched_off_is_not_switched_on(self):
        self.web.deactivate(GONE)
        [finding] = self.find()
        assert mend(finding)
        Image.objects.get().switch_off()
        assert mend(finding)
        assert self.status(self.web)[0] == "deactivated"


@needs_qemu
class RestoredTests(ReconcilingTestCase):
    """A backup of the database and one of the files are never of the same moment."""

    def test_a_database_that_is_older_than_the_files(self):
        newer = self.stored_image("newer")
        paths = [self.store.path(each.blob.digest) for each in (self.web, newer)]
        newer.delete()
        newer.blob.delete()
        self.make_old(*paths)
        self.mend()

        assert [path.exists() for path in paths] == [True, False]
        assert self.find(deep=True) == []

    def test_a_database_that_is_newer_than_the_files(self):
        newer = self.stored_image("newer")
        self.store.path(newer.blob.digest).unlink()
        saving = ImageFactory.create(owner=self.acme)
        Image.objects.filter(pk=saving.pk).update(
            status="saving",
            blob=None,
            uploaded_format="raw",
            updated_at=timezone.now() - timedelta(hours=2),
        )
        saving.blob.delete()
        self.mend()

        assert self.status(self.web) == ("active", "")
        assert self.status(newer) == ("deactivated", GONE)
        # Its upload was not in the backup of the files.
        assert self.status(saving)[0] == "error"
        assert "upload it again" in self.status(saving)[1]
        assert self.find(deep=True) == []

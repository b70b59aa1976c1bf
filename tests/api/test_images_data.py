"""Sending, staging, importing and fetching an image's data."""

import hashlib
import time
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

import pytest
from django.conf import settings
from django.test import RequestFactory
from django.utils import timezone

from accounts.models import Quota, QuotaReached, QuotaUse
from accounts.permissions import Role
from images import intake
from images.api.data import _pieces
from images.intake import Gone, receive
from images.models import Image
from images.reconciling import (
    defer_admit,
    images_cut_off,
    images_without_job,
    mend,
    uploads_nobody_awaits,
)
from images.stores import StoreError
from images.stores.checking import missing_program
from images.stores.local import LocalStore
from tests.api.images import ImagesTestCase
from tests.factories import ImageShareFactory
from tests.images.case import StoreMixin, waiting, work
from tests.images.stores import corpus
from tests.limits import limited

OCTETS = "application/octet-stream"
HOUR, HOUR_AGO = timedelta(hours=1), timedelta(hours=-1)
TEXT = b"no disk at all\n" * 100
needs_qemu = pytest.mark.skipif(bool(missing_program()), reason=missing_program())


@needs_qemu
class DataTestCase(StoreMixin, ImagesTestCase):
    def queued(self, disk_format="raw", container_format="bare", **about):
        formats = {"disk_format": disk_format, "container_format": container_format}
        sent = {name: text for name, text in formats.items() if text}
        body = self.call("POST", "/images", {"name": "web", **sent, **about}).json()
        return Image.objects.get(pk=body["id"])

    def put(self, image, data, rest="/file", kind=OCTETS, by="alice", **headers):
        return self.send("PUT", self.at(image, rest), data, kind, by=by, **headers)

    def stage(self, image, data, **headers):
        return self.put(image, data, "/stage", **headers)

    def take_in(self, image, method="glance-direct"):
        body = {"method": {"name": method}}
        return self.call("POST", self.at(image, "/import"), body)

    def disk(self):
        return corpus.raw_mbr(self.folder / "disk").read_bytes()

    def status(self, image):
        return self.call("GET", self.at(image)).json()["status"]

    def leave(self, image, data):
        """What a process that is killed just then leaves in the store."""
        with self.store.receive(image.pk, limit=1 << 30) as receiver:
            receiver.write(data)
            receiver.finish()

    def cut_off(self, since=HOUR):
        return list(images_cut_off(stale=timezone.now() + since))

    def mend(self, findings):
        assert [mend(finding) for finding in findings] == [True]

    def is_as_before(self, image):
        image.refresh_from_db()
        return (image.status, image.size, image.staged, self.files()) == (
            "queued",
            0,
            False,
            [],
        )


class UploadTests(DataTestCase):
    def test_a_disk_is_taken_checked_and_given_back_byte_for_byte(self):
        image, disk = self.queued(), self.disk()
        sent = self.put(image, disk, X_OpenStack_Image_Size=str(len(disk)))
        assert sent.status_code == 204, sent.text
        assert self.status(image) == "saving"
        work()

        body = self.call("GET", self.at(image)).json()
        assert (body["status"], body["size"]) == ("active", len(disk))
        assert body["os_hash_value"] == hashlib.sha256(disk).hexdigest()
        md5 = hashlib.md5(disk, usedforsecurity=False).hexdigest()
        assert body["checksum"] == md5
        assert self.listed(f"?checksum={md5}") == [body["name"]]
        assert self.listed("?checksum=") == []
        assert "unbootable_reason" not in body
        whole = self.call("GET", self.at(image, "/file"))
        assert whole["Content-Type"] == OCTETS
        assert whole["Content-Length"] == str(len(disk))
        assert whole.getvalue() == disk
        part = self.call("GET", self.at(image, "/file"), Range="bytes=510-511")
        assert (part.status_code, part.getvalue()) == (206, b"\x55\xaa")
        beyond = self.call("GET", self.at(image, "/file"), Range="bytes=999999999-")
        assert beyond.status_code == 416

    def test_qcow2_is_kept_and_vmdk_becomes_qcow2(self):
        for declared, kind in (("qcow2", "qcow2"), ("raw", "qcow2"), ("vmdk", "vmdk")):
            with self.subTest(declared=declared):
                data = corpus.converted(self.folder / "disk", kind).read_bytes()
                image = self.queued(declared)
                assert self.put(image, data).status_code == 204
                work()
                body = self.call("GET", self.at(image)).json()
                assert (body["status"], body["disk_format"]) == ("active", "qcow2")

    def test_what_is_no_disk_is_kept_as_raw_and_boots_nothing(self):
        for declared, container in (("raw", "bare"), ("iso", "bare"), ("raw", "ova")):
            with self.subTest(declared=declared, container=container):
                image = self.queued(declared, container)
                assert self.put(image, TEXT).status_code == 204
                work()
                body = self.call("GET", self.at(image)).json()
                assert (body["status"], body["disk_format"]) == ("active", declared)
                assert "not a disk image" in body["unbootable_reason"]
                kept = self.call("GET", self.at(image, "/file")).getvalue()
                assert kept == TEXT
                assert not Image.objects.bootable().filter(pk=image.pk).exists()
        self.client.force_login(self.alice)
        page = self.client.get(f"/{self.acme.pk}/images/{image.pk}/")
        self.assertContains(page, "No server can start from this image.")

    def test_a_disk_in_an_archive_s_clothes_is_kept_and_boots_nothing(self):
        image = self.queued("ami", "ami")
        assert self.put(image, self.disk()).status_code == 204
        work()
        image.refresh_from_db()
        assert (image.status, image.disk_format) == ("active", "ami")
        assert "ami, ami" in image.unbootable_reason

    def test_data_of_another_format_than_declared_is_415(self):
        qcow2 = corpus.converted(self.folder / "disk", "qcow2").read_bytes()
        bad = corpus.backing_file(self.folder / "bad").read_bytes()
        for declared, data, words in (
            ("qcow2", TEXT, "does not match"),
            ("qcow2", self.disk(), "does not match"),
            ("vmdk", qcow2, "does not match"),
            ("iso", qcow2, "does not match"),
            ("raw", bad, "backing file"),
        ):
            with self.subTest(declared=declared, words=words):
                image = self.queued(declared)
                answer = self.put(image, data)
                assert answer.status_code == 415
                assert words in answer.json()["message"]
                assert self.is_as_before(image)

    def test_damage_that_the_worker_finds_is_415_to_who_waits(self):
        data = corpus.garbled_qcow2(self.folder / "bad").read_bytes()
        image = self.queued("qcow2")
        with mock.patch("images.api.data.wait_for_check", self.work_and_look):
            answer = self.put(image, data)
        assert answer.status_code == 415
        assert "damaged" in answer.json()["message"]
        assert self.status(image) == "killed"

    def test_a_disk_that_grows_beyond_the_quota_is_413_to_who_waits(self):
        data = corpus.converted(self.folder / "disk", "vmdk").read_bytes()
        image = self.queued("vmdk")
        use = QuotaUse(Quota.IMAGE_BYTES, used=2 << 30, limit=3 << 30)
        full = QuotaReached(use, 4 << 30)
        with (
            mock.patch("images.api.data.wait_for_check", self.work_and_look),
            mock.patch.object(Image, "activate", side_effect=full),
        ):
            answer = self.put(image, data)
        assert answer.status_code == 413
        assert "may have 3.0 GiB" in answer.json()["message"]

    def test_the_answer_waits_for_the_worker(self):
        image = self.queued()
        with self.waiting_by(lambda _: work()) as clock:
            assert self.put(image, self.disk()).status_code == 204
        assert clock.sleep.called
        assert self.status(image) == "active"

    def test_not_all_threads_wait_for_the_worker(self):
        image, other = self.queued(), self.queued()
        with self.waiting_by(lambda _: work()) as clock:
            with intake._WAITING, intake._WAITING:
                assert self.put(image, self.disk()).status_code == 204
            assert not clock.sleep.called
            assert self.status(image) == "saving"
            assert self.put(other, self.disk()).status_code == 204
            assert clock.sleep.called

    def test_a_killed_process_leaves_an_image_that_waits_for_data_again(self):
        """Killed when all seemed to have come, before anybody looked at it."""
        image, disk = self.queued(), self.disk()
        image.start_saving()
        self.leave(image, disk[: len(disk) // 2])
        assert list(images_without_job(stale=timezone.now() + HOUR)) == []
        twice = [self.cut_off(), self.cut_off()]
        self.mend(twice[0])
        work()
        assert self.is_as_before(image)
        assert self.put(image, disk).status_code == 204
        self.mend(twice[1])
        work()
        assert self.status(image) == "active"

    def test_a_job_that_was_left_over_does_not_end_an_upload(self):
        image, receive = self.queued(), intake.receive
        defer_admit(image)

        def work_first(*given, **limits):
            work()
            return receive(*given, **limits)

        with mock.patch("images.api.data.receive", work_first):
            assert self.put(image, self.disk()).status_code == 204
        work()
        assert self.status(image) == "active"

    def test_who_sends_to_a_deleted_image_spoils_nothing_of_the_next_one(self):
        image, disk, answers = self.queued(), self.disk(), []
        inspect = LocalStore.inspect

        def made_anew(store, upload_id, **options):
            found = inspect(store, upload_id, **options)
            if not answers:
                answers.append(self.call("DELETE", self.at(image)))
                self.queued(id=str(image.pk))
                answers.append(self.put(image, disk))
            return found

        with mock.patch.object(LocalStore, "inspect", made_anew):
            assert self.put(image, TEXT).status_code == 409
        assert [answer.status_code for answer in answers] == [204, 204]
        work()
        assert self.status(image) == "active"

    def test_who_sends_to_a_deleted_image_does_not_send_to_the_next_one(self):
        image = self.queued()

        def deleted(request):
            yield TEXT
            self.call("DELETE", self.at(image))
            self.queued(id=str(image.pk)).start_saving()

        with mock.patch("images.api.data._pieces", deleted):
            assert self.put(image, TEXT).status_code == 410
        assert self.files() == []

    def test_data_that_comes_in_the_meantime_is_not_swept_away(self):
        image = self.queued()
        self.leave(image, b"of an earlier time")
        later = timezone.now() + HOUR
        [finding] = uploads_nobody_awaits(self.store, before=later)
        assert self.put(image, self.disk()).status_code == 204
        mend(finding)
        work()
        assert self.status(image) == "active"

    def test_an_image_deleted_while_it_is_checked_is_410(self):
        image = self.queued()

        def delete(*_, **__):
            Image.objects.get(pk=image.pk).delete_with_shares(by=self.alice)

        with self.waiting_by(delete):
            assert self.put(image, self.disk()).status_code == 410
        work()
        assert self.files() == []

    def test_an_image_deleted_while_its_data_is_looked_at_is_410(self):
        image = self.queued()

        def looked_at(*_, **__):
            Image.objects.get(pk=image.pk).delete_with_shares(by=self.alice)
            return ""

        with mock.patch("images.intake.why_unbootable", looked_at):
            assert self.put(image, self.disk()).status_code == 410
        work()
        assert self.files() == []

    @contextmanager
    def waiting_by(self, deed):
        """Have the answer wait for the worker, and the deed done meanwhile."""
        clock = mock.Mock(wraps=time, sleep=mock.Mock(side_effect=deed))
        patient = settings.API | {"upload_wait_seconds": 60}
        with self.settings(API=patient), mock.patch("images.intake.time", clock):
            yield clock

    def work_and_look(self, image):
        work()
        image.refresh_from_db()

    def test_formats_have_to_be_told_first(self):
        answer = self.put(self.queued("", ""), TEXT)
        assert answer.status_code == 400
        assert "disk_format, container_format must be set" in answer.json()["message"]
        answer = self.put(self.queued("raw", ""), TEXT)
        assert "Property container_format must be set" in answer.json()["message"]

    def test_data_is_sent_once(self):
        image = self.queued()
        self.put(image, self.disk())
        for rest in ("/file", "/stage"):
            again = self.put(image, TEXT, rest)
            assert again.status_code == 409
            assert "saving" in again.json()["message"]
        work()
        assert self.put(image, TEXT).status_code == 409
        kept = self.call("GET", self.at(image, "/file")).getvalue()
        assert kept == self.disk()

    def test_of_two_uploads_at_once_one_is_refused_and_spoils_nothing(self):
        image, real = self.queued(), Image.start_saving

        def second_comes_first(this, **given):
            with mock.patch.object(Image, "start_saving", real):
                assert self.put(image, self.disk()).status_code == 204
            real(this, **given)

        with mock.patch.object(Image, "start_saving", second_comes_first):
            assert self.put(image, TEXT).status_code == 409
        work()
        assert self.status(image) == "active"

    def test_another_media_type_is_415(self):
        image = self.queued()
        for rest in ("/file", "/stage"):
            answer = self.put(image, TEXT, rest, kind="text/plain")
            assert answer.status_code == 415
        assert self.is_as_before(image)

    def test_sizes_that_do_not_fit_are_refused_and_leave_nothing(self):
        image = self.queued()
        for size, status in (("1", 400), ("x", 400), ("-1", 400), ("²", 400)):
            with self.subTest(size):
                answer = self.put(image, TEXT, X_OpenStack_Image_Size=size)
                assert answer.status_code == status, answer.text
                assert self.is_as_before(image)

    def test_a_size_of_thousands_of_digits_is_none(self):
        image = self.queued()
        sent = self.put(image, self.disk(), X_OpenStack_Image_Size="9" * 5000)
        assert sent.status_code == 400
        assert self.is_as_before(image)

    def test_no_data_at_all_changes_nothing(self):
        image = self.queued()
        nothing = {"data": b"", "Content_Type": OCTETS}
        assert self.put(image, **nothing).status_code == 204
        assert self.is_as_before(image)
        assert self.stage(image, **nothing).status_code == 400
        assert self.is_as_before(image)

    def test_what_is_too_large_is_413_and_leaves_nothing(self):
        image, size = self.queued(), len(TEXT)
        with self.settings(IMAGES=settings.IMAGES | {"max_upload_bytes": size - 1}):
            assert self.put(image, TEXT).status_code == 413
        self.acme.set_quotas(quota_image_gib=0)
        assert self.put(image, TEXT).status_code == 413
        assert self.stage(image, TEXT).status_code == 413
        assert self.is_as_before(image)

    def test_the_quota_counts_when_all_has_come(self):
        image = self.queued()
        with (
            limited(image_bytes=(17 << 20) + 10),
            mock.patch("images.api.data._bytes_left", return_value=1 << 30),
        ):
            answer = self.put(image, TEXT)
        assert answer.status_code == 413
        assert "exceeds the storage quota" in answer.json()["message"]
        assert self.is_as_before(image)

    def test_a_full_disk_is_413_and_a_store_that_is_away_503(self):
        image = self.queued()
        with mock.patch("images.stores.local.LocalStore.free_bytes", return_value=10):
            assert self.put(image, TEXT).status_code == 413
        with mock.patch(
            "images.stores.local.LocalStore.unavailable_reason", return_value="Away."
        ):
            answer = self.put(image, TEXT)
        assert (answer.status_code, answer["Retry-After"]) == (503, "60")
        assert self.is_as_before(image)

    def test_a_body_that_is_cut_off_leaves_nothing(self):
        image = self.queued()

        def broken(request):
            yield TEXT
            raise OSError("the client has gone")

        for pieces in (broken, lambda request: iter([TEXT[:-1]])):
            with mock.patch("images.api.data._stream", pieces):
                answer = self.put(image, TEXT)
            assert answer.status_code == 400
            assert self.is_as_before(image)

    def test_an_image_deleted_meanwhile_is_410(self):
        image = self.queued()

        def deleted(*args, **given):
            Image.objects.get(pk=image.pk).delete_with_shares(by=self.alice)
            raise Gone

        with mock.patch("images.api.data.receive", deleted):
            answer = self.put(image, TEXT)
        assert answer.status_code == 410
        assert self.files() == []

    def test_who_sends_slowly_says_so_and_hears_that_nobody_waits(self):
        image = self.queued()
        image.start_saving()
        with mock.patch("images.intake.BEAT", -1.0):
            before = image.updated_at
            assert receive(image, [TEXT], limit=1 << 20).size == len(TEXT)
            image.refresh_from_db()
            assert image.updated_at > before
            image.fail("Nobody moved it on.")
            with pytest.raises(Gone):
                receive(image, [TEXT, TEXT], limit=1 << 20)
        self.store.discard(image.pk)

    def test_chunks_are_read_where_the_server_reads_them(self):
        request = RequestFactory().put("/x", headers={"Transfer-Encoding": "chunked"})
        request.environ["wsgi.input"] = mock.Mock(
            read=mock.Mock(side_effect=[b"a", b""])
        )
        with pytest.raises(Exception, match="has to be told"):
            list(_pieces(request))
        request.environ["wsgi.input_terminated"] = True
        assert list(_pieces(request)) == [b"a"]

    def test_only_an_admin_of_images_sends_and_fetches(self):
        image = self.queued()
        self.act_as(Role.IMAGES_CREATOR)
        assert self.put(image, TEXT).status_code == 403
        assert self.call("GET", self.at(image, "/file")).status_code == 403

    def test_only_the_owner_fetches(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        answer = self.call("GET", self.at(self.image, "/file"), by="bob")
        assert answer.status_code == 403
        assert "download_image" in answer.json()["message"]

    def test_without_data_there_is_nothing_to_fetch(self):
        image = self.queued()
        assert self.call("GET", self.at(image, "/file")).status_code == 204

    def test_what_is_deactivated_or_lost_is_not_fetched(self):
        gone = self.call("GET", self.at(self.image, "/file"))
        assert gone.status_code == 404  # the cast's image has no file
        self.image.switch_off()
        assert self.call("GET", self.at(self.image, "/file")).status_code == 403


class ImportTests(DataTestCase):
    def test_what_is_staged_waits_and_is_imported(self):
        image, disk = self.queued(), self.disk()
        assert self.stage(image, disk).status_code == 204
        assert self.status(image) == "uploading"
        assert not waiting("admit")
        assert self.put(image, TEXT).status_code == 409
        assert self.stage(image, TEXT).status_code == 409
        assert self.take_in(image).status_code == 202
        assert self.take_in(image).status_code == 409
        work()
        assert self.status(image) == "active"
        assert self.take_in(image).status_code == 409

    def test_nothing_is_ever_fetched(self):
        image = self.queued()
        for method in ("web-download", "glance-download", "copy-image", 1):
            answer = self.take_in(image, method)
            assert answer.status_code == 400
            assert "Unknown import method" in answer.json()["message"]
        for body in ({}, [], {"method": "glance-direct"}, {"method": {}}):
            answer = self.call("POST", self.at(image, "/import"), body)
            assert answer.status_code == 400

    def test_it_has_to_be_staged_and_to_have_formats(self):
        assert self.take_in(self.queued()).status_code == 409
        image = self.queued("", "")
        self.stage(image, TEXT)
        answer = self.take_in(image)
        assert answer.status_code == 409
        assert "needs to be set before import" in answer.json()["message"]

    def test_staged_data_of_another_format_is_given_up(self):
        image = self.queued("qcow2")
        self.stage(image, TEXT)
        assert self.take_in(image).status_code == 415
        assert self.is_as_before(image)

    def test_staged_data_stays_where_it_could_not_be_looked_at(self):
        image = self.queued()
        self.stage(image, self.disk())
        slow = StoreError("Checking the image took too long: please try again later.")
        with mock.patch.object(LocalStore, "inspect", side_effect=slow):
            assert self.take_in(image).status_code == 503
        assert self.status(image) == "uploading"
        assert self.take_in(image).status_code == 202
        work()
        assert self.status(image) == "active"

    def test_staged_data_goes_with_an_image_that_is_deleted_just_then(self):
        image, inspect = self.queued(), LocalStore.inspect
        self.stage(image, self.disk())

        def deleted(store, upload_id, **options):
            self.call("DELETE", self.at(image))
            return inspect(store, upload_id, **options)

        with mock.patch.object(LocalStore, "inspect", deleted):
            assert self.take_in(image).status_code == 410
        work()
        assert self.files() == []

    def test_staged_data_goes_with_its_image(self):
        image = self.queued()
        self.stage(image, TEXT)
        assert self.call("DELETE", self.at(image)).status_code == 204
        work()
        assert self.files() == []

    def test_a_job_leaves_staged_data_alone(self):
        image = self.queued()
        self.stage(image, self.disk())
        defer_admit(image)
        work()
        assert self.status(image) == "uploading"
        assert self.take_in(image).status_code == 202
        work()
        assert self.status(image) == "active"

    def test_staging_that_a_killed_process_began_is_begun_anew(self):
        image = self.queued()
        image.start_staging()
        self.leave(image, b"the beginning")
        assert self.stage(image, self.disk()).status_code == 409
        assert self.cut_off(since=HOUR_AGO) == []
        twice = [self.cut_off(), self.cut_off()]
        self.mend(twice[0])
        assert self.is_as_before(image)
        assert self.stage(image, self.disk()).status_code == 204
        self.mend(twice[1])
        assert self.cut_off() == []
        assert self.take_in(image).status_code == 202
        work()
        assert self.status(image) == "active"

    def test_an_import_that_a_killed_process_began_can_be_asked_for_again(self):
        image = self.queued("iso")
        self.stage(image, self.disk())
        image.refresh_from_db()
        image.start_saving(staged=True)
        self.mend(self.cut_off())
        assert self.status(image) == "uploading"
        assert self.take_in(image).status_code == 202
        work()
        image.refresh_from_db()
        assert (image.status, image.is_bootable) == ("active", False)

    def test_an_image_deleted_while_its_data_is_staged_is_410(self):
        image = self.queued()

        def stream(_):
            yield TEXT
            Image.objects.get(pk=image.pk).delete_with_shares(by=self.alice)
            work()
            yield TEXT

        with mock.patch("images.api.data._stream", stream):
            assert self.stage(image, TEXT * 2).status_code == 410
        work()
        assert self.files() == []

    def test_it_counts_against_the_quota_from_the_staging_on(self):
        image = self.queued()
        self.stage(image, TEXT)
        image.refresh_from_db()
        assert image.size == len(TEXT)

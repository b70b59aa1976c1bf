"""Upload Image: real files into a real store, good and bad."""

import hashlib
from unittest import mock

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.wsgi import LimitedStream
from django.test import Client, override_settings

from accounts.models import Quota
from accounts.permissions import Role
from images import tasks
from images.models import Blob, Image
from images.reconciling import STALE_AFTER
from images.stores import StoreError, StoreFull
from servers.reconciling import reconcile_all
from tests.factories import UserFactory
from tests.images.case import HTMX, ImageTestCase, StoreMixin, waiting, work
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu
from tests.limits import limited as holding


def limited(**limits):
    return override_settings(IMAGES=settings.IMAGES | limits)


class UploadTestCase(StoreMixin, ImageTestCase):
    def disk(self, name="web.img"):
        content = corpus.raw_mbr(self.folder / "disk").read_bytes()
        return SimpleUploadedFile(name, content)

    def upload(self, file=None, headers=None, client=None, **fields):
        data = {"file": file or self.disk(), **fields}
        url = self.url("upload", region="IAD")
        return (client or self.client).post(url, data, headers=headers)


@needs_qemu
class GoodUploadTests(UploadTestCase):
    def test_alice_uploads_a_disk_and_it_becomes_active_byte_for_byte(self):
        content = self.disk().read()

        response = self.upload(name="web", description="For the web", os="Debian 13")

        image = Image.objects.get(name="web")
        self.assertRedirects(response, self.url("detail", image.pk, region="IAD"))
        assert image.status == "saving"
        assert image.created_by == "alice"
        assert image.size == len(content)
        assert [job.args for job in waiting("admit")] == [{"image_id": str(image.pk)}]

        work()

        image.refresh_from_db()
        assert image.status == "active"
        assert image.blob.digest == hashlib.sha256(content).hexdigest()
        assert (image.os, image.description) == ("Debian 13", "For the web")
        with self.store.open(image.blob.digest) as file:
            assert file.read() == content
        assert len(self.files()) == 1

    def test_the_file_s_name_is_the_image_s_unless_another_is_given(self):
        self.upload(self.disk("../../Debian <b>é</b>.img"))

        assert Image.objects.filter(owner=self.acme, name="b>.img").exists()

    def test_htmx_is_sent_to_the_image(self):
        response = self.upload(headers=HTMX, name="web")

        image = Image.objects.get(name="web")
        assert response["HX-Redirect"] == self.url("detail", image.pk, region="IAD")

    def test_another_format_is_converted_and_the_page_says_so(self):
        path = corpus.converted(self.folder / "disk.vmdk", "vmdk")

        response = self.client.post(
            self.url("upload"),
            {"file": SimpleUploadedFile("d.vmdk", path.read_bytes()), "name": "web"},
            follow=True,
        )
        work()

        self.assertContains(response, "converted to qcow2")
        image = Image.objects.get(name="web")
        assert image.status == "active"
        assert (image.uploaded_format, image.blob.disk_format) == ("vmdk", "qcow2")

    def test_two_uploads_of_the_same_bytes_are_one_file(self):
        self.upload(name="one")
        self.upload(name="two")
        work()

        assert Blob.objects.count() == 2  # the other is the cast's own
        assert len(self.files()) == 1

        for name in ("one", "two"):
            assert len(self.files()) == 1
            Image.objects.get(name=name).delete_with_shares(by=self.alice)
            work()
        assert self.files() == []

    def test_damage_beyond_the_header_is_told_on_the_image(self):
        path = corpus.garbled_qcow2(self.folder / "bad.qcow2")

        response = self.upload(
            SimpleUploadedFile("bad.qcow2", path.read_bytes()), name="bad"
        )
        assert response.status_code == 302
        work()

        image = Image.objects.get(name="bad")
        assert image.status == "error"
        self.assertContains(self.get("detail", image.pk), "please upload it again")
        assert self.files() == []


@needs_qemu
class BadUploadTests(UploadTestCase):
    def assert_nothing_is_left(self):
        assert not Image.objects.exclude(pk=self.image.pk).exists()
        assert self.files() == []
        assert waiting() == []

    def test_what_is_no_disk_is_refused_beside_the_field_and_the_rest_is_kept(self):
        for headers in (None, HTMX):
            with self.subTest(headers=headers):
                response = self.upload(
                    SimpleUploadedFile("notes.txt", b"Dear diary" * 100),
                    name="my <notes>",
                    headers=headers,
                )

                assert response.status_code == 422
                self.assertContains(response, "errorlist", status_code=422)
                self.assertContains(
                    response, 'value="my &lt;notes&gt;"', status_code=422
                )
                self.assertContains(response, "choose the file again", status_code=422)
                self.assert_nothing_is_left()

    def test_a_bad_field_leaves_no_file_behind(self):
        for name in ("x" * 300, "a\x1b[31mb", "a\nb"):
            with self.subTest(name=name):
                assert self.upload(name=name).status_code == 422
                self.assert_nothing_is_left()

    def test_no_file_at_all(self):
        response = self.client.post(self.url("upload"), {"name": "web"})

        assert response.status_code == 422
        self.assert_nothing_is_left()

    def test_an_empty_file(self):
        response = self.upload(SimpleUploadedFile("empty.img", b""))

        assert response.status_code == 422
        self.assert_nothing_is_left()

    def test_a_file_that_is_too_large_is_refused_before_it_is_read(self):
        with (
            limited(max_upload_bytes=1 << 20),
            mock.patch("images.uploads.StoreUploadHandler") as handler,
        ):
            response = self.upload()

        assert response.status_code == 413
        handler.assert_not_called()
        self.assert_nothing_is_left()

    def test_a_file_a_little_too_large_is_refused_as_it_comes(self):
        with limited(max_upload_bytes=(8 << 20) - 1):
            response = self.upload(name="web")

        self.assertContains(response, "too large", status_code=413)
        self.assert_nothing_is_left()

    def test_a_full_disk(self):
        full = StoreFull("There is no room left for images at the moment.")
        with mock.patch(
            "images.stores.receiving.LocalReceiver.write", side_effect=full
        ):
            response = self.upload()

        self.assertContains(response, "no room left", status_code=422)
        self.assert_nothing_is_left()

    def test_a_disk_that_is_full_in_the_end(self):
        full = StoreFull("There is no room left for images at the moment.")
        with mock.patch(
            "images.stores.receiving.LocalReceiver.finish", side_effect=full
        ):
            response = self.upload()

        self.assertContains(response, "no room left", status_code=422)
        self.assert_nothing_is_left()

    def test_a_disk_that_is_full_already(self):
        with mock.patch("images.stores.local.LocalStore.free_bytes", return_value=0):
            response = self.upload()

        self.assertContains(response, "no room left", status_code=409)
        self.assert_nothing_is_left()

    def test_a_store_that_takes_nothing(self):
        trouble = StoreError("This image is being uploaded already.")
        with mock.patch("images.stores.local.LocalStore.receive", side_effect=trouble):
            response = self.upload()

        self.assertContains(response, "being uploaded already", status_code=422)
        self.assert_nothing_is_left()

    def test_of_two_files_the_first_counts_and_of_other_fields_none(self):
        data = {"file": [self.disk(), self.disk()], "other": self.disk(), "name": "web"}

        assert self.client.post(self.url("upload"), data).status_code == 302
        assert len(self.files()) == 1

    def test_too_many_files(self):
        files = [SimpleUploadedFile(f"{n}.img", b"x") for n in range(101)]
        response = self.upload(self.disk(), more=files)

        assert response.status_code == 400
        assert self.files() == []

    def test_a_connection_that_breaks(self):
        read = LimitedStream.read

        def read_some(stream, size=-1):
            if stream._pos > 1 << 20:
                raise ConnectionResetError
            return read(stream, size)

        with mock.patch.object(LimitedStream, "read", read_some):
            assert self.upload(name="web").status_code == 400

        self.assert_nothing_is_left()

    def test_a_body_that_ends_in_the_middle_of_the_file(self):
        boundary = "frontier"
        whole = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="name"\r\n\r\n'
            f'web\r\n--{boundary}\r\nContent-Disposition: form-data; name="file"; '
            'filename="web.img"\r\nContent-Type: application/octet-stream\r\n\r\n'
        ).encode() + self.disk().read()
        for body in (whole, whole[:-100]):
            response = self.client.generic(
                "POST",
                self.url("upload"),
                body,
                content_type=f"multipart/form-data; boundary={boundary}",
            )

            assert response.status_code == 422
            self.assert_nothing_is_left()

    def test_quotas_are_told_before_the_body_is_read(self):
        for limits in ({"images": 1}, {"image_bytes": 20 << 20}):
            with self.subTest(limits=limits), holding(**limits):
                for headers in (None, HTMX):
                    response = self.upload(headers=headers)
                    self.assertContains(response, "Delete some", status_code=409)
                assert response["HX-Retarget"] == "#problems"
                self.assert_nothing_is_left()

    def test_a_quota_that_is_reached_during_the_upload(self):
        with (
            holding(images=1),
            mock.patch("images.uploads._refuse_early", return_value=None),
        ):
            response = self.upload()

        self.assertContains(
            response, "may have 1 image and has 1 image", status_code=409
        )
        self.assert_nothing_is_left()

    def test_a_forged_request_is_refused_and_its_file_discarded(self):
        client = Client(enforce_csrf_checks=True)
        client.force_login(self.alice)

        assert self.upload(client=client).status_code == 403
        self.assert_nothing_is_left()

    def test_a_true_token_is_taken(self):
        client = Client(enforce_csrf_checks=True)
        client.force_login(self.alice)
        client.get(self.url("upload"))
        token = client.cookies["csrftoken"].value

        response = self.upload(client=client, csrfmiddlewaretoken=token)

        assert response.status_code == 302

    def test_a_creator_cannot_upload(self):
        creator = UserFactory.create(roles=[(self.acme, Role.IMAGES_CREATOR)])
        self.client.force_login(creator)

        assert self.upload().status_code == 403
        assert self.get("upload").status_code == 403
        self.assert_nothing_is_left()

    def test_a_region_that_does_not_exist(self):
        response = self.client.get(self.url("upload", region="MARS"))

        self.assertContains(response, "There is no region MARS")
        self.assertContains(response, "Northern Virginia")

    def test_without_qemu_the_page_says_why(self):
        with mock.patch(
            "images.stores.local.missing_program", return_value="qemu-img is missing."
        ):
            page = self.get("upload")
            answer = self.upload()

        self.assertContains(page, "qemu-img is missing.")
        self.assertNotContains(page, 'type="file"')
        self.assertContains(answer, "qemu-img is missing.", status_code=409)


@needs_qemu
class JobTests(UploadTestCase):
    def setUp(self):
        super().setUp()
        self.upload(name="web")
        self.web = Image.objects.get(name="web")

    def test_a_job_that_runs_twice_does_no_harm(self):
        job = waiting("admit")[0]
        work()
        tasks.admit(mock.Mock(), **job.args)

        self.web.refresh_from_db()
        assert self.web.status == "active"
        assert len(self.files()) == 1

    def test_a_worker_that_dies_after_admitting_is_taken_over(self):
        with (
            mock.patch("images.models.Image.activate", side_effect=SystemExit),
            pytest.raises(SystemExit),
        ):
            work()
        self.web.refresh_from_db()
        assert self.web.status == "saving"

        Image.objects.filter(pk=self.web.pk).update(
            updated_at=self.web.updated_at - STALE_AFTER * 2
        )
        tasks.resume_stale(0)
        tasks.resume_stale(0)
        assert len(waiting("admit")) == 1
        work()

        self.web.refresh_from_db()
        assert self.web.status == "active"
        assert len(self.files()) == 1

    def test_an_image_deleted_meanwhile_leaves_no_file(self):
        self.web.delete_with_shares(by=self.alice)
        work()

        assert self.files() == []

    def test_an_image_deleted_while_it_is_admitted_leaves_no_file(self):
        admit = type(self.store).admit

        def delete_first(store, *args, **kwargs):
            stored = admit(store, *args, **kwargs)
            Image.objects.get(pk=self.web.pk).delete_with_shares(by=self.alice)
            return stored

        with mock.patch("images.stores.local.LocalStore.admit", delete_first):
            work()

        assert self.files() == []
        assert not Image.objects.filter(pk=self.web.pk).exists()

    def test_a_store_in_trouble_is_asked_again_then_the_user_is_told(self):
        trouble = StoreError("The store has a fault.")
        with mock.patch("images.stores.local.LocalStore.admit", side_effect=trouble):
            with pytest.raises(StoreError):
                tasks.admit(mock.Mock(job=mock.Mock(attempts=0)), str(self.web.pk))
            tasks.admit(
                mock.Mock(job=mock.Mock(attempts=tasks.MOST_ATTEMPTS - 1)),
                str(self.web.pk),
            )

        self.web.refresh_from_db()
        assert self.web.status == "error"
        assert self.web.status_reason == "The store has a fault."

    def test_tries_that_others_cut_short_leave_some_for_the_store(self):
        interrupted = StoreError("Checking the image was interrupted.")
        for attempts in range(6):
            with (
                mock.patch(
                    "images.stores.local.LocalStore.admit", side_effect=interrupted
                ),
                pytest.raises(StoreError),
            ):
                tasks.admit(
                    mock.Mock(job=mock.Mock(attempts=attempts)), str(self.web.pk)
                )
            job = mock.Mock(attempts=attempts)
            assert tasks.TAKE_IN_AGAIN.get_retry_decision(
                exception=interrupted, job=job
            )
        self.web.refresh_from_db()
        assert self.web.status == "saving"

    def test_a_disk_that_needs_more_than_its_file_counts_in_full(self):
        sent = Image.objects.filter(pk=self.web.pk)
        held = self.acme.quota_uses(Quota.IMAGE_BYTES)[0].used
        sent.update(size=1000)
        with holding(image_bytes=held - self.web.size + 2000):
            work()
        self.web.refresh_from_db()
        assert self.web.status == "error"
        assert "more room than its file" in self.web.status_reason
        assert self.web.size == 0
        assert self.files() == []

    def test_an_upload_that_vanished_is_told(self):
        self.store.discard(self.web.pk)
        work()

        self.web.refresh_from_db()
        assert self.web.status == "error"

    def test_the_hourly_look_takes_only_what_is_old_and_nobody_s(self):
        orphan = corpus.raw_mbr(self.folder / "orphan")
        with self.store.receive(self.image.pk, limit=1 << 30) as receiver:
            receiver.write(orphan.read_bytes())
            receiver.finish()
        reconcile_all(0)
        assert len(self.files()) == 2

        with mock.patch("servers.reconciling.ORPHANED_AFTER", -STALE_AFTER):
            reconcile_all(0)
        assert self.files() == [f"uploads/{self.web.pk}.data"]

    def test_the_hourly_look_removes_a_blob_without_a_row(self):
        work()
        Image.objects.filter(pk=self.web.pk).update(
            status="error", blob=None, updated_at=self.web.updated_at
        )
        with mock.patch("servers.reconciling.ORPHANED_AFTER", -STALE_AFTER):
            reconcile_all(0)
            work()

        assert self.files() == []

    def test_changed_bytes_are_found_and_the_image_is_deactivated(self):
        work()
        self.web.refresh_from_db()
        path = self.store.path(self.web.blob.digest)
        path.chmod(0o644)
        kept = path.read_bytes()
        path.write_bytes(b"x" + kept[1:])
        tasks.verify(0)

        self.web.refresh_from_db()
        assert self.web.status == "deactivated"
        self.assertContains(self.get("detail", self.web.pk), "damaged")

        path.write_bytes(kept)
        tasks.verify(0)
        self.web.refresh_from_db()
        assert (self.web.status, self.web.status_reason) == ("active", "")

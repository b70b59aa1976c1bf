"""Downloads: byte for byte, whole or in part."""

import base64
import hashlib
from unittest import mock

from accounts.permissions import Role
from images.models import Blob, Image
from images.stores import Unavailable
from tests.factories import ImageFactory, ImageShareFactory, UserFactory
from tests.images.case import ImageTestCase, StoreMixin

CONTENT = bytes(range(256)) * 4096


class DownloadTests(StoreMixin, ImageTestCase):
    def setUp(self):
        super().setUp()
        self.digest = hashlib.sha256(CONTENT).hexdigest()
        path = self.folder / "images/blobs" / self.digest[:2] / f"{self.digest}.raw"
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        blob = Blob.objects.create(
            backend="local",
            digest=self.digest,
            size=len(CONTENT),
            virtual_size=len(CONTENT),
            disk_format="raw",
        )
        self.mine = ImageFactory.create(owner=self.acme, name="wéb/image", blob=blob)

    def download(self, method="get", **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = getattr(self.client, method)
        return request(self.url("download", self.mine.pk), headers=names)

    def body(self, **headers):
        response = self.download(**headers)
        return response.status_code, b"".join(response.streaming_content)

    def test_the_whole_file_comes_as_it_is(self):
        response = self.download()

        assert b"".join(response.streaming_content) == CONTENT
        assert response["Content-Length"] == str(len(CONTENT))
        assert response["Accept-Ranges"] == "bytes"
        assert response["ETag"] == f'"{self.digest}"'
        told = response["Repr-Digest"].removeprefix("sha-256=:").removesuffix(":")
        assert base64.b64decode(told).hex() == self.digest
        assert response["Content-Disposition"] == (
            "attachment; filename*=utf-8''w%C3%A9b_image.raw"
        )

    def test_parts(self):
        size = len(CONTENT)
        for asked, part in {
            "bytes=0-0": CONTENT[:1],
            "bytes=100-299999": CONTENT[100:300000],
            "bytes=1000000-": CONTENT[1000000:],
            "bytes=-500": CONTENT[-500:],
            f"bytes={size - 1}-{size + 100}": CONTENT[-1:],
            f"bytes=-{size * 2}": CONTENT,
        }.items():
            with self.subTest(asked=asked):
                response = self.download(range=asked)
                assert response.status_code == 206
                body = b"".join(response.streaming_content)
                assert body == part
                assert response["Content-Length"] == str(len(part))
                first, last = response["Content-Range"][6:].split("/")[0].split("-")
                assert CONTENT[int(first) : int(last) + 1] == part

    def test_parts_that_there_are_not(self):
        for asked in (f"bytes={len(CONTENT)}-", "bytes=-0", "bytes=99999999999-"):
            with self.subTest(asked=asked):
                response = self.download(range=asked)
                assert response.status_code == 416
                assert response["Content-Range"] == f"bytes */{len(CONTENT)}"

    def test_what_is_not_understood_brings_the_whole_file(self):
        for asked in ("bytes=0-1,5-6", "lines=1-2", "bytes=5-1", "bytes=-", "x"):
            with self.subTest(asked=asked):
                assert self.body(range=asked) == (200, CONTENT)

    def test_a_part_of_another_file_is_never_sent(self):
        right = {"range": "bytes=0-1", "if_range": f'"{self.digest}"'}
        assert self.body(**right) == (206, CONTENT[:2])
        assert self.body(range="bytes=0-1", if_range='"other"') == (200, CONTENT)

    def test_head_tells_the_length_alone(self):
        response = self.download("head")

        assert response["Content-Length"] == str(len(CONTENT))
        assert not b"".join(response)

    def test_only_an_active_image_is_downloaded(self):
        Image.objects.filter(pk=self.mine.pk).update(status="deactivated")

        self.assertContains(self.download(), "not Active", status_code=409)

    def test_a_file_that_is_gone_is_told(self):
        Blob.objects.filter(pk=self.mine.blob.pk).update(digest="0" * 64)

        assert self.download().status_code == 409

    def test_a_disk_that_cannot_be_read_just_now_is_told(self):
        away = mock.Mock(side_effect=Unavailable("It cannot be read at the moment."))
        with mock.patch("images.stores.local.LocalStore.open", away):
            answer = self.download()
        self.assertContains(answer, "cannot be read at the moment", status_code=409)

    def test_bob_cannot_download_what_he_accepted(self):
        ImageShareFactory.create(image=self.mine, consumer=self.beta, accepted=True)
        self.client.force_login(self.bob)

        url = self.url("download", self.mine.pk, account=self.beta)
        assert self.client.get(url).status_code == 404

    def test_an_observer_cannot_download(self):
        observer = UserFactory.create(roles=[(self.acme, Role.IMAGES_CREATOR)])
        self.client.force_login(observer)

        assert self.download().status_code == 403

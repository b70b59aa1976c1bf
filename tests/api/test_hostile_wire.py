"""What only a real server and real sockets show: bodies that are cut off, uploads at
once, requests that are none. Nothing is half done, and the server goes on.
"""

import http.client
import json
import os
import shutil
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from unittest import mock

import pytest
from django.test import TransactionTestCase

from accounts.models import Token
from accounts.permissions import Role
from images.models import Image
from images.stores.checking import missing_program
from tests.factories import AccountFactory, UserFactory
from tests.images.case import StoreMixin
from tests.worker import running_web_server

SECONDS = 30
DATA = b"no disk at all\n" * 20_000
OCTETS = "application/octet-stream"


@pytest.mark.qemu
@pytest.mark.skipif(bool(missing_program()), reason=missing_program())
class WireTests(StoreMixin, TransactionTestCase):
    def setUp(self):
        super().setUp()
        self.acme = AccountFactory.create(name="Acme")
        self.alice = UserFactory.create(roles=[(self.acme, Role.USER_ADMIN)])
        issued = Token.objects.issue(self.alice, self.acme, methods=["password"])
        self.plain = issued.plain
        self.others = []  # the files of images that have theirs
        log = Path(tempfile.mkdtemp(), "web.log")
        self.addCleanup(shutil.rmtree, log.parent)
        with mock.patch.dict(os.environ, {"UPLOAD_WAIT_SECONDS": "0"}):
            self.address = self.enterContext(running_web_server(log))

    def queued(self):
        return Image.objects.register(
            self.acme,
            region=self.acme.home_region_id,
            by=self.alice,
            container_format="bare",
            disk_format="raw",
        )

    def path(self, image, rest="/file"):
        return f"/image/{self.acme.home_region_id}/v2/images/{image.pk}{rest}"

    def request(self, method, path, body=None, **headers):
        host = http.client.HTTPConnection(self.address, timeout=SECONDS)
        self.addCleanup(host.close)
        sent = {"X-Auth-Token": self.plain, "Accept": "application/json"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        host.request(method, path, body, sent)
        answer = host.getresponse()
        return answer.status, answer.read()

    def send_raw(self, data):
        """Send these bytes and no more; the status and body of the answer, if any."""
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection)
            try:
                answer.begin()
                return answer.status, answer.read()
            except (http.client.HTTPException, ConnectionError):
                return None

    def head(self, method, path, *lines):
        wanted = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.address}",
            f"X-Auth-Token: {self.plain}",
            "Accept: application/json",
            "Connection: close",
            *lines,
        ]
        return "\r\n".join([*wanted, "", ""]).encode("latin-1")

    def assert_as_before(self, image):
        """Also at once after the answer; the row may be set back a moment later."""
        deadline = time.monotonic() + SECONDS
        while self.state(image) != ("queued", 0, False, self.others):
            assert time.monotonic() < deadline, self.state(image)
            time.sleep(0.1)

    def state(self, image):
        image.refresh_from_db()
        return image.status, image.size, image.staged, self.files()

    def test_a_body_that_is_cut_off_leaves_nothing(self):
        for rest in ("/file", "/stage"):
            image = self.queued()
            octets = f"Content-Type: {OCTETS}"
            for lines, sent in (
                ([f"Content-Length: {len(DATA)}"], DATA[:-100]),
                ([f"Content-Length: {len(DATA)}"], b""),
                (["Transfer-Encoding: chunked"], b"ffff\r\n" + DATA[:100]),
                (["Transfer-Encoding: chunked"], b"nonsense\r\n"),
            ):
                with self.subTest(rest=rest, lines=lines, sent=len(sent)):
                    head = self.head("PUT", self.path(image, rest), octets, *lines)
                    told = self.send_raw(head + sent)
                    if told:
                        assert told[0] == 400
                        assert json.loads(told[1])["message"]
                    self.assert_as_before(image)
            # It can still be had.
            answer = self.request(
                "PUT", self.path(image, rest), DATA, Content_Type=OCTETS
            )
            assert answer[0] == 204
            self.others = self.files()

    def test_json_that_is_cut_off_makes_nothing(self):
        path = f"/image/{self.acme.home_region_id}/v2/images"
        kind = "Content-Type: application/json"
        head = self.head("POST", path, kind, "Content-Length: 100")
        told = self.send_raw(head + b'{"name": "web"}')
        assert not told or told[0] == 400
        assert not Image.objects.exists()

    def test_more_than_was_announced_is_refused(self):
        image = self.queued()
        for size in (len(DATA) - 1, len(DATA) + 1, 0):
            with self.subTest(size=size):
                status, _ = self.request(
                    "PUT",
                    self.path(image),
                    iter([DATA]),  # in chunks, so that nothing else tells the size
                    Content_Type=OCTETS,
                    X_OpenStack_Image_Size=str(size),
                )
                assert status == 400
                self.assert_as_before(image)

    def test_more_than_the_quota_is_refused_before_and_while_it_comes(self):
        image = self.queued()
        self.acme.set_quotas(quota_image_gib=0)
        for body in (DATA, iter([DATA])):
            with self.subTest(chunked=not isinstance(body, bytes)):
                status, _ = self.request(
                    "PUT", self.path(image), body, Content_Type=OCTETS
                )
                assert status == 413
                self.assert_as_before(image)

    def test_of_uploads_at_once_one_is_taken_whole(self):
        for rest in ("/file", "/stage"):
            with self.subTest(rest=rest):
                image, barrier = self.queued(), Barrier(3)

                def upload(letter, image=image, barrier=barrier, rest=rest):
                    barrier.wait(SECONDS)
                    body = letter * len(DATA)
                    return self.request(
                        "PUT", self.path(image, rest), body, Content_Type=OCTETS
                    )

                before = self.files()
                with ThreadPoolExecutor(3) as pool:
                    answers = list(pool.map(upload, (b"a", b"b", b"c")))
                assert sorted(status for status, _ in answers) == [204, 409, 409]
                for status, body in answers:
                    assert status == 204 or "transition" in json.loads(body)["message"]
                (kept,) = set(self.files()) - set(before)
                content = (self.folder / "images" / kept).read_bytes()
                winner = [status for status, _ in answers].index(204)
                assert content == b"abc"[winner : winner + 1] * len(DATA)

    def test_what_is_no_request_is_4xx_and_the_server_goes_on(self):
        path = f"/image/{self.acme.home_region_id}/v2/images"
        for data in (
            self.head("GET", f"{path}?name={'x' * 9000}"),
            self.head("GET", path, f"X-Long: {'x' * 9000}"),
            self.head("GET", path, *[f"X-{n}: y" for n in range(200)]),
            self.head("GET", path, "Content-Length: -1"),
            self.head("GET", path, "Content-Length: 1", "Content-Length: 2"),
            self.head("GET", path, "No colon at all"),
            self.head("GET", path + "/\xff\xfe"),
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ):
            with self.subTest(data=data[:60]):
                told = self.send_raw(data)
                assert not told or 400 <= told[0] < 500, told
                assert self.request("GET", path)[0] == 200

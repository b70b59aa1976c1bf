"""Wrong input to every operation of the API: the right 4xx in the service's own form,
nothing done, and no word on what belongs to others.
"""

import json
import re
from datetime import timedelta
from uuid import uuid4

from django.utils import timezone

from accounts.models import ApplicationCredential, Token
from accounts.permissions import Role
from images.models import Image
from servers.models import Server, SSHKey
from sharing.models import ImageShare, ShareEvent
from tests.api.client import ApiTestCase
from tests.factories import ImageFactory, ImageShareFactory, RegionFactory
from tests.servers.factories import FlavorFactory, ServerFactory, SSHKeyFactory
from tests.servers.fakes import FakeComputeMixin

KEPT = [Image, ImageShare, ShareEvent, Server, SSHKey, ApplicationCredential]
NO_JSON = {
    "cut off": b'{"name": "we',
    "a second value": b"{} {}",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "half a pair of surrogates": b'{"name": "\\ud800"}',
    "UTF-16": '{"name": "web"}'.encode("utf-16"),
    "no number of JSON": b'{"min_disk": NaN}',
    "too deep": b"[" * 100_000 + b"]" * 100_000,
    "a text": b'"web"',
    "null": b"null",
    "nothing": b"",
    "zeroes": b"\0" * 100,
}
WRONG = {
    "an empty object": {},
    "an empty list": [],
    "a list in the place of an object": [{}],
    "numbers": {"name": 1, "server": 1, "keypair": 1, "auth": 1, "member": 1},
    "lists": {"server": [], "keypair": [], "auth": [], "application_credential": []},
    "names that are reserved": {
        "id": "x",
        "owner": "82000126",
        "status": "active",
        "os_glance_importing": "x",
        "location": "file:///etc/passwd",
        "deleted": True,
    },
    "Python's own names": {"__class__": "x", "__init__": {}, "constructor": {}},
    "a number that is too large": {"min_disk": 10**400, "min_ram": 1e308},
}
# What an empty object or list is good for.
FINE = {("POST", "/image/{region}/v2/images"), ("PATCH", "an empty list")}


def as_bytes(value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class HostileTestCase(FakeComputeMixin, ApiTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        RegionFactory.create(code="LON")
        FlavorFactory.create()
        SSHKeyFactory.create(account=cls.acme, name="laptop")
        cls.credential = ApplicationCredential.objects.make(
            cls.alice, cls.acme, name="deploy", roles=[Role.USER_ADMIN]
        )
        cls.offered = ImageFactory.create(owner=cls.beta)
        ImageShareFactory.create(image=cls.offered, consumer=cls.acme)

    def setUp(self):
        super().setUp()
        self.server = ServerFactory.create(account=self.acme, active=True)
        self.plain = self.token(self.alice, self.acme)

    def operations(self):
        """Method, path, and what the document says, of all there are."""
        for service in ("identity", "image", "compute"):
            paths = self.client.get(f"/{service}/openapi.json").json()["paths"]
            for path, operations in paths.items():
                for method, operation in operations.items():
                    yield method.upper(), path, operation

    def real(self, path, **changes):
        """The path with Alice's own things in it."""
        own = {
            "region": "IAD",
            "image_id": self.image.pk,
            "member_id": self.beta.pk,
            "server_id": self.server.pk,
            "flavor_id": "small",
            "user_id": self.alice.pk,
            "project_id": self.acme.pk,
            "domain_id": "default",
            "credential_id": self.credential.pk.hex,
            "task_id": uuid4(),
            "tag": "golden",
            "name": "image" if "schemas" in path else "laptop",
        }
        return path.format(**own | changes)

    def send(self, method, path, data=b"", kind="application/json", **headers):
        sent = {"X-Auth-Token": self.plain, "Accept": "application/json"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        return self.client.generic(method, path, data, content_type=kind, headers=sent)

    def kept(self):
        """All that a request could have changed, but for the times of use."""
        rows = [list(model.objects.order_by("pk").values()) for model in KEPT]
        return json.dumps(rows, default=str), self.compute.deeds

    def assert_refused(self, response, *statuses):
        assert response.status_code in (statuses or range(400, 500)), response.text
        assert response["X-Openstack-Request-Id"].startswith("req-")
        if response.request["REQUEST_METHOD"] == "HEAD":
            return
        body = response.json()
        told = body.get("error", body)
        told = told if "message" in told else next(iter(told.values()))
        assert told["message"]
        assert str(response.status_code) in str(told["code"])


class BodyTests(HostileTestCase):
    def with_bodies(self):
        for method, path, operation in self.operations():
            for kind in operation.get("requestBody", {}).get("content", {}):
                if "json" in kind:
                    yield method, path, kind

    def test_what_is_no_json_is_400_and_changes_nothing(self):
        before, tried = self.kept(), 0
        for method, path, kind in self.with_bodies():
            for what, data in NO_JSON.items():
                with self.subTest(method=method, path=path, what=what):
                    response = self.send(method, self.real(path), data, kind)
                    # What has no body has no media type either.
                    self.assert_refused(response, 400 if data else 415, 400)
                    tried += 1
        assert tried > 100
        assert self.kept() == before

    def test_json_of_another_shape_is_4xx_and_changes_nothing(self):
        before, tried = self.kept(), 0
        for method, path, kind in self.with_bodies():
            for what, body in WRONG.items():
                if {(method, path), (method, what)} & FINE and not body:
                    continue
                with self.subTest(method=method, path=path, what=what):
                    data = as_bytes(body)
                    response = self.send(method, self.real(path), data, kind)
                    self.assert_refused(response, 400, 403, 413)
                    tried += 1
        assert tried > 80
        assert self.kept() == before

    def test_a_body_larger_than_any_can_be_is_413(self):
        huge = json.dumps({"name": "x" * (3 << 20)}).encode()
        for method, path, kind in self.with_bodies():
            with self.subTest(method=method, path=path):
                self.assert_refused(self.send(method, self.real(path), huge, kind), 413)

    def test_another_charset_than_utf_8_is_not_read_as_it(self):
        body = '{"name": "Ünïcode"}'.encode("latin-1")
        kind = "application/json; charset=latin-1"
        response = self.send("POST", "/image/IAD/v2/images", body, kind)
        self.assert_refused(response, 400)


class AddressTests(HostileTestCase):
    def test_an_id_that_is_none_is_4xx_and_changes_nothing(self):
        before, tried = self.kept(), 0
        names = re.compile("{([a-z_]+)}")
        for method, path, _ in self.operations():
            for name in set(names.findall(path)) - {"tag", "task_id"}:
                for wrong in ("1", "%00", "%FF", "a%2F..%2Fb", "%0d%0aX:1", "x" * 3000):
                    with self.subTest(method=method, path=path, name=name, wrong=wrong):
                        address = self.real(path, **{name: wrong})
                        response = self.send(method, address)
                        if is_for_any(path, name) and response.status_code == 200:
                            continue
                        self.assert_refused(response)
                        tried += 1
        assert tried > 300
        assert self.kept() == before

    def test_a_marker_that_is_none_is_400(self):
        for path in ("/image/IAD/v2/images", "/compute/IAD/v2.1/servers"):
            for marker in ("x", "%00", "%FF", uuid4(), self.offered_elsewhere()):
                with self.subTest(path=path, marker=marker):
                    self.assert_refused(
                        self.send("GET", f"{path}?marker={marker}"), 400
                    )

    def offered_elsewhere(self):
        return ImageFactory.create(owner=self.acme, region_id="LON").pk

    def test_long_headers_change_nothing(self):
        for name in ("X-Subject-Token", "OpenStack-API-Version", "Range", "Accept"):
            for text in ("x" * 8000, "\xff\xfe", "bytes=99999999999999999999-"):
                with self.subTest(name=name, text=text[:9]):
                    for path in ("/image/IAD/v2/images", "/compute/IAD/v2.1/servers"):
                        response = self.send("GET", path, **{name: text})
                        assert response.status_code in {200, 406}


def is_for_any(path, name):
    """Extra specs are none whatever the flavor is called."""
    return name == "flavor_id" and path.endswith("os-extra_specs")


class TokenTests(HostileTestCase):
    def test_no_operation_takes_a_token_that_is_none(self):
        revoked = self.token(self.alice, self.acme)
        Token.objects.revoke(revoked)
        expired = Token.objects.issue(self.alice, self.acme, methods=["password"])
        over = timezone.now() - timedelta(seconds=1)
        Token.objects.filter(pk=expired.pk).update(expires_at=over)
        late = expired.plain
        before, tried = self.kept(), 0
        for method, path, operation in self.operations():
            for token in ("", revoked, late, "x" * 8000, "\xff", f"{self.plain} "):
                if "security" in operation:
                    with self.subTest(method=method, path=path, token=token[:9]):
                        response = self.send(
                            method, self.real(path), X_Auth_Token=token
                        )
                        self.assert_refused(response, 401)
                        tried += 1
        assert tried > 300
        assert self.kept() == before

    def test_a_token_for_no_account_opens_nothing_of_one(self):
        self.plain = self.token(self.alice, None)
        for method, path, operation in self.operations():
            if "security" in operation and not path.startswith("/identity"):
                with self.subTest(method=method, path=path):
                    response = self.send(method, self.real(path), b"{}")
                    self.assert_refused(response, 400, 403)

    def test_what_is_in_one_region_is_not_in_another(self):
        for method, path, _ in self.operations():
            if "{image_id}" in path or "{server_id}" in path:
                with self.subTest(method=method, path=path):
                    elsewhere = self.real(path, region="LON")
                    response = self.send(method, elsewhere, *self.fitting(method, path))
                    self.assert_refused(response, 404)

    def test_not_yours_and_not_there_are_one_answer_to_the_byte(self):
        """Whatever is asked of another account's image, server, project or user."""
        self.plain = self.token(self.carol, self.corp)
        seen = 0
        for method, path, _ in self.operations():
            for name, theirs, gone in (
                ("image_id", self.image.pk, uuid4()),
                ("server_id", self.server.pk, uuid4()),
                ("project_id", self.acme.pk, "82999999"),
                ("user_id", self.alice.pk, "987654"),
            ):
                if f"{{{name}}}" not in path:
                    continue
                with self.subTest(method=method, path=path):
                    answers = [
                        self.answer_without(method, path, name, key)
                        for key in (theirs, gone)
                    ]
                    assert answers[0] == answers[1]
                    assert answers[0][0] in {403, 404}
                    seen += 1
        assert seen > 25

    def test_a_credential_of_another_is_like_none(self):
        theirs = ApplicationCredential.objects.make(
            self.bob, self.beta, name="bob's", roles=[Role.USER_ADMIN]
        )
        path = "/identity/v3/users/{user_id}/application_credentials/{credential_id}"
        for method in ("GET", "DELETE"):
            answers = [
                self.answer_without(method, path, "credential_id", key)
                for key in (theirs.pk.hex, uuid4().hex)
            ]
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        assert ApplicationCredential.objects.filter(pk=theirs.pk).exists()

    def answer_without(self, method, path, name, key):
        """Status, headers and body, with neither the key nor the request's ID."""
        sent = self.fitting(method, path)
        response = self.send(method, self.real(path, **{name: key}), *sent)
        headers = dict(response.headers)
        assert headers.pop("X-Openstack-Request-Id")
        return (
            response.status_code,
            sorted(headers.items()),
            response.text.replace(str(key), "KEY"),
        )

    def fitting(self, method, path):
        """A sound body for it, so that nothing but the key can be wrong."""
        if method == "PATCH":
            kind = "application/openstack-images-v2.1-json-patch"
            return b'[{"op": "replace", "path": "/name", "value": "mine"}]', kind
        if path.endswith(("/file", "/stage")):
            return b"data", "application/octet-stream"
        bodies = {
            "/members": {"member": self.beta.pk},
            "/import": {"method": {"name": "glance-direct"}},
            "/action": {"os-stop": None},
            "/application_credentials": {"application_credential": {"name": "mine"}},
            "{server_id}": {"server": {"name": "mine"}},
            "{member_id}": {"status": "accepted"},
        }
        fits = (body for end, body in bodies.items() if path.endswith(end))
        return json.dumps(next(fits, {})).encode(), "application/json"

"""Thousands of requests made up from the three OpenAPI documents, by Schemathesis.

Each test takes one document with sound or with unsound input and goes round its
operations: each request for Alice and for somebody else, most of them with the IDs of
what is really there. The seeds are fixed, so that a run finds what the last one found.
"""

import itertools
import json
import logging
import re
import sys
from collections import Counter
from random import Random
from unittest import mock

import pytest
import schemathesis
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.test import override_settings
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as fuzzing
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core import NotSet
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts.api import tokens
from accounts.models import ApplicationCredential
from accounts.permissions import Role
from images.api.patches import NEW, OLD
from images.models import Image
from tests.api.client import ApiTestCase
from tests.factories import PASSWORD, ImageFactory, ImageShareFactory, UserFactory
from tests.servers.factories import (
    FlavorFactory,
    ServerFactory,
    SSHKeyFactory,
)
from tests.servers.fakes import FakeComputeMixin

SOUND, UNSOUND = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# How many requests each test makes at least.
REQUESTS = {
    ("identity", SOUND): 900,
    ("identity", UNSOUND): 400,
    ("image", SOUND): 1600,
    ("image", UNSOUND): 650,
    ("compute", SOUND): 1000,
    ("compute", UNSOUND): 500,
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Without its region or its image a request comes to nothing.
LIKELY = {"region": 0.95, "image_id": 0.9, "server_id": 0.9, "user_id": 0.9}
REQUEST_ID = "x-openstack-request-id"
# The tokens are ours; made up ones would all end at the gate.
CONFIG = SchemathesisConfig.from_dict(
    {"generation": {"with-security-parameters": False}}
)
FAST = fuzzing(
    max_examples=10,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer(NEW, OLD)
def as_json(context, value):
    return {"data": json.dumps(value)}


# Coverage is counted without them: it takes half as long again, and they add nothing.
@pytest.mark.no_cover
class FuzzTests(FakeComputeMixin, ApiTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.alice.set_password(PASSWORD)
        cls.alice.save()
        FlavorFactory.create()
        SSHKeyFactory.create(account=cls.acme, name="laptop")
        offered = ImageFactory.create(owner=cls.beta)
        ImageShareFactory.create(image=offered, consumer=cls.acme)
        accepted = ImageFactory.create(owner=cls.beta)
        ImageShareFactory.create(image=accepted, consumer=cls.acme, accepted=True)
        ImageShareFactory.create(image=cls.image, consumer=cls.beta)
        queued = Image.objects.register(
            cls.acme,
            region="IAD",
            by=cls.alice,
            container_format="bare",
            disk_format="raw",
            properties={"colour": "blue"},
        )
        cls.credential = ApplicationCredential.objects.make(
            cls.alice, cls.acme, name="deploy", roles=[Role.USER_ADMIN]
        )
        base = ImageFactory.create(owner=None)
        cls.images = [
            str(each.pk) for each in (cls.image, queued, offered, accepted, base)
        ]

    def setUp(self):
        super().setUp()
        servers = [
            ServerFactory.create(account=account, active=True)
            for account in (self.acme, self.beta)
        ]
        self.known = known_values(self, servers)
        plain = self.token(self.alice, self.acme)
        self.known["X-Subject-Token"] = [plain]
        few = UserFactory.create(
            roles=[(self.acme, Role.IMAGES_CREATOR), (self.acme, Role.SERVERS_OBSERVER)]
        )
        self.plain = plain
        self.others = [
            self.token(self.bob, self.beta),
            self.token(few, self.acme),
            self.token(self.alice, None),
            "gAAAA-unknown",
            "",
        ]
        patient = settings.API | {"requests_per_minute": 10**9}
        self.enterContext(override_settings(API=patient | {"upload_wait_seconds": 0}))
        self.enterContext(mock.patch.object(tokens, "SIGN_INS_PER_MINUTE", 10**9))
        # The connection holds the test's transaction; Django's client does the same.
        for signal in (request_started, request_finished):
            signal.disconnect(close_old_connections)
            self.addCleanup(signal.connect, close_old_connections)
        self.made, self.different, self.statuses = 0, set(), Counter()
        self.faults = []

    def test_identity_with_sound_input(self):
        self.fuzz("identity", SOUND)

    def test_identity_with_unsound_input(self):
        self.fuzz("identity", UNSOUND)

    def test_image_with_sound_input(self):
        self.fuzz("image", SOUND)

    def test_image_with_unsound_input(self):
        self.fuzz("image", UNSOUND)

    def test_compute_with_sound_input(self):
        self.fuzz("compute", SOUND)

    def test_compute_with_unsound_input(self):
        self.fuzz("compute", UNSOUND)

    def test_they_are_at_least_five_thousand(self):
        assert sum(REQUESTS.values()) >= 5000

    def fuzz(self, service, mode):
        document = schemathesis.openapi.from_wsgi(
            f"/{service}/openapi.json", WSGIHandler(), config=CONFIG
        )
        operations = [each.ok() for each in document.get_all_operations()]
        if mode is UNSOUND:  # any text is sound in a path
            operations = [each for each in operations if each.body or each.query]
        wanted = REQUESTS[service, mode]
        logging.disable(logging.WARNING)  # a line a request
        self.addCleanup(logging.disable, logging.NOTSET)
        self.random = Random(f"{service} {mode}")  # noqa: S311
        # In short rounds, since more of one operation at once takes far longer.
        turns = itertools.cycle(operations)
        for turn in itertools.count():
            if self.made >= wanted:
                break
            self.call_some(service, next(turns), mode, seed(turn))
        statuses, number = sorted(self.statuses.items()), len(self.different)
        counted = f"{self.made} requests, {number} different: {statuses}"
        sys.stdout.write(f"{service}, {mode}, {counted}\n")
        assert not self.faults, "\n\n".join(self.faults[:20])
        # Most of it has to get past the gate, or it would prove little.
        answered = self.statuses.total()
        assert number > wanted / 2
        assert answered >= wanted
        assert self.statuses[401] < answered / 4
        if mode is SOUND:
            done = sum(self.statuses[code] for code in (200, 201, 202, 204))
            assert done > answered / 5

    def call_some(self, service, operation, mode, seeded):
        examples = examples_of(operation)

        @seeded
        @FAST
        @given(case=operation.as_strategy(mode))
        def call(case):
            if examples and self.random.random() < 0.3:
                case.body = self.random.choice(examples)
            self.put_in(case)
            for token in (self.plain, self.random.choice(self.others)):
                self.call_one(service, case, token)

        call()

    def call_one(self, service, case, token):
        headers = {"X-Auth-Token": token, "Accept": "application/json"}
        before = transaction.savepoint_create()
        try:
            response = case.call(headers=headers)
        finally:
            transaction.savepoint_rollback(before)
        self.made += 1
        self.different.add(str((case.path, case.method, token, case)))
        self.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
            assert re.fullmatch("req-[0-9a-f-]{36}", response.headers[REQUEST_ID][0])
            assert response.status_code < 400 or is_error_of(service, response)
        except (FailureGroup, AssertionError, KeyError, ValueError) as fault:
            # Raised in here, Hypothesis would try it again with another choice.
            self.faults.append(f"{case.as_curl_command()}\n{fault}")

    def put_in(self, case):
        """Put what is there in the place of most of what was made up, by its name."""
        for place in (case.path_parameters, case.query, case.headers):
            for name in place:
                place[name] = self.real(name, place[name])
        if not isinstance(case.body, NotSet):
            case.body = self.with_real(case.body)

    def with_real(self, body):
        if isinstance(body, list):
            return [self.with_real(each) for each in body]
        if not isinstance(body, dict):
            return body
        return {
            name: self.real(name, self.with_real(value)) for name, value in body.items()
        }

    def real(self, name, value):
        known, likely = self.known.get(name), LIKELY.get(name, 0.6)
        if not (known and isinstance(value, str)) or self.random.random() > likely:
            return value
        return self.random.choice(known)


def examples_of(operation):
    """Bodies that the document shows; they are to be taken as they stand."""
    body = operation.definition.raw.get("requestBody", {})
    kinds = body.get("content", {}).values()
    return [kind["example"] for kind in kinds if "example" in kind]


def is_error_of(service, response):
    """In the shape that the clients of the service read."""
    status, body = response.status_code, json.loads(response.content)
    if service == "identity":
        told = body["error"]
        return told["code"] == status and told["title"] and told["message"]
    if service == "image":
        return body["code"].startswith(f"{status} ") and body["message"]
    ((_, told),) = body.items()
    return told["code"] == status and told["message"]


def known_values(cast, servers):
    """For names of parameters and of members of bodies: what is really there."""
    pks = [str(each.pk) for each in servers]
    accounts = [cast.acme.pk, cast.beta.pk, cast.corp.pk]
    return {
        "region": ["IAD"],
        "image_id": cast.images,
        "imageRef": cast.images,
        "uuid": cast.images,
        "marker": [*cast.images, *pks],
        "server_id": pks,
        "flavor_id": ["small"],
        "flavorRef": ["small"],
        "key_name": ["laptop"],
        "user_id": [*[str(cast.alice.pk)] * 4, str(cast.bob.pk)],
        "project_id": accounts,
        "owner": accounts,
        "member": accounts,
        "member_id": accounts,
        "credential_id": [cast.credential.pk.hex],
        "name": ["laptop", "deploy", "image", "members"],
        "tag": ["golden"],
    }

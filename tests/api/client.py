"""What a client of the API sends, for tests."""

import json

from django.conf import settings
from django.test import override_settings

from accounts.models import Token
from controlpanel.api import rates
from tests.cast import CastTestCase
from tests.factories import PASSWORD

V3 = "/identity/v3"


def by_password(username, password=PASSWORD, scope=None, **user):
    person = {"name": username, "domain": {"id": "default"}, "password": password}
    identity = {"methods": ["password"], "password": {"user": {**person, **user}}}
    return {"auth": {"identity": identity, **({"scope": scope} if scope else {})}}


def for_project(number):
    return {"project": {"id": number}}


@override_settings(API=settings.API | {"upload_wait_seconds": 0})
class ApiTestCase(CastTestCase):
    """Requests with the token of somebody of the cast, in JSON; there is no worker."""

    def setUp(self):
        super().setUp()
        rates.requests.clear()
        rates.sign_ins.clear()

    def token(self, user, account):
        return Token.objects.issue(user, account, methods=["password"]).plain

    def api(self, method, path, body=None, token=None, **headers):
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        if token:
            sent["X-Auth-Token"] = token
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.client.generic(
            method,
            path,
            "" if body is None else data,
            content_type="application/json",
            headers=sent,
        )

from datetime import timedelta
from unittest import mock

from django.test import override_settings
from django.utils import timezone

from accounts.models import ApplicationCredential, Token
from accounts.permissions import Role
from controlpanel.api import rates
from tests.cast import CastTestCase

TOKEN = "/identity/v3/auth/tokens"


class TokenTests(CastTestCase):
    def setUp(self):
        rates.requests.clear()
        self.token = Token.objects.issue(self.alice, self.acme, methods=["password"])

    def look(self, plain=None):
        plain = plain or self.token.plain
        headers = {"X-Auth-Token": plain, "X-Subject-Token": plain}
        return self.client.get(TOKEN, headers=headers)

    def test_a_token_opens_and_says_for_whom(self):
        with self.assertNumQueries(2):  # it is also what is asked about
            response = self.look()
        token = response.json()["token"]
        assert response.status_code == 200
        assert token["user"]["name"] == "alice"
        assert token["project"]["id"] == self.acme.pk
        assert token["roles"] == [
            {"id": "identity:user-admin", "name": "identity:user-admin"}
        ]
        assert {each["type"] for each in token["catalog"]} == {
            "identity",
            "image",
            "compute",
        }

    def test_only_its_hash_is_kept(self):
        kept = Token.objects.values().get()
        assert self.token.plain not in str(kept)

    def test_nobody_is_let_in_without_one(self):
        for headers in ({}, {"X-Auth-Token": ""}, {"X-Auth-Token": "é\x00x"}):
            response = self.client.get(TOKEN, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == 401
            assert response["X-Openstack-Request-Id"].startswith("req-")

    def test_it_dies_with_the_password(self):
        self.alice.set_password("another long pass phrase")
        self.alice.save()
        assert self.look().status_code == 401

    def test_it_dies_with_any_change_of_roles(self):
        self.acme.grant(Role.OBSERVER, to=self.alice)
        assert self.look().status_code == 401

    def test_it_dies_when_the_account_is_suspended(self):
        self.acme.suspend()
        assert self.look().status_code == 401

    def test_it_dies_with_its_user_and_stays_dead(self):
        self.acme.grant(Role.USER_ADMIN, to=self.bob)
        self.alice.deactivate()
        assert self.look().status_code == 401
        self.alice.reactivate()
        assert self.look().status_code == 401

    def test_it_dies_when_it_expires(self):
        Token.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        assert self.look().status_code == 401

    def test_it_dies_with_its_credential(self):
        credential = ApplicationCredential.objects.make(
            self.alice, self.acme, name="deploy", roles=[Role.USER_ADMIN]
        )
        self.token = Token.objects.issue(
            self.alice, self.acme, methods=["x"], credential=credential
        )
        assert self.look().status_code == 200
        assert Token.objects.find(self.token.plain).user.via == "API, credential deploy"
        credential.delete()
        assert self.look().status_code == 401

    def test_an_address_that_is_none_is_answered_in_the_service_s_words(self):
        assert self.client.get("/image/nowhere").json()["code"] == "404 Not Found"
        assert "itemNotFound" in self.client.get("/compute/x/y").json()
        assert self.client.put(TOKEN).status_code == 405

    def test_a_fault_of_ours_is_told_without_details(self):
        with (
            mock.patch.object(
                Token.objects.__class__, "find", side_effect=KeyError("s3cret")
            ),
            self.assertLogs("panel.api", "ERROR"),
        ):
            response = self.look()
        assert response.status_code == 500
        assert "s3cret" not in response.text

    @override_settings(API={"requests_per_minute": 2, "token_hours": 1})
    def test_too_many_requests_are_told_to_wait(self):
        assert [self.look().status_code for _ in range(3)] == [200, 200, 429]
        assert 1 <= int(self.look()["Retry-After"]) <= 60

import json
from datetime import timedelta
from unittest import mock

from axes.models import AccessAttempt
from django.contrib.auth.hashers import get_hasher
from django.utils import timezone

from accounts.models import ApplicationCredential, Token
from accounts.permissions import Role
from tests.api.client import V3, ApiTestCase, by_password, for_project
from tests.factories import PASSWORD, AccountFactory, UserFactory

TOKENS = f"{V3}/auth/tokens"


class IdentityTestCase(ApiTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.dana = UserFactory.create(
            username="dana",
            password=PASSWORD,
            home_account=cls.acme,
            roles=[(cls.acme, Role.ADMIN), (cls.beta, Role.OBSERVER)],
        )

    def sign_in(self, body):
        return self.api("POST", TOKENS, body)

    def credential(self, **changes):
        about = {"name": "deploy", "roles": [Role.ADMIN]} | changes
        return ApplicationCredential.objects.make(self.dana, self.acme, **about)


class PasswordTests(IdentityTestCase):
    def test_a_password_gives_a_token_for_the_project_of_the_scope(self):
        response = self.sign_in(by_password("dana", scope=for_project(self.beta.pk)))
        assert response.status_code == 201
        token = response.json()["token"]
        assert token["project"]["id"] == self.beta.pk
        assert token["methods"] == ["password"]
        assert [role["name"] for role in token["roles"]] == ["observer"]
        plain = response["X-Subject-Token"]
        assert self.api("GET", f"{V3}/projects", token=plain).status_code == 200

    def test_the_catalog_has_each_service_in_each_region(self):
        token = self.sign_in(by_password("dana")).json()["token"]
        image = next(each for each in token["catalog"] if each["type"] == "image")
        urls = {
            each["url"]
            for each in image["endpoints"]
            if each["interface"] == "public" and each["region_id"] == "IAD"
        }
        assert urls == {"http://testserver/image/IAD"}

    def test_a_project_is_found_by_name_and_domain_too(self):
        scope = {"project": {"name": "Beta", "domain": {"name": "Default"}}}
        token = self.sign_in(by_password("dana", scope=scope)).json()["token"]
        assert token["project"]["id"] == self.beta.pk

    def test_a_user_is_found_by_id_too(self):
        body = by_password("dana", id=str(self.dana.pk))
        del body["auth"]["identity"]["password"]["user"]["name"]
        assert self.sign_in(body).status_code == 201

    def test_without_a_scope_it_is_for_the_home_account(self):
        token = self.sign_in(by_password("dana")).json()["token"]
        assert token["project"]["id"] == self.acme.pk

    def test_an_unscoped_token_lists_projects_and_opens_none(self):
        response = self.sign_in(by_password("dana", scope="unscoped"))
        assert "project" not in response.json()["token"]
        plain = response["X-Subject-Token"]
        projects = self.api("GET", f"{V3}/auth/projects", token=plain).json()
        assert [each["name"] for each in projects["projects"]] == ["Acme", "Beta"]

    def test_every_failure_has_one_answer(self):
        namesakes = AccountFactory.create(name="Corp")
        answers = {
            (response.status_code, response.content)
            for response in (
                self.sign_in(by_password("dana", "wrong")),
                self.sign_in(by_password("nobody")),
                self.sign_in(by_password("na\0ne")),
                self.sign_in(by_password("dana", scope=for_project(self.corp.pk))),
                self.sign_in(by_password("dana", scope=for_project("00000000"))),
                self.sign_in(by_password("dana", scope={"system": {"all": True}})),
                self.sign_in(
                    by_password("dana", scope={"project": {"name": namesakes.name}})
                ),
                self.sign_in(by_password("dana", domain={"id": "other"})),
            )
        }
        assert {status for status, _ in answers} == {401}
        assert len(answers) == 1

    def test_it_locks_out_as_the_sign_in_page_does(self):
        for _ in range(5):
            response = self.sign_in(by_password("dana", "wrong"))
        assert response.status_code == 429
        right = self.sign_in(by_password("dana"))
        assert right.status_code == 429
        assert int(right["Retry-After"]) == 900

    def test_a_body_that_is_called_a_form_is_none(self):
        body = json.dumps(by_password("dana", "a guess"))
        kinds = ["multipart/form-data", "application/x-www-form-urlencoded"]
        for kind, more in [*zip(kinds, ["", "&" * 2000], strict=True), (kinds[1], "")]:
            with self.subTest(kind=kind, more=len(more)):
                AccessAttempt.objects.all().delete()
                answer = self.client.generic("POST", TOKENS, body + more, kind)
                assert answer.status_code in {400, 401}
                for attempt in AccessAttempt.objects.all():
                    assert "a guess" not in attempt.post_data
                if answer.status_code == 401:
                    assert AccessAttempt.objects.get().failures_since_start == 1
        for _ in range(5):
            self.client.generic("POST", TOKENS, body, kinds[0])
        assert self.sign_in(by_password("dana")).status_code == 429

    def test_an_id_that_nobody_has_answers_as_one_that_somebody_has(self):
        answers, hashed = [], []
        hasher = type(get_hasher())
        for pk in (self.dana.pk, 999_999_999, "no-number"):
            body = by_password("", "wrong", id=str(pk))
            with mock.patch.object(hasher, "encode", return_value="x") as encode:
                answers.append([])
                for _ in range(6):
                    answers[-1].append(self.sign_in(body).status_code)
                    hashed.append(encode.call_count)
        assert answers[0] == answers[1] == answers[2]
        # It takes as long, too.
        assert hashed[:6] == hashed[6:12] == hashed[12:] == [1, 2, 3, 4, 5, 5]
        assert answers[0][0] == 401
        assert answers[0][-1] == 429

    def test_an_id_does_not_tell_whose_name_is_locked_out(self):
        by_id = by_password("", id=str(self.dana.pk))
        for _ in range(5):
            self.sign_in(by_password("dana", "wrong"))
        assert self.sign_in(by_id).status_code == 401
        for _ in range(5):
            answer = self.sign_in(by_id)
        assert answer.status_code == 429

    def test_the_domain_is_read_without_regard_to_case(self):
        for domain in ({"name": "default"}, {"id": "Default"}, {"name": "DEFAULT"}):
            with self.subTest(domain):
                answer = self.sign_in(by_password("dana", domain=domain))
                assert answer.status_code == 201

    def test_an_id_is_written_in_one_way(self):
        assert self.sign_in(by_password("", id=f"0{self.dana.pk}")).status_code == 401

    def test_a_name_longer_than_any_is_nobody_s(self):
        assert self.sign_in(by_password("x" * 300)).status_code == 401

    def test_a_suspended_account_gives_none(self):
        self.acme.suspend()
        scoped = self.sign_in(by_password("dana", scope=for_project(self.acme.pk)))
        assert scoped.status_code == 401
        assert "suspended" in scoped.json()["error"]["message"]
        assert "project" not in self.sign_in(by_password("dana")).json()["token"]

    def test_what_is_no_sign_in_is_refused_in_words(self):
        for body in (
            b"",
            b"{",
            b"\xff\xfe",
            b"[]",
            {"auth": []},
            {"auth": {"identity": {}}},
            {"auth": {"identity": {"methods": []}}},
            {"auth": {"identity": {"methods": ["password"]}}},
            {"auth": {"identity": {"methods": ["token"]}}},
            {"auth": {"identity": {"methods": ["application_credential"]}}},
            {"auth": {"identity": {"methods": ["totp"]}}},
            {"auth": {"identity": {"methods": ["password"], "password": {"user": 1}}}},
        ):
            with self.subTest(body=body):
                response = self.sign_in(body)
                assert response.status_code == 400
                assert response.json()["error"]["title"] == "Bad Request"


class TokenTests(IdentityTestCase):
    def by_token(self, plain, **auth):
        identity = {"methods": ["token"], "token": {"id": plain}}
        return self.sign_in({"auth": {"identity": identity, **auth}})

    def test_a_token_is_exchanged_for_another_account_and_keeps_its_end(self):
        first = self.sign_in(by_password("dana"))
        plain = first["X-Subject-Token"]
        second = self.by_token(plain, scope=for_project(self.beta.pk))
        token = second.json()["token"]
        assert token["project"]["id"] == self.beta.pk
        assert token["expires_at"] == first.json()["token"]["expires_at"]
        assert token["methods"] == ["password", "token"]

    def test_it_is_exchanged_for_no_account_where_the_user_has_no_role(self):
        plain = self.token(self.dana, self.acme)
        for number in (self.corp.pk, "00000000"):
            response = self.by_token(plain, scope=for_project(number))
            assert response.status_code == 401
        assert self.by_token("rubbish").status_code == 401

    def test_it_is_revoked_once(self):
        plain = self.token(self.dana, self.acme)
        other = self.token(self.dana, self.acme)
        for expected in (204, 404):
            response = self.api("DELETE", TOKENS, token=other, X_Subject_Token=plain)
            assert response.status_code == expected
        assert self.api("GET", f"{V3}/projects", token=plain).status_code == 401

    def test_head_asks_whether_it_is_valid(self):
        plain = self.token(self.dana, self.acme)
        response = self.api("HEAD", TOKENS, token=plain, X_Subject_Token=plain)
        assert (response.status_code, response.content) == (200, b"")

    def test_another_s_token_is_as_unknown_as_none(self):
        mine, theirs = self.token(self.dana, self.acme), self.token(self.bob, self.beta)
        answers = {
            self.api("GET", TOKENS, token=mine, X_Subject_Token=each).content
            for each in (theirs, "rubbish")
        }
        assert len(answers) == 1

    def test_it_stays_dead_when_all_is_as_before(self):
        def give_a_role_and_take_it():
            self.acme.grant(Role.OBSERVER, to=self.dana)
            self.acme.withdraw(Role.OBSERVER, of=self.dana)

        def take_a_role_and_give_it_back():
            self.acme.withdraw(Role.ADMIN, of=self.dana)
            self.acme.grant(Role.ADMIN, to=self.dana)

        def suspend_and_reinstate():
            self.acme.suspend()
            self.acme.reinstate()

        for deed in (
            give_a_role_and_take_it,
            take_a_role_and_give_it_back,
            suspend_and_reinstate,
        ):
            with self.subTest(deed.__name__):
                plain = self.token(self.dana, self.acme)
                deed()
                assert Token.objects.find(plain) is None

    def test_others_end_with_the_roles_that_they_could_get(self):
        others = [self.token(self.dana, each) for each in (None, self.acme)]
        self.beta.withdraw(Role.OBSERVER, of=self.dana)
        self.beta.grant(Role.OBSERVER, to=self.dana)
        assert [Token.objects.find(each) for each in others] == [None, None]

    def test_one_that_was_given_out_in_the_very_moment_stays_dead(self):
        self.acme.suspend()
        plain = self.token(self.dana, self.acme)
        self.acme.reinstate()
        assert Token.objects.find(plain) is None
        self.dana.deactivate()
        plain = self.token(self.dana, self.acme)
        self.dana.reactivate()
        assert Token.objects.find(plain) is None


class CredentialTests(IdentityTestCase):
    def by_credential(self, scope=None, **given):
        identity = {
            "methods": ["application_credential"],
            "application_credential": given,
        }
        extra = {"scope": scope} if scope else {}
        return self.sign_in({"auth": {"identity": identity, **extra}})

    def make(self, plain, **wanted):
        path = f"{V3}/users/{self.dana.pk}/application_credentials"
        return self.api("POST", path, {"application_credential": wanted}, plain)

    def test_it_is_made_shown_once_used_and_deleted(self):
        plain = self.token(self.dana, self.acme)
        made = self.make(plain, name="deploy", expires_at="2999-01-01T00:00:00")
        assert made.status_code == 201
        credential = made.json()["application_credential"]
        # In the one form that Go's clients read.
        assert credential["expires_at"] == "2999-01-01T00:00:00.000000"
        path = f"{V3}/users/{self.dana.pk}/application_credentials/{credential['id']}"
        assert "secret" not in self.api("GET", path, token=plain).text

        response = self.by_credential(id=credential["id"], secret=credential["secret"])
        assert response.status_code == 201
        token = response.json()["token"]
        assert token["project"]["id"] == self.acme.pk
        assert token["application_credential"]["name"] == "deploy"

        assert self.api("DELETE", path, token=plain).status_code == 204
        gone = self.by_credential(id=credential["id"], secret=credential["secret"])
        assert gone.status_code == 401
        old = response["X-Subject-Token"]
        assert self.api("GET", f"{V3}/projects", token=old).status_code == 401

    def test_it_is_found_by_name_and_user_too(self):
        secret = self.credential().secret
        user = {"name": "dana", "domain": {"name": "Default"}}
        response = self.by_credential(name="deploy", user=user, secret=secret)
        assert response.status_code == 201

    def test_its_rights_are_those_that_the_user_has_then(self):
        self.acme.grant(Role.OBSERVER, to=self.dana)
        credential = self.credential(roles=[Role.ADMIN, Role.OBSERVER])
        self.acme.withdraw(Role.ADMIN, of=self.dana)
        response = self.by_credential(id=credential.pk.hex, secret=credential.secret)
        roles = [role["name"] for role in response.json()["token"]["roles"]]
        assert roles == ["observer"]

    def test_it_has_no_role_that_its_user_has_not(self):
        plain = self.token(self.dana, self.acme)
        refused = self.make(plain, name="x", roles=[{"name": "identity:user-admin"}])
        assert refused.status_code == 403
        unknown = self.make(plain, name="x", roles=[{"id": "root"}])
        assert unknown.status_code == 400

    def test_it_makes_and_deletes_no_credential(self):
        credential = self.credential()
        plain = Token.objects.issue(
            self.dana, self.acme, methods=["x"], credential=credential
        ).plain
        assert self.make(plain, name="another").status_code == 403
        path = f"{V3}/users/{self.dana.pk}/application_credentials"
        deleted = self.api("DELETE", f"{path}/{credential.pk.hex}", token=plain)
        assert deleted.status_code == 403

    def test_it_is_for_one_project(self):
        credential = self.credential()
        refused = self.by_credential(
            scope=for_project(self.beta.pk),
            id=credential.pk.hex,
            secret=credential.secret,
        )
        assert refused.status_code == 401
        plain = Token.objects.issue(
            self.dana, self.acme, methods=["x"], credential=credential
        ).plain
        projects = self.api("GET", f"{V3}/auth/projects", token=plain).json()
        assert [each["id"] for each in projects["projects"]] == [self.acme.pk]

    def test_it_expires_and_its_tokens_with_it(self):
        soon = timezone.now() + timedelta(minutes=5)
        credential = self.credential(expires_at=soon)
        token = Token.objects.issue(
            self.dana, self.acme, methods=["x"], credential=credential
        )
        assert token.expires_at == soon
        ApplicationCredential.objects.update(expires_at=timezone.now())
        gone = self.by_credential(id=credential.pk.hex, secret=credential.secret)
        assert gone.status_code == 401

    def test_an_end_beyond_the_calendar_is_refused(self):
        plain = self.token(self.dana, self.acme)
        path = f"{V3}/users/{self.dana.pk}/application_credentials"
        about = {"name": "far", "expires_at": "9999-12-31T23:59:59-12:00"}
        answer = self.api("POST", path, {"application_credential": about}, plain)
        assert answer.status_code == 400
        assert self.api("GET", path, token=plain).status_code == 200

    def test_without_any_of_its_roles_it_opens_nothing(self):
        made = self.credential()
        self.acme.withdraw(Role.ADMIN, of=self.dana)
        sign_in = {"id": made.pk.hex, "secret": made.secret}
        identity = {
            "methods": ["application_credential"],
            "application_credential": sign_in,
        }
        body = {"auth": {"identity": identity}}
        assert self.sign_in(body).status_code == 401
        self.acme.grant(Role.OBSERVER, to=self.dana)
        assert self.sign_in(body).status_code == 401
        self.acme.grant(Role.ADMIN, to=self.dana)
        assert self.sign_in(body).status_code == 201

    def test_a_name_is_used_once(self):
        plain = self.token(self.dana, self.acme)
        statuses = [self.make(plain, name="a").status_code for _ in range(2)]
        assert statuses == [201, 409]

    def test_what_is_no_credential_is_refused(self):
        plain = self.token(self.dana, self.acme)
        for wanted in (
            {},
            {"name": ""},
            {"name": "a\0b"},
            {"name": "a" * 256},
            {"name": "a", "expires_at": "2001-01-01T00:00:00"},
            {"name": "a", "expires_at": "soon"},
            {"name": "a", "unrestricted": True},
            {"name": "a", "secret": "mine"},
            {"name": "a", "roles": "admin"},
        ):
            with self.subTest(wanted=wanted):
                assert self.make(plain, **wanted).status_code == 400
        for found in ("nonsense", "0" * 32, "\0"):
            response = self.by_credential(id=found, secret="x")
            assert response.status_code == 401

    def test_another_s_credentials_are_forbidden(self):
        plain = self.token(self.bob, self.beta)
        path = f"{V3}/users/{self.dana.pk}/application_credentials"
        assert self.api("GET", path, token=plain).status_code == 403
        assert self.make(plain, name="x").status_code == 403


class ProjectTests(IdentityTestCase):
    def test_own_projects_are_shown_and_others_alike_forbidden(self):
        plain = self.token(self.dana, self.acme)
        shown = self.api("GET", f"{V3}/projects/{self.beta.pk}", token=plain)
        assert shown.json()["project"]["name"] == "Beta"
        answers = {
            (response.status_code, response.content)
            for response in (
                self.api("GET", f"{V3}/projects/{self.corp.pk}", token=plain),
                self.api("GET", f"{V3}/projects/00000000", token=plain),
                self.api("GET", f"{V3}/projects?name={self.corp.pk}", token=plain),
                self.api("GET", f"{V3}/projects?name=Corp", token=plain),
                self.api("GET", f"{V3}/projects?name=nobody", token=plain),
            )
        }
        assert {status for status, _ in answers} == {403}
        assert len(answers) == 1

    def test_oneself_is_shown_and_nobody_else(self):
        plain = self.token(self.dana, self.acme)
        me = self.api("GET", f"{V3}/users/{self.dana.pk}", token=plain).json()
        assert me["user"]["name"] == "dana"
        other = self.api("GET", f"{V3}/users/{self.bob.pk}", token=plain)
        unknown = self.api("GET", f"{V3}/users/999999999", token=plain)
        assert (other.status_code, other.content) == (403, unknown.content)

    def test_versions_are_told_to_everybody(self):
        found = self.api("GET", "/identity/")
        assert found.status_code == 300
        assert found.json()["versions"]["values"][0]["id"] == "v3.14"
        for path in ("/identity", "/identity/v3", "/identity/v3/"):
            assert self.api("GET", path).status_code in {200, 300}

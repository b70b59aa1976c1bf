import re
from datetime import timedelta
from unittest import mock

from axes.models import AccessAttempt
from django.conf import settings
from django.db import OperationalError
from django.test import Client, RequestFactory, TestCase, override_settings
from django.urls import reverse
from django.utils import timezone

from accounts.agents import agent_name
from accounts.models import Session, User
from accounts.permissions import Role
from accounts.signin import client_address
from controlpanel import settings as production
from tests.factories import PASSWORD, AccountFactory, UserFactory

LINUX_FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
NEW = "quite another pass phrase"


class SignInTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.acme = AccountFactory.create(name="Acme")
        cls.alice = UserFactory.create(
            username="alice", password=PASSWORD, roles=[(cls.acme, Role.USER_ADMIN)]
        )

    def sign_in(self, client=None, password=PASSWORD, username="alice", **extra):
        return (client or self.client).post(
            reverse("login") + extra.pop("query", ""),
            {"username": username, "password": password},
            **extra,
        )

    def is_signed_in(self, client):
        return client.get(reverse("accounts:security")).status_code == 200


class LoginTests(SignInTestCase):
    def test_alice_signs_in_and_is_led_to_her_account(self):
        response = self.sign_in()
        assert response["Location"] == reverse("home")

        response = self.client.get(reverse("home"))
        assert response["Location"] == reverse("images:list", args=[self.acme.pk])

    def test_alice_comes_back_to_the_page_she_asked_for(self):
        page = reverse("accounts:account", args=[self.acme.pk])
        login = self.client.get(page)["Location"]
        assert login == f"{reverse('login')}?next={page}"

        assert self.sign_in(query=f"?next={page}")["Location"] == page

    def test_no_browser_keeps_a_page_for_after_signing_out(self):
        self.client.force_login(self.alice)
        for name in ("images:list", "accounts:account"):
            with self.subTest(page=name):
                page = self.client.get(reverse(name, args=[self.acme.pk]))
                assert "no-store" in page["Cache-Control"]
                assert "private" in page["Cache-Control"]

    def test_nobody_is_led_to_a_foreign_site(self):
        for foreign in ["https://evil.example", "//evil.example", "/\\evil.example"]:
            with self.subTest(foreign=foreign):
                response = self.sign_in(Client(), query=f"?next={foreign}")
                assert response["Location"] == reverse("home")

    def test_wrong_input_keeps_the_form(self):
        for username, password in [
            ("alice", "wrong"),
            ("nobody", PASSWORD),
            ("alice", ""),
        ]:
            with self.subTest(username=username):
                response = self.sign_in(username=username, password=password)
                assert response.status_code == 422
                self.assertContains(response, f'value="{username}"', status_code=422)

    def test_unknown_user_wrong_password_and_deactivated_user_look_alike(self):
        UserFactory.create(username="former", password=PASSWORD, is_active=False)
        seen = set()
        for username, password in [
            ("nobody", PASSWORD),
            ("alice", "wrong"),
            ("former", PASSWORD),
        ]:
            text = self.sign_in(username=username, password=password).content.decode()
            text = text.replace(username, "…")
            seen.add(
                re.sub(r'(csrfmiddlewaretoken" value=|x-csrftoken"?: )"\w+"', "", text)
            )
        assert len(seen) == 1

    def test_passwords_are_kept_by_argon2(self):
        # The tests themselves run with a quicker hasher, see tools/pytest_postgres.py.
        with self.settings(PASSWORD_HASHERS=production.PASSWORD_HASHERS):
            self.alice.set_password(NEW)
            self.alice.save()
            assert self.alice.password.startswith("argon2$argon2id$")
            self.assertRedirects(
                self.sign_in(password=NEW), reverse("home"), target_status_code=302
            )

    def test_signing_out_needs_a_post_and_ends_the_session(self):
        self.sign_in()
        assert self.client.get(reverse("logout")).status_code == 405

        self.client.post(reverse("logout"))

        assert not self.is_signed_in(self.client)
        assert not self.alice.sessions.exists()


class LockoutTests(SignInTestCase):
    def fail(self, times, **where):
        for _ in range(times):
            response = self.sign_in(password="wrong", **where)
        return response

    def test_after_five_failures_the_right_password_is_refused_too(self):
        assert self.fail(4).status_code == 422
        response = self.fail(1)

        self.assertContains(response, "Wait 15 minutes", status_code=429)
        assert response["Retry-After"] == "900"
        assert self.sign_in().status_code == 429
        assert AccessAttempt.objects.get().username == "alice"

    def test_alice_elsewhere_and_others_here_are_not_locked_out(self):
        self.fail(5)
        UserFactory.create(username="bob", password=PASSWORD)

        assert self.sign_in(REMOTE_ADDR="192.0.2.7").status_code == 302
        assert self.sign_in(Client(), username="bob").status_code == 302

    def test_a_right_password_forgets_the_failures(self):
        self.fail(4)
        self.sign_in()
        assert self.fail(4, client=Client()).status_code == 422

    def test_no_password_is_kept_with_the_failures(self):
        self.fail(1)
        kept = str(list(AccessAttempt.objects.values()))
        assert "wrong" not in kept

    @override_settings(PROXY_COUNT=1)
    def test_behind_a_proxy_the_client_is_locked_out_and_not_the_proxy(self):
        self.fail(5, HTTP_X_FORWARDED_FOR="203.0.113.9, 192.0.2.7")

        for forged in ["192.0.2.7", "198.51.100.1, 192.0.2.7"]:
            response = self.sign_in(HTTP_X_FORWARDED_FOR=forged)
            assert response.status_code == 429
        assert self.sign_in(HTTP_X_FORWARDED_FOR="192.0.2.8").status_code == 302


class ClientAddressTests(TestCase):
    def address(self, forwarded=None, remote="127.0.0.1", proxies=0):
        headers = {"X-Forwarded-For": forwarded} if forwarded else {}
        request = RequestFactory().get("/", headers=headers, REMOTE_ADDR=remote)
        with self.settings(PROXY_COUNT=proxies):
            return client_address(request)

    def test_without_proxies_nobody_can_claim_an_address(self):
        assert self.address("192.0.2.7") == "127.0.0.1"

    def test_each_proxy_is_trusted_for_what_it_added(self):
        assert self.address("1.1.1.1, 192.0.2.7", proxies=1) == "192.0.2.7"
        assert self.address("1.1.1.1, 192.0.2.7, ::1", proxies=2) == "192.0.2.7"

    def test_an_odd_address_is_none(self):
        assert self.address(remote="") is None
        assert self.address("unknown", proxies=1) is None


class SessionTests(SignInTestCase):
    def setUp(self):
        self.phone = Client()
        self.sign_in(headers={"User-Agent": LINUX_FIREFOX})
        self.sign_in(
            self.phone, headers={"User-Agent": "Phone"}, REMOTE_ADDR="192.0.2.7"
        )

    def page(self):
        return self.client.get(reverse("accounts:security"))

    def end(self, session):
        data = {"session": session.public_id}
        return self.client.post(reverse("accounts:end-session"), data, follow=True)

    def test_alice_recognises_her_sessions(self):
        response = self.page()
        for text in ["Firefox on Linux", "127.0.0.1", "192.0.2.7", "Phone"]:
            self.assertContains(response, text)

    def test_no_session_key_is_shown(self):
        text = self.page().content.decode()
        for key in Session.objects.values_list("session_key", flat=True):
            assert key not in text

    def test_alice_ends_one_session(self):
        response = self.end(Session.objects.get(agent="Phone"))

        self.assertContains(response, "The session is ended.")
        assert self.is_signed_in(self.client)
        assert not self.is_signed_in(self.phone)
        self.assertContains(self.end(Session(session_key="x")), "had ended before")

    def test_alice_ends_all_others(self):
        self.client.post(reverse("accounts:end-others"))

        assert self.is_signed_in(self.client)
        assert not self.is_signed_in(self.phone)

    def test_alice_cannot_end_bobs_session(self):
        bob = UserFactory.create(username="bob", password=PASSWORD)
        client = Client()
        self.sign_in(client, username="bob")

        self.end(bob.sessions.get())
        self.client.post(reverse("accounts:end-others"))

        assert self.is_signed_in(client)

    def test_a_session_is_marked_as_seen_from_time_to_time(self):
        session = Session.objects.exclude(agent="Phone").get()
        since = session.created_at
        earlier = timezone.now() - timedelta(minutes=6)
        Session.objects.filter(pk=session.pk).update(seen_at=earlier)

        with self.assertNumQueries(3):  # session and user; seen; the list
            self.page()
        with self.assertNumQueries(2):
            self.page()

        session.refresh_from_db()
        assert session.seen_at > earlier
        assert session.created_at == since

    def test_a_session_keeps_when_it_began_when_it_is_written(self):
        session = Session.objects.get(agent="Phone")
        data = {"session": "unknown"}
        self.phone.post(reverse("accounts:end-session"), data)  # leaves a message

        again = Session.objects.get(agent="Phone")
        assert again.session_data != session.session_data
        assert again.created_at == session.created_at

    def test_a_deactivated_user_is_out_at_once(self):
        User.objects.filter(pk=self.alice.pk).update(is_active=False)
        assert not self.is_signed_in(self.phone)

        User.objects.filter(pk=self.alice.pk).update(is_active=True)
        UserFactory.create(roles=[(self.acme, Role.USER_ADMIN)])
        self.alice.deactivate()
        assert not self.alice.sessions.exists()

    def test_an_expired_session_is_none(self):
        Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
        assert not self.is_signed_in(self.client)

    def test_a_database_that_goes_away_at_the_end_is_none_that_has_ended_it(self):
        self.client.raise_request_exception = False
        phone = self.alice.sessions.get(address="192.0.2.7")
        data = {"session": phone.public_id}
        away = OperationalError("server closed the connection unexpectedly")
        with mock.patch.object(Session, "save", side_effect=away):
            answer = self.client.post(reverse("accounts:end-session"), data)
        assert answer.status_code == 503  # 400 would say that nothing was done
        assert self.is_signed_in(self.client)
        assert not self.is_signed_in(self.phone)

    def test_a_rotated_secret_key_keeps_sessions(self):
        old_key = settings.SECRET_KEY
        with self.settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[old_key]):
            assert self.is_signed_in(self.phone)
        with self.settings(SECRET_KEY="another"):
            assert not self.is_signed_in(self.client)


class PasswordChangeTests(SignInTestCase):
    def setUp(self):
        self.phone = Client()
        self.sign_in()
        self.sign_in(self.phone)

    def change(self, old=PASSWORD, new=NEW):
        data = {"old_password": old, "new_password1": new, "new_password2": new}
        return self.client.post(reverse("accounts:change-password"), data)

    def test_a_new_password_ends_all_other_sessions(self):
        response = self.change()

        self.assertRedirects(response, reverse("accounts:security"))
        assert not self.is_signed_in(self.phone)
        assert self.alice.sessions.count() == 1
        assert self.sign_in(Client()).status_code == 422
        assert self.sign_in(Client(), password=NEW).status_code == 302

    def test_a_weak_password_is_refused(self):
        for weak in ["short", "1234567890123", "password1234", "alice@example.com"]:
            with self.subTest(weak=weak):
                assert self.change(new=weak).status_code == 422
        assert self.is_signed_in(self.phone)

    def test_the_old_password_cannot_be_guessed_without_end(self):
        answers = [self.change(old="guess").status_code for _ in range(6)]
        assert answers == [422] * 4 + [429] * 2
        assert self.change().status_code == 429


class AgentTests(TestCase):
    def test_browsers_are_told_from_those_they_claim_to_be(self):
        for agent, name in [
            (LINUX_FIREFOX, "Firefox on Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537 Chrome/140 Safari/537 "
                "Edg/140",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537 Chrome/140 Safari/537",
                "Chrome on Android",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU like Mac OS X) Version/19 Safari/604",
                "Safari on iPhone",
            ),
            ("curl/8.14", "curl"),
            ("", "Unknown browser"),
        ]:
            with self.subTest(agent=agent):
                assert agent_name(agent) == name

from datetime import timedelta
from functools import partial

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.test import TransactionTestCase, override_settings
from django.urls import reverse
from django.utils import timezone

from accounts.models import Invitation, User
from accounts.permissions import Role
from controlpanel.http import Conflict
from controlpanel.logs import HideLinks
from tests.cast import CastTestCase
from tests.factories import PASSWORD, AccountFactory, UserFactory
from tests.races import at_once


def invite(account, by, roles=(Role.IMAGES_ADMIN,), email="new@example.com"):
    return Invitation.objects.invite(email, to=account, roles=roles, by=by)


class InvitationTests(CastTestCase):
    def test_an_older_link_to_the_same_address_stops_working(self):
        older = invite(self.acme, self.alice)
        newer = invite(self.acme, self.alice, email="NEW@example.com")

        with pytest.raises(Conflict, match="withdrawn"):
            older.accept(by=self.bob)
        newer.accept(by=self.bob)

    def test_invitations_of_another_account_are_left_alone(self):
        ours = invite(self.acme, self.alice)
        invite(self.beta, self.bob)

        ours.accept(by=self.carol)

    def test_who_manages_no_users_invites_nobody(self):
        with pytest.raises(PermissionDenied):
            invite(self.acme, self.bob)

    def test_an_invitation_ends_with_the_right_to_invite(self):
        dora = UserFactory.create(roles=[(self.acme, Role.USER_ADMIN)])
        ordinary = invite(self.acme, dora)
        owners = invite(self.acme, dora, [Role.USER_ADMIN], "dora@example.com")

        self.acme.change_roles([Role.USER_MANAGE], of=dora, by=self.alice)
        with pytest.raises(Conflict, match="may not give these roles any more"):
            owners.accept(by=self.carol)
        ordinary.accept(by=self.carol)
        assert self.acme.roles_of(self.carol) == {Role.IMAGES_ADMIN}

    def test_an_invitation_ends_when_its_sender_is_deactivated(self):
        dora = UserFactory.create(roles=[(self.acme, Role.USER_ADMIN)])
        sent = invite(self.acme, dora)
        dora.deactivate()
        with pytest.raises(Conflict, match="may not give these roles any more"):
            sent.accept(by=self.carol)

    def test_nobody_accepts_their_own_invitation(self):
        manager = UserFactory.create(roles=[(self.acme, Role.USER_MANAGE)])
        with pytest.raises(Conflict, match="own roles"):
            invite(self.acme, manager).accept(by=manager)

    def test_accepting_adds_to_the_roles_there_are(self):
        self.acme.grant(Role.SERVERS_OBSERVER, to=self.bob)
        invite(self.acme, self.alice).accept(by=self.bob)

        roles = {Role.SERVERS_OBSERVER, Role.IMAGES_ADMIN}
        assert self.acme.roles_of(self.bob) == roles
        assert self.beta.roles_of(self.bob) == {Role.USER_ADMIN}


class LinkTests(CastTestCase):
    def setUp(self):
        self.invitation = invite(self.acme, self.alice)

    def url(self, view="invitation"):
        return reverse(f"accounts:{view}", args=[self.invitation.token])

    def join(self, username="newcomer", password=PASSWORD):
        data = {
            "username": username,
            "password1": password,
            "password2": password,
            "usable_password": "true",
        }
        return self.client.post(self.url("join"), data)

    def test_who_is_not_signed_in_may_sign_in_or_become_a_user(self):
        response = self.client.get(self.url())

        self.assertContains(response, f"{reverse('login')}?next={self.url()}")
        self.assertContains(response, "Become a new user")
        assert "no-store" in response["Cache-Control"]

    def test_a_newcomer_is_at_home_in_the_account(self):
        response = self.join()

        assert response["Location"] == reverse("accounts:enter", args=[self.acme.pk])
        newcomer = User.objects.get(username="newcomer")
        assert newcomer.home_account == self.acme
        assert newcomer.email == "new@example.com"
        assert self.acme.roles_of(newcomer) == {Role.IMAGES_ADMIN}
        assert self.client.get(reverse("accounts:security")).status_code == 200
        assert newcomer.sessions.get().address == "127.0.0.1"

    def test_a_user_who_is_signed_in_accepts(self):
        self.client.force_login(self.bob)
        self.assertContains(self.client.get(self.url()), "Accept as bob")
        response = self.client.post(self.url("accept"))

        assert response["Location"] == reverse("accounts:enter", args=[self.acme.pk])
        assert self.acme.roles_of(self.bob) == {Role.IMAGES_ADMIN}
        assert User.objects.get(pk=self.bob.pk).home_account is None

    def test_a_second_click_leads_to_the_account_too(self):
        self.client.force_login(self.bob)
        for _ in range(2):
            response = self.client.post(self.url("accept"))
            assert response.status_code == 302

    def test_a_used_link_is_of_no_use_to_another(self):
        self.invitation.accept(by=self.bob)
        self.client.force_login(self.carol)

        for response in (
            self.client.get(self.url()),
            self.client.post(self.url("accept")),
        ):
            self.assertContains(response, "has been used already", status_code=409)
        assert self.acme.roles_of(self.carol) == set()
        self.client.logout()
        self.assertContains(self.join(), "has been used already", status_code=409)
        assert not User.objects.filter(username="newcomer").exists()

    def test_closed_links_say_why(self):
        week_ago = timezone.now() - timedelta(seconds=1)
        for change, why in [
            ({"withdrawn_at": timezone.now()}, "has been withdrawn"),
            ({"withdrawn_at": None, "expires_at": week_ago}, "has expired"),
        ]:
            Invitation.objects.update(**change)
            with self.subTest(why=why):
                for response in self.client.get(self.url()), self.join():
                    self.assertContains(response, why, status_code=409)

    def test_a_suspended_account_takes_nobody_in(self):
        self.acme.suspend()
        self.client.force_login(self.bob)
        self.assertContains(
            self.client.post(self.url("accept")), "suspended", status_code=409
        )

    def test_an_unknown_link_is_not_found(self):
        for view in "invitation", "join", "accept":
            self.client.force_login(self.bob)
            url = reverse(f"accounts:{view}", args=["x" * 43])
            method = self.client.get if view == "invitation" else self.client.post
            assert method(url).status_code == 404

    def test_usernames_cannot_be_tried_without_end(self):
        with override_settings(ACCOUNTS=settings.ACCOUNTS | {"joins_per_day": 2}):
            tried = [self.join(username="alice").status_code for _ in range(3)]
        assert tried == [422, 422, 429]

    def test_no_log_tells_a_link_that_works(self):
        with self.assertLogs("django.request", "WARNING") as logs:
            assert self.join(password="short").status_code == 422
        (record,) = logs.records
        configured = settings.LOGGING["handlers"]["stderr"]["filters"]
        assert configured == ["links"]
        HideLinks().filter(record)
        assert record.getMessage().endswith(": /invitations/.../join/")

    def test_wrong_input_keeps_the_form(self):
        for username, password in [
            ("alice", PASSWORD),
            ("no spaces", PASSWORD),
            ("newcomer", "short"),
        ]:
            with self.subTest(username=username):
                response = self.join(username, password)
                self.assertContains(response, username, status_code=422)
        self.invitation.refresh_from_db()
        assert self.invitation.accepted_at is None


class RaceTests(TransactionTestCase):
    def setUp(self):
        self.acme = AccountFactory.create()
        alice = UserFactory.create(roles=[(self.acme, Role.USER_ADMIN)])
        self.invitation = invite(self.acme, alice)

    def copies(self, count):
        found = Invitation.objects.select_related("account")
        return [found.get(pk=self.invitation.pk) for _ in range(count)]

    def test_of_eight_users_one_accepts(self):
        users = [UserFactory.create() for _ in range(8)]
        deeds = [
            partial(copy.accept, by=user)
            for copy, user in zip(self.copies(8), users, strict=True)
        ]

        assert at_once(deeds) == {"done": 1, "conflict": 7}
        assert self.acme.grants.count() == 2

    def test_a_double_click_makes_one_new_user(self):
        deeds = [partial(copy.join, "newcomer", PASSWORD) for copy in self.copies(2)]

        assert at_once(deeds) == {"done": 1, "conflict": 1}
        assert User.objects.filter(username="newcomer").count() == 1

    def test_two_newcomers_on_one_link_make_one_user(self):
        deeds = [
            partial(copy.join, f"newcomer-{n}", PASSWORD)
            for n, copy in enumerate(self.copies(2))
        ]

        assert at_once(deeds) == {"done": 1, "conflict": 1}
        assert User.objects.filter(username__startswith="newcomer").count() == 1

    def test_a_link_is_either_used_or_withdrawn(self):
        first, second = self.copies(2)
        user = UserFactory.create()

        assert at_once([partial(first.accept, by=user), second.withdraw]) == {
            "done": 1,
            "conflict": 1,
        }

from django.core import mail
from django.test import Client
from django.urls import reverse

from accounts.models import Invitation, User
from accounts.permissions import Role
from tests.cast import CastTestCase
from tests.factories import UserFactory


class UserManagementTestCase(CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.dave = UserFactory.create(
            username="dave",
            home_account=cls.acme,
            roles=[(cls.acme, Role.IMAGES_CREATOR), (cls.beta, Role.OBSERVER)],
        )
        cls.mallory = UserFactory.create(
            username="mallory", roles=[(cls.acme, Role.USER_MANAGE)]
        )

    def setUp(self):
        self.client.force_login(self.alice)

    def url(self, view, *args):
        return reverse(f"accounts:{view}", args=[self.acme.pk, *args])


class UserListTests(UserManagementTestCase):
    def test_it_shows_the_users_of_this_account_and_their_roles_here(self):
        self.acme.deactivate(self.dave, by=self.alice)
        response = self.client.get(self.url("users"))

        for text in ["alice", "dave", "mallory", "cloudImages:creator", "Deactivated"]:
            self.assertContains(response, text)
        self.assertNotContains(response, "carol")
        assert [row.roles for row in response.context["rows"]] == [
            [Role.USER_ADMIN],
            [Role.IMAGES_CREATOR],
            [Role.USER_MANAGE],
        ]

    def test_a_user_at_home_here_without_roles_is_still_there(self):
        self.acme.change_roles([], of=self.dave, by=self.alice)
        self.assertContains(self.client.get(self.url("users")), "none any more")

    def test_many_users_are_paged_at_the_same_cost(self):
        with self.assertNumQueries(5):  # sign-in; gate; users; invitations; offers
            self.client.get(self.url("users"))
        for _ in range(40):
            UserFactory.create(roles=[(self.acme, Role.OBSERVER)])
        url, seen = self.url("users"), []
        while url:
            with self.assertNumQueries(5):
                response = self.client.get(url)
            seen += [row.user.username for row in response.context["rows"]]
            after = response.context["after"]
            url = after and f"{self.url('users')}?after={after}"
        assert len(seen) == len(set(seen)) == 43

    def test_who_manages_no_users_is_told_who_does(self):
        self.client.force_login(self.dave)
        response = self.client.get(self.url("users"))
        self.assertContains(response, "identity:user-manage", status_code=403)
        self.assertContains(response, "alice", status_code=403)


class ChangeTests(UserManagementTestCase):
    def change(self, user, roles):
        return self.client.post(self.url("user", user.pk), {"roles": roles})

    def test_alice_changes_roles(self):
        self.client.get(self.url("user", self.dave.pk))
        response = self.change(self.dave, ["observer", "nova:admin"])

        self.assertRedirects(response, self.url("users"))
        assert self.acme.roles_of(self.dave) == {Role.OBSERVER, Role.SERVERS_ADMIN}
        assert self.beta.roles_of(self.dave) == {Role.OBSERVER}

    def test_an_unknown_role_is_refused(self):
        response = self.change(self.dave, ["root"])

        self.assertContains(response, "root is not one of", status_code=422)
        assert self.acme.roles_of(self.dave) == {Role.IMAGES_CREATOR}

    def test_alice_cannot_change_her_own_roles(self):
        self.assertContains(
            self.client.get(self.url("user", self.alice.pk)),
            "Nobody changes their own roles.",
        )
        assert self.change(self.alice, ["observer"]).status_code == 403
        assert self.acme.roles_of(self.alice) == {Role.USER_ADMIN}

    def test_a_user_manager_gets_identity_roles_disabled_and_leaves_them(self):
        manager = UserFactory.create(
            roles=[(self.acme, Role.USER_MANAGE), (self.acme, Role.OBSERVER)]
        )
        self.client.force_login(self.mallory)
        self.assertContains(
            self.client.get(self.url("user", manager.pk)),
            "Granting or taking identity:user-manage needs identity:user-admin.",
        )

        # What the browser sends: disabled boxes are left out.
        assert self.change(manager, ["nova:observer"]).status_code == 302

        held = {Role.USER_MANAGE, Role.SERVERS_OBSERVER}
        assert self.acme.roles_of(manager) == held

    def test_a_user_manager_who_forges_the_form_is_refused(self):
        self.client.force_login(self.mallory)
        assert self.change(self.dave, ["identity:user-admin"]).status_code == 403
        assert self.change(self.alice, []).status_code == 403
        assert (
            self.client.post(self.url("remove-user", self.alice.pk)).status_code == 403
        )

    def test_somebody_without_a_tie_to_the_account_is_not_found(self):
        for view in "user", "remove-user", "deactivate-user", "reactivate-user":
            with self.subTest(view=view):
                url = self.url(view, self.carol.pk)
                assert self.client.post(url, {"roles": ["observer"]}).status_code == 404

    def test_removing_takes_all_roles_here_and_none_elsewhere(self):
        url = self.url("remove-user", self.dave.pk)
        self.assertContains(self.client.get(url), "Remove")
        self.client.post(url)

        assert self.acme.roles_of(self.dave) == set()
        assert self.beta.roles_of(self.dave) == {Role.OBSERVER}


class DeactivateTests(UserManagementTestCase):
    def test_a_deactivated_user_is_out_and_comes_back_with_the_roles(self):
        browser = Client()
        browser.force_login(self.dave)
        url = self.url("deactivate-user", self.dave.pk)
        self.assertContains(self.client.get(url), "signed out everywhere")
        self.client.post(url)

        assert browser.get(reverse("accounts:security")).status_code == 302
        assert not self.dave.sessions.exists()

        self.assertContains(
            self.client.get(self.url("user", self.dave.pk)), "Reactivate"
        )
        self.client.post(self.url("reactivate-user", self.dave.pk))
        assert User.objects.get(pk=self.dave.pk).is_active
        assert self.acme.roles_of(self.dave) == {Role.IMAGES_CREATOR}

    def test_a_guest_is_deactivated_by_no_one_here(self):
        self.client.force_login(self.bob)
        page = reverse("accounts:user", args=[self.beta.pk, self.dave.pk])
        self.assertContains(self.client.get(page), "Only the user&#x27;s home account")

        url = reverse("accounts:deactivate-user", args=[self.beta.pk, self.dave.pk])
        assert self.client.post(url).status_code == 403
        assert User.objects.get(pk=self.dave.pk).is_active


class InviteTests(UserManagementTestCase):
    def invite(self, email="new@example.com", roles=("observer",), **extra):
        data = {"email": email, "roles": roles}
        return self.client.post(self.url("invite"), data, **extra)

    def test_the_link_is_shown_once_and_mailed(self):
        self.assertContains(self.client.get(self.url("invite")), "works once")
        response = self.invite()

        address = response.context["address"]
        self.assertContains(response, address)
        assert address in mail.outbox[0].body
        assert mail.outbox[0].to == ["new@example.com"]
        assert "no-store" in response["Cache-Control"]
        self.assertNotContains(
            self.client.get(self.url("users")), address.split("/")[-2]
        )

    def test_no_secret_is_stored(self):
        token = self.invite().context["address"].split("/")[-2]

        assert token not in str(list(Invitation.objects.values()))
        assert Invitation.objects.with_token(token).exists()

    def test_known_and_unknown_addresses_get_the_same_answer(self):
        answers = set()
        # The first of a day begins to count.
        for email, number in [
            ("any@example.com", 13),
            ("bob@example.com", 10),
            ("nob@example.com", 10),
        ]:
            with self.assertNumQueries(number):
                response = self.invite(email)
            text = response.content.decode().replace(email, "…")
            token = response.context["address"].split("/")[-2]
            csrf = response.wsgi_request.META["CSRF_COOKIE"]
            assert csrf
            answers.add((response.status_code, len(text.replace(token, "…"))))
        assert len(answers) == 1

    def test_wrong_input_is_told_and_kept(self):
        for email, roles in [("no address", ["observer"]), ("a@example.com", [])]:
            with self.subTest(email=email):
                response = self.invite(email, roles)
                self.assertContains(response, email, status_code=422)
        assert not Invitation.objects.exists()

    def test_a_user_manager_invites_nobody_as_owner(self):
        self.client.force_login(self.mallory)
        assert self.invite(roles=["identity:user-admin"]).status_code == 403
        assert self.invite(roles=["cloudImages:admin"]).status_code == 200
        assert Invitation.objects.get().roles == ["cloudImages:admin"]

    def test_a_mail_that_fails_is_told(self):
        with self.settings(
            MAILERS={"default": {"BACKEND": "tests.accounts.mail.BrokenBackend"}}
        ):
            response = self.invite()

        self.assertContains(response, "could not be sent")
        self.assertContains(response, response.context["address"])

    def test_the_limit_of_a_day_is_told(self):
        with self.settings(ACCOUNTS={"invitations_per_day": 1}):
            self.invite()
            response = self.invite("other@example.com")

        self.assertContains(response, "at most 1 invitations a day", status_code=429)
        self.assertContains(response, "other@example.com", status_code=429)

    def test_a_withdrawn_invitation_is_gone_from_the_page(self):
        self.invite()
        url = self.url("withdraw-invitation", Invitation.objects.get().pk)
        self.assertRedirects(self.client.post(url), self.url("users"))

        assert not Invitation.objects.open()
        assert self.client.post(url).status_code == 409

    def test_another_account_cannot_withdraw_it(self):
        self.invite()
        self.client.force_login(self.bob)
        pk = Invitation.objects.get().pk
        url = reverse("accounts:withdraw-invitation", args=[self.beta.pk, pk])

        assert self.client.post(url).status_code == 404
        assert Invitation.objects.open().exists()

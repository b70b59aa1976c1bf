from django.urls import reverse

from accounts.models import Account
from accounts.permissions import Role
from tests.cast import CastTestCase
from tests.factories import AccountFactory, RegionFactory, UserFactory


class HomeTests(CastTestCase):
    def lands_on(self, user):
        self.client.force_login(user)
        return self.client.get(reverse("home"))["Location"]

    def test_the_home_account_comes_first(self):
        self.acme.grant(Role.OBSERVER, to=self.carol)
        self.carol.home_account = self.corp
        self.carol.save()

        assert self.corp.pk in self.lands_on(self.carol)

    def test_then_the_account_used_last(self):
        self.acme.grant(Role.OBSERVER, to=self.carol)
        assert self.acme.pk in self.lands_on(self.carol)  # the first by name

        self.client.get(reverse("accounts:enter", args=[self.corp.pk]))

        assert self.corp.pk in self.lands_on(self.carol)

    def test_a_suspended_account_comes_last(self):
        self.acme.grant(Role.OBSERVER, to=self.carol)
        self.acme.suspend()

        assert self.corp.pk in self.lands_on(self.carol)

    def test_who_may_see_servers_only_lands_on_servers(self):
        user = UserFactory.create(roles=[(self.acme, Role.SERVERS_OBSERVER)])

        assert self.lands_on(user) == reverse("servers:list", args=[self.acme.pk])

    def test_who_has_no_role_is_told_what_to_do(self):
        self.client.force_login(UserFactory.create())
        self.assertContains(
            self.client.get(reverse("home")), "You have no role on any account"
        )


class SuspensionTests(CastTestCase):
    def test_users_of_a_suspended_account_are_refused_until_it_is_reinstated(self):
        self.client.force_login(self.alice)
        page = reverse("accounts:account", args=[self.acme.pk])
        self.acme.suspend()
        self.assertContains(self.client.get(page), "is suspended", status_code=403)

        self.acme.reinstate()
        assert self.client.get(page).status_code == 200

    def test_it_is_marked_in_the_list_of_accounts(self):
        self.acme.suspend()
        self.client.force_login(self.alice)
        self.assertContains(self.client.get(reverse("accounts:switch")), "Suspended")


class SwitchTests(CastTestCase):
    def setUp(self):
        self.client.force_login(self.alice)

    def test_alice_sees_her_accounts_and_no_other(self):
        self.beta.grant(Role.IMAGES_ADMIN, to=self.alice)
        response = self.client.get(reverse("accounts:switch"))

        self.assertContains(response, reverse("accounts:enter", args=[self.acme.pk]))
        self.assertContains(response, reverse("accounts:enter", args=[self.beta.pk]))
        self.assertNotContains(response, self.corp.pk)

    def test_the_menu_gets_the_list_alone(self):
        response = self.client.get(
            reverse("accounts:switch"),
            {"from": self.acme.pk},
            headers={"HX-Request": "true"},
        )
        self.assertContains(response, 'aria-current="true"')
        self.assertNotContains(response, "<html")

    def test_many_accounts_are_paged(self):
        for _ in range(30):
            AccountFactory.create(name="Twin").grant(Role.OBSERVER, to=self.alice)
        url, seen = reverse("accounts:switch"), []
        while url:
            with self.assertNumQueries(2):  # session and user; the accounts
                response = self.client.get(url)
            seen += [account.pk for account in response.context["accounts"]]
            after = response.context["after"]
            url = after and reverse("accounts:switch", query={"after": after})

        assert len(seen) == len(set(seen)) == 31


class AccountPageTests(CastTestCase):
    def setUp(self):
        self.url = reverse("accounts:account", args=[self.acme.pk])
        self.client.force_login(self.alice)

    def edit(self, **changes):
        data = {"name": "Acme", "home_region": "IAD", **changes}
        return self.client.post(reverse("accounts:edit", args=[self.acme.pk]), data)

    def test_alice_changes_name_region_and_whether_it_is_discoverable(self):
        RegionFactory.create(code="LON")
        response = self.edit(name="Größe & Söhne", home_region="LON", discoverable="on")

        self.assertRedirects(response, self.url)
        acme = Account.objects.get(pk=self.acme.pk)
        assert (acme.name, acme.home_region_id) == ("Größe & Söhne", "LON")
        assert acme.discoverable

    def test_wrong_input_is_told_and_kept(self):
        for wrong in [
            {"name": ""},
            {"name": "x" * 101},
            {"name": "Acme\x1b[2J"},
            {"name": "Acme\u2028Corp"},
            {"home_region": "MOON"},
        ]:
            with self.subTest(wrong=wrong):
                response = self.edit(**wrong)
                assert response.status_code == 422
                assert response.context["form"].errors
        assert Account.objects.get(pk=self.acme.pk).name == "Acme"

    def test_who_is_no_owner_sees_the_form_disabled_and_why(self):
        manager = UserFactory.create(roles=[(self.acme, Role.USER_MANAGE)])
        self.client.force_login(manager)

        response = self.client.get(self.url)

        self.assertContains(response, "needs identity:user-admin")
        self.assertContains(response, "these users have it: alice")
        assert self.edit(name="Mine").status_code == 403

    def test_the_page_costs_few_queries(self):
        with self.assertNumQueries(3):  # session and user; gate; offers
            self.client.get(self.url)

from axes.models import AccessAttempt
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import numbers
from accounts.models import Account, RoleGrant, User
from accounts.permissions import Role
from tests.cast import CastTestCase
from tests.factories import (
    PASSWORD,
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
    UserFactory,
)


class AdminTestCase(CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.staff = UserFactory.create(
            username="staff", is_staff=True, is_superuser=True, password=PASSWORD
        )

    def setUp(self):
        self.client.force_login(self.staff)

    def url(self, model, view, *args):
        return reverse(f"admin:{model}_{view}", args=args)


class SignInTests(AdminTestCase):
    def test_staff_signs_in_by_the_panels_own_page(self):
        client = Client()
        for page in reverse("admin:index"), reverse("admin:login"):
            login, _ = client.get(page, follow=True).redirect_chain[-1]
            assert login.startswith(reverse("login"))
        response = client.post(login, {"username": "staff", "password": PASSWORD})
        assert response["Location"] == reverse("admin:index")

    def test_others_are_refused(self):
        self.client.force_login(self.alice)
        response = self.client.get(reverse("admin:index"), follow=True)
        self.assertContains(response, "own staff", status_code=403)

    def test_staff_without_a_role_has_no_way_into_an_account(self):
        url = reverse("accounts:account", args=[self.acme.pk])
        assert self.client.get(url).status_code == 404


class PageTests(AdminTestCase):
    def test_every_list_and_form_opens_at_a_low_cost(self):
        ImageFactory.create(owner=None)
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        self.client.post(reverse("login"), {"username": "alice", "password": "wrong"})
        for model, model_admin in admin.site._registry.items():
            name = f"{model._meta.app_label}_{model._meta.model_name}"
            with self.subTest(model=name):
                with CaptureQueriesContext(connection) as asked:
                    response = self.client.get(self.url(name, "changelist"))
                assert response.status_code == 200
                assert len(asked) <= 12
                first = model_admin.get_queryset(response.wsgi_request).first()
                if first:
                    page = self.client.get(self.url(name, "change", first.pk))
                    assert page.status_code == 200

    def test_searching_takes_any_text(self):
        for model in admin.site._registry:
            name = f"{model._meta.app_label}_{model._meta.model_name}"
            for text in ["no-uuid", self.acme.pk, str(self.image.pk)]:
                with self.subTest(model=name, text=text):
                    url = self.url(name, "changelist")
                    assert self.client.get(url, {"q": text}).status_code == 200

    def test_failed_sign_ins_are_listed_without_secrets(self):
        data = {
            "username": "alice",
            "password": "wrong-1",
            "old_password": "wrong-2",
            "new_password1": "wrong-3",
            "new_password2": "wrong-4",
        }
        page = f"{reverse('login')}?next=/invitations/secret-token/"
        Client().post(page, data)
        attempt = AccessAttempt.objects.get()
        assert "wrong" not in attempt.post_data
        assert "secret-token" not in attempt.get_data
        url = self.url("axes_accessattempt", "changelist")
        self.assertContains(self.client.get(url), "alice")

    def test_shares_and_events_cannot_be_changed(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        for view, args in [("add", []), ("delete", [share.pk])]:
            url = self.url("sharing_imageshare", view, *args)
            assert self.client.get(url).status_code == 403
        page = self.url("sharing_imageshare", "change", share.pk)
        assert self.client.post(page, {"message": "x"}).status_code == 403

    def test_own_images_are_not_listed_among_base_images(self):
        page = self.url("images_image", "change", self.image.pk)
        assert self.client.get(page).status_code == 302

    def test_a_base_image_is_edited(self):
        base = ImageFactory.create(owner=None)
        page = self.url("images_image", "change", base.pk)
        data = {"name": "New", "tags": "a,b", "min_disk_gb": 1, "min_ram_mb": 2}
        assert self.client.post(page, data).status_code == 302
        base.refresh_from_db()
        assert (base.name, base.tags, base.min_ram_mb) == ("New", ["a", "b"], 2)


class AccountAdminTests(AdminTestCase):
    def test_an_account_is_opened_under_a_random_number(self):
        RegionFactory.create(code="LON")
        data = {"name": "New", "home_region": "LON", "discoverable": "on"}
        self.client.post(self.url("accounts_account", "add"), data)

        account = Account.objects.get(name="New")
        assert numbers.is_valid(account.number)
        assert account.discoverable

    def test_an_account_is_edited(self):
        data = {"name": "Acme 2", "home_region": "IAD"}
        self.client.post(self.url("accounts_account", "change", self.acme.pk), data)
        assert Account.objects.get(pk=self.acme.pk).name == "Acme 2"

    def test_an_account_is_suspended_and_reinstated(self):
        for action, status in [("suspend", "suspended"), ("reinstate", "active")]:
            data = {"action": action, "_selected_action": [self.acme.pk]}
            self.client.post(self.url("accounts_account", "changelist"), data)
            assert Account.objects.get(pk=self.acme.pk).status == status

    def test_no_account_and_no_user_is_deleted(self):
        for model, pk in [
            ("accounts_account", self.acme.pk),
            ("accounts_user", self.alice.pk),
        ]:
            assert self.client.get(self.url(model, "delete", pk)).status_code == 403


class UserAdminTests(AdminTestCase):
    def save(self, user, *, granted=(), taken=(), **changes):
        """Send the form of the user with the rows of role grants."""
        held = list(RoleGrant.objects.filter(user=user))
        data = {
            "username": user.username,
            "email": user.email,
            "grants": "",
            "rolegrant_set-TOTAL_FORMS": len(held) + len(granted),
            "rolegrant_set-INITIAL_FORMS": len(held),
            **changes,
        }
        for n, grant in enumerate(held):
            data[f"rolegrant_set-{n}-id"] = grant.pk
            data[f"rolegrant_set-{n}-user"] = user.pk
            if grant in taken:
                data[f"rolegrant_set-{n}-DELETE"] = "on"
        for n, (account, role) in enumerate(granted, start=len(held)):
            permission = RoleGrant._meta.get_field("permission").remote_field.model
            data[f"rolegrant_set-{n}-user"] = user.pk
            data[f"rolegrant_set-{n}-content_object"] = account.pk
            data[f"rolegrant_set-{n}-permission"] = permission.objects.get(
                codename=role
            ).pk
        page = self.url("accounts_user", "change", user.pk)
        return self.client.post(page, data, follow=True)

    def test_a_role_is_granted_and_taken(self):
        self.save(self.bob, granted=[(self.acme, Role.IMAGES_ADMIN)])
        assert self.acme.roles_of(self.bob) == {Role.IMAGES_ADMIN}

        self.save(self.bob, taken=list(self.acme.grants.filter(user=self.bob)))
        assert self.acme.roles_of(self.bob) == set()

    def test_the_last_owner_stays_and_nothing_of_the_form_is_kept(self):
        taken = list(self.acme.grants.filter(user=self.alice))
        response = self.save(
            self.alice,
            taken=taken,
            granted=[(self.beta, Role.OBSERVER)],
            email="changed@example.com",
        )

        self.assertContains(response, "at least one account owner")
        assert self.acme.roles_of(self.alice) == {Role.USER_ADMIN}
        assert self.beta.roles_of(self.alice) == set()
        assert User.objects.get(pk=self.alice.pk).email == "alice@example.com"

    def act(self, action, user):
        data = {"action": action, "_selected_action": [user.pk]}
        url = self.url("accounts_user", "changelist")
        return self.client.post(url, data, follow=True)

    def test_deactivating_ends_sessions(self):
        browser = Client()
        browser.force_login(self.bob)
        self.act("deactivate", self.bob)

        assert not self.bob.sessions.exists()
        assert browser.get(reverse("accounts:security")).status_code == 302
        self.act("reactivate", self.bob)
        assert User.objects.get(pk=self.bob.pk).is_active

    def test_the_last_owner_of_a_home_account_is_not_deactivated(self):
        User.objects.filter(pk=self.alice.pk).update(home_account=self.acme)
        response = self.act("deactivate", self.alice)

        self.assertContains(response, "at least one account owner")
        assert User.objects.get(pk=self.alice.pk).is_active

    def test_a_new_password_ends_sessions(self):
        browser = Client()
        browser.force_login(self.bob)
        page = reverse("admin:auth_user_password_change", args=[self.bob.pk])
        new = {"password1": "a new pass phrase", "password2": "a new pass phrase"}
        data = {**new, "usable_password": "true"}
        assert self.client.post(page, data).status_code == 302
        assert not self.bob.sessions.exists()

    def test_staff_that_is_no_superuser_makes_nobody_one(self):
        clerk = self.clerk("view_user", "change_user")
        self.save(clerk, is_superuser="on", is_staff="on")
        assert not User.objects.get(pk=clerk.pk).is_superuser

    def clerk(self, *rights):
        """Staff with some of Django's own permissions."""
        clerk = UserFactory.create(is_staff=True)
        clerk.user_permissions.set(Permission.objects.filter(codename__in=rights))
        self.client.force_login(clerk)
        return clerk

    def test_who_may_only_look_suspends_and_deactivates_nobody(self):
        self.clerk("view_user", "view_account")
        self.act("deactivate", self.bob)
        data = {"action": "suspend", "_selected_action": [self.acme.pk]}
        self.client.post(self.url("accounts_account", "changelist"), data)

        assert User.objects.get(pk=self.bob.pk).is_active
        assert not Account.objects.get(pk=self.acme.pk).is_suspended

    def test_staff_that_is_no_superuser_does_nothing_to_one(self):
        self.clerk("view_user", "change_user")
        new = {"password1": "a new pass phrase", "password2": "a new pass phrase"}
        page = reverse("admin:auth_user_password_change", args=[self.staff.pk])
        data = {**new, "usable_password": "true"}
        assert self.client.post(page, data).status_code == 403
        assert self.save(self.staff, email="clerk@example.com").status_code == 403
        self.act("deactivate", self.staff)

        superuser = User.objects.get(pk=self.staff.pk)
        assert superuser.is_active
        assert superuser.check_password(PASSWORD)

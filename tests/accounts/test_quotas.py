import pytest
from django.db import transaction
from django.test import override_settings
from django.urls import reverse

from accounts.models import Account, Quota, QuotaReached
from accounts.permissions import Role
from tests.cast import CastTestCase
from tests.factories import ImageFactory, UserFactory
from tests.limits import limited
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.servers.fakes import FakeComputeMixin


class QuotaTests(FakeComputeMixin, CastTestCase):
    """Acme has the image of the cast, of 17 MiB, and here one server of 512 MB."""

    def setUp(self):
        super().setUp()
        self.server = ServerFactory.create(account=self.acme, by=self.alice)

    def uses(self, *quotas):
        account = Account.objects.get(pk=self.acme.pk)
        return {use.quota: (use.used, use.limit) for use in account.quota_uses(*quotas)}

    def test_what_an_account_holds_is_counted_in_full(self):
        # The same bytes a second time cost the store nothing, and the account all.
        ImageFactory.create(owner=self.acme, blob=self.image.blob)
        ImageFactory.create(owner=self.beta)

        assert self.uses() == {
            "servers": (1, 10),
            "memory_mb": (512, 8192),
            "images": (2, 1000),
            "image_bytes": (34 << 20, 500 << 30),
        }

    def test_a_limit_of_its_own_takes_the_place_of_the_default(self):
        self.acme.set_quotas(quota_servers=3, quota_image_gib=1)

        assert self.uses()["servers"] == (1, 3)
        assert self.uses()["image_bytes"] == (17 << 20, 1 << 30)
        assert self.uses()["images"] == (1, 1000)

    def test_nothing_at_all_is_a_limit_too(self):
        self.acme.set_quotas(quota_images=0, quota_image_gib=0)

        assert self.uses()["images"] == (1, 0)
        assert self.uses()["image_bytes"] == (17 << 20, 0)

    def test_the_limit_is_the_last_that_fits(self):
        with limited(memory_mb=1024), transaction.atomic():
            self.acme.make_room({Quota.MEMORY_MB: 512})
            with pytest.raises(QuotaReached):
                self.acme.make_room({Quota.MEMORY_MB: 513})

    def test_a_refusal_names_limit_use_and_whom_to_ask(self):
        with (
            override_settings(SUPPORT_EMAIL="help@cloud.test"),
            limited(memory_mb=1000),
            pytest.raises(QuotaReached) as refused,
            transaction.atomic(),
        ):
            self.acme.make_room({Quota.MEMORY_MB: 512})

        assert str(refused.value) == (
            "This account may have 1000 MB of memory and has 512 MB of memory, so "
            "there is no room for 512 MB of memory more. Delete some first, or write "
            "to help@cloud.test to have the limit raised."
        )

    def test_a_limit_lowered_below_the_use_refuses_only_new_things(self):
        self.acme.set_quotas(quota_servers=0, quota_images=0)
        with transaction.atomic():
            self.acme.make_room({Quota.SERVERS: 0, Quota.IMAGE_BYTES: -5})
            with pytest.raises(QuotaReached):
                self.acme.make_room({Quota.SERVERS: 1})
        self.server.refresh_from_db()

    def test_a_limit_set_since_the_account_was_read_counts(self):
        stale = Account.objects.get(pk=self.acme.pk)
        self.acme.set_quotas(quota_servers=1)

        with pytest.raises(QuotaReached), transaction.atomic():
            stale.make_room({Quota.SERVERS: 1})

    def test_another_size_of_server_is_refused_where_the_memory_is_used_up(self):
        large = FlavorFactory.create(id="large", ram_mb=1024)
        with limited(memory_mb=1535), pytest.raises(QuotaReached, match="512 MB"):
            ServerFactory.create(account=self.acme, flavor=large, by=self.alice)

    def test_little_left_is_said(self):
        short = {
            10: [],
            5: [],
            1: ["1 of 1 server"],
        }
        for most, said in short.items():
            with self.subTest(most=most), limited(servers=most):
                found = self.acme.running_short(Quota.SERVERS)
                assert [use.text for use in found] == said


class LimitsPageTests(FakeComputeMixin, CastTestCase):
    def page(self, user=None):
        self.client.force_login(user or self.alice)
        return self.client.get(reverse("accounts:limits", args=[self.acme.pk]))

    def test_use_and_limit_are_shown_as_bar_and_words(self):
        with limited(images=1):
            page = self.page()

        self.assertContains(page, "1 of 1 image")
        self.assertContains(page, "nothing is left")
        self.assertContains(page, "0 of 10 servers")
        self.assertContains(page, '<progress value="100"')
        self.assertContains(page, "mailto:support@example.com")

    def test_who_sees_no_images_sees_none_counted(self):
        nova = UserFactory.create(roles=[(self.acme, Role.SERVERS_OBSERVER)])
        page = self.page(nova)

        self.assertContains(page, "0 of 10")
        self.assertNotContains(page, "Size of all images")

    def test_the_page_costs_few_queries(self):
        self.client.force_login(self.alice)
        # session and user; gate; servers; images; limits by day; offers
        with self.assertNumQueries(6):
            self.page_again()

    def page_again(self):
        self.client.get(reverse("accounts:limits", args=[self.acme.pk]))

    def test_the_pages_of_new_things_say_when_little_is_left(self):
        self.client.force_login(self.alice)
        server = ServerFactory.create(account=self.acme, by=self.alice, active=True)
        pages = [
            reverse("images:upload", args=[self.acme.pk]),
            reverse("servers:create", args=[self.acme.pk]),
            reverse("servers:create-image", args=[self.acme.pk, server.pk]),
        ]
        for page in pages:
            with self.subTest(page=page):
                self.assertNotContains(self.client.get(page), "limit raised")
                with limited(images=1, servers=1):
                    self.assertContains(self.client.get(page), "nothing is left")


class AdminTests(FakeComputeMixin, CastTestCase):
    def setUp(self):
        super().setUp()
        self.staff = UserFactory.create(is_staff=True, is_superuser=True)
        self.client.force_login(self.staff)
        self.url = reverse("admin:accounts_account_change", args=[self.acme.pk])

    def save(self, **changes):
        fields = {"name": "Acme", "home_region": self.acme.home_region_id}
        return self.client.post(self.url, fields | changes)

    def test_the_admin_shows_use_and_default(self):
        page = self.client.get(self.url)

        self.assertContains(page, "17.0 MiB of 500.0 GiB of images")
        self.assertContains(page, "Empty: the cloud's default, 10 servers.")

    def test_the_admin_sets_and_clears_limits(self):
        assert self.save(quota_servers="3", quota_image_gib="0").status_code == 302
        self.acme.refresh_from_db()
        assert (self.acme.quota_servers, self.acme.quota_image_gib) == (3, 0)
        assert self.acme.quota_images is None
        assert self.save().status_code == 302
        self.acme.refresh_from_db()
        assert self.acme.quota_servers is None
        assert self.acme.images.count() == 1

    def test_a_negative_limit_is_refused(self):
        assert self.save(quota_servers="-1").status_code == 200

from django.conf import settings
from django.urls import reverse

from accounts.models import Region
from servers.models import Flavor, ImageSchedule, ServerEvent
from tests.cast import CastTestCase
from tests.factories import UserFactory
from tests.servers.factories import FlavorFactory, ServerFactory, SSHKeyFactory


class AdminTests(CastTestCase):
    def setUp(self):
        self.client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
        self.server = ServerFactory.create(account=self.beta)
        self.key = SSHKeyFactory.create(account=self.beta)

    def get(self, page, *args, **query):
        return self.client.get(reverse(f"admin:servers_{page}", args=args), query)

    def test_staff_finds_servers_keys_and_events(self):
        event = ServerEvent.objects.get()
        schedule = ImageSchedule.objects.set_for(
            self.server, weekday=None, hour=2, keep=7, by=self.bob
        )
        rows = {
            "server": self.server,
            "sshkey": self.key,
            "serverevent": event,
            "imageschedule": schedule,
        }
        for model, row in rows.items():
            with self.subTest(model=model):
                for text in ["", self.beta.pk, str(self.server.pk), "x'%"]:
                    page = self.get(f"{model}_changelist", q=text)
                    assert page.status_code == 200
                assert self.get(f"{model}_change", row.pk).status_code == 200
                assert self.get(f"{model}_add").status_code == 403
                assert self.get(f"{model}_delete", row.pk).status_code == 403

    def test_staff_sees_what_is_left_in_each_region(self):
        Region.objects.create(code="MARS", name="Mars", backend="away")
        server = self.server
        page = self.get("regioncapacity_changelist")

        left = settings.COMPUTE["max_memory_mb"] - server.flavor.ram_mb
        self.assertContains(page, f"{left} MB")
        self.assertContains(page, "“away” is not known here")

    def test_no_hash_is_shown(self):
        page = self.get("server_change", self.server.pk)

        self.assertNotContains(page, self.server.password_hash)

    def test_a_flavor_keeps_its_figures(self):
        flavor = FlavorFactory.create(id="big", ram_mb=4096)
        url = reverse("admin:servers_flavor_change", args=[flavor.pk])
        data = {"name": "Huge", "ram_mb": 1, "position": 3}
        assert self.client.post(url, data).status_code == 302

        flavor = Flavor.objects.get(pk="big")
        assert (flavor.name, flavor.ram_mb, flavor.is_public) == ("Huge", 4096, False)

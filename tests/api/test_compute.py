from datetime import datetime, timedelta

from django.utils import timezone

from accounts.permissions import Role
from servers.models import Server, ServerEvent
from sharing.models import ImageShare
from tests.api.client import ApiTestCase
from tests.factories import ImageFactory, ImageShareFactory, RegionFactory, UserFactory
from tests.servers.factories import (
    ED25519,
    FlavorFactory,
    ServerFactory,
    SSHKeyFactory,
)
from tests.servers.fakes import FakeComputeMixin

V21 = "/compute/IAD/v2.1"


class ComputeTestCase(FakeComputeMixin, ApiTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        RegionFactory.create(code="LON")
        cls.flavor = FlavorFactory.create()
        cls.key = SSHKeyFactory.create(account=cls.beta, name="laptop")

    def setUp(self):
        super().setUp()
        self.plain = self.token(self.bob, self.beta)

    def bob_asks(self, method, path, body=None, **headers):
        return self.api(method, f"{V21}{path}", body, self.plain, **headers)

    def order(self, image=None, **changes):
        image = image or self.mine
        wanted = {
            "name": "web",
            "imageRef": str(image.pk),
            "flavorRef": "small",
            "key_name": "laptop",
            "min_count": 1,
            "max_count": 1,
            "networks": "auto",
        }
        return self.bob_asks("POST", "/servers", {"server": wanted | changes})

    @property
    def mine(self):
        return ImageFactory.create(owner=self.beta)

    def act(self, server, **action):
        body = {name.replace("_", "-"): given for name, given in action.items()}
        return self.bob_asks("POST", f"/servers/{server.pk}/action", body)


class CreateTests(ComputeTestCase):
    def test_a_server_is_ordered_as_the_panel_orders_it(self):
        response = self.order()
        assert response.status_code == 202
        made = response.json()["server"]
        server = Server.objects.get()
        assert made["id"] == str(server.pk)
        assert response["Location"].endswith(f"{V21}/servers/{server.pk}")
        assert server.public_key == self.key.public_key
        assert len(made["adminPass"]) >= 15
        assert made["adminPass"] not in str(Server.objects.values().get())
        event = ServerEvent.objects.get()
        assert (event.actor_name, event.via) == ("bob", "API")

    def test_an_accepted_image_boots_and_a_pending_or_rejected_one_is_unknown(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        unknown = self.order(imageRef="00000000-0000-4000-8000-000000000000")
        assert unknown.status_code == 400
        assert self.order(self.image).status_code == 400
        share.accept(by=self.bob)
        assert self.order(self.image).status_code == 202
        share.set_status(ImageShare.Status.REJECTED, by=self.bob)
        assert self.order(self.image).status_code == 400

    def test_the_client_s_own_mapping_of_the_image_is_understood(self):
        image = self.mine
        mapping = {
            "uuid": str(image.pk),
            "boot_index": 0,
            "source_type": "image",
            "destination_type": "local",
            "delete_on_termination": True,
        }
        assert self.order(image, block_device_mapping_v2=[mapping]).status_code == 202
        mapping["destination_type"] = "volume"
        assert self.order(image, block_device_mapping_v2=[mapping]).status_code == 400

    def test_what_a_server_here_cannot_have_is_refused(self):
        for changes in (
            {"min_count": 2, "max_count": 2},
            {"networks": [{"uuid": "x"}]},
            {"metadata": {"a": "b"}},
            {"config_drive": True},
            {"security_groups": [{"name": "web"}]},
            {"availability_zone": "nova"},
            {"user_data": "IyEvYmluL3No"},
            {"name": ""},
            {"name": "a\0b"},
            {"name": "x" * 256},
            {"name": 5},
            {"flavorRef": "giant"},
            {"flavorRef": "\0"},
            {"imageRef": ""},
            {"imageRef": "none"},
            {"key_name": "unknown"},
            {"adminPass": "short"},
            {"adminPass": "of two\nlines of text"},
            {"adminPass": "x" * 129},
            {"adminPass": "語" * 43},
            {"user_data": "IyEvYmluL3No"},
        ):
            with self.subTest(changes=changes):
                response = self.order(**changes)
                assert response.status_code == 400
                assert response.json()["badRequest"]["message"]
        assert not Server.objects.exists()

    def test_an_image_of_another_region_is_unknown(self):
        elsewhere = ImageFactory.create(
            owner=self.beta, region=RegionFactory.create(code="LON")
        )
        assert self.order(elsewhere).status_code == 400

    def test_a_quota_is_told(self):
        self.beta.quota_servers = 0
        self.beta.save()
        response = self.order()
        assert response.status_code == 403
        assert "may have 0 servers" in response.json()["forbidden"]["message"]

    def test_a_region_that_is_down_is_told(self):
        self.compute.unavailable = "QEMU is missing."
        response = self.order()
        assert response.status_code == 503
        assert "QEMU is missing" in response.json()["serviceUnavailable"]["message"]


class ServerTests(ComputeTestCase):
    def setUp(self):
        super().setUp()
        self.server = ServerFactory.create(
            account=self.beta, flavor=self.flavor, name="web", active=True
        )

    def path(self, server=None):
        return f"/servers/{(server or self.server).pk}"

    def test_it_is_shown_as_nova_does(self):
        body = self.bob_asks("GET", self.path()).json()["server"]
        assert body["status"] == "ACTIVE"
        assert body["OS-EXT-STS:power_state"] == 1
        assert body["tenant_id"] == self.beta.pk
        assert body["image"]["id"] == str(self.server.image_id)
        assert body["flavor"]["id"] == "small"
        assert body["metadata"]["ssh"].startswith("ssh -p ")
        assert body["accessIPv4"] == "127.0.0.1"
        # In the one form that Go's clients read, and with what the SDK looks up.
        datetime.strptime(body["OS-SRV-USG:launched_at"], "%Y-%m-%dT%H:%M:%S.%f")
        (address,) = body["addresses"]["ssh"]
        assert {"OS-EXT-IPS:type", "OS-EXT-IPS-MAC:mac_addr"} <= address.keys()
        for name in ("ips", "metadata", "os-security-groups"):
            shown = self.bob_asks("GET", f"{self.path()}/{name}").json()
            assert shown in (
                {"addresses": body["addresses"]},
                {"metadata": body["metadata"]},
                {"security_groups": []},
            )

    def test_a_broken_one_says_why(self):
        Server.objects.update(status="ERROR", reason="It has crashed.")
        body = self.bob_asks("GET", self.path()).json()["server"]
        assert body["fault"]["message"] == "It has crashed."

    def test_another_account_s_is_as_unknown_as_none(self):
        theirs = ServerFactory.create(account=self.acme, flavor=self.flavor)
        answers = []
        for key in (theirs.pk, "00000000-0000-4000-8000-000000000000", "web", "%00"):
            response = self.bob_asks("GET", f"/servers/{key}")
            assert response.status_code == 404
            answers.append(response.json()["itemNotFound"]["code"])
        assert set(answers) == {404}
        assert self.act(theirs, os_stop=None).status_code == 404
        assert self.bob_asks("DELETE", self.path(theirs)).status_code == 404

    def test_a_server_of_another_region_is_not_here(self):
        response = self.api("GET", f"/compute/LON/v2.1{self.path()}", token=self.plain)
        assert response.status_code == 404

    def test_they_are_listed_newest_first_and_page_by_page(self):
        others = [
            ServerFactory.create(account=self.beta, flavor=self.flavor, active=True)
            for _ in range(3)
        ]
        ServerFactory.create(account=self.acme, flavor=self.flavor)
        names, href = [], f"{V21}/servers/detail?limit=2"
        while href:
            page = self.api("GET", href, token=self.plain).json()
            names += [each["name"] for each in page["servers"]]
            href = page["servers_links"][0]["href"] if "servers_links" in page else ""
        assert names == [*(each.name for each in reversed(others)), "web"]

    def test_they_are_found_by_name_and_status(self):
        ServerFactory.create(account=self.beta, flavor=self.flavor, name="webby")
        for query, count in (
            ("name=web", 2),
            ("name=%5Eweb%24", 1),
            ("status=active", 1),
            ("status=nonsense", 0),
            ("name=%00", 2),
        ):
            with self.subTest(query=query):
                found = self.bob_asks("GET", f"/servers?{query}").json()["servers"]
                assert len(found) == count

    def test_no_filter_is_passed_over(self):
        """Or a script that deletes what it has found deletes all."""
        mine = self.server
        other = ServerFactory.create(account=self.beta, flavor=self.flavor)
        Server.objects.filter(pk=other.pk).update(
            changed_at=timezone.now() - timedelta(days=2)
        )
        yesterday = (timezone.now() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
        for query, found in (
            (f"image={mine.image_id}", [mine]),
            ("image=nonsense", []),
            ("flavor=small", [other, mine]),
            ("flavor=large%00", []),
            (f"ip={mine.ssh_host}", [mine]),
            ("ip=9.9.9.9", []),
            ("ip6=fe80", []),
            ("reservation_id=r-1", []),
            (f"changes-since={yesterday}", [mine]),
            (f"changes-since={yesterday}Z", [mine]),
            (f"changes-before={yesterday}", [other]),
            ("all_tenants=false", [other, mine]),
        ):
            with self.subTest(query=query):
                listed = self.bob_asks("GET", f"/servers?{query}").json()["servers"]
                assert [each["id"] for each in listed] == [str(x.pk) for x in found]
        foreign = self.bob_asks("GET", "/servers/detail?all_tenants=True")
        assert foreign.status_code == 403

    def test_a_marker_limit_or_time_that_is_none_is_refused(self):
        for query in (
            *("marker=nonsense", "limit=-1", "limit=many"),
            *("changes-since=soon", "changes-since=0001-01-01T00:00:00%2B14:00"),
        ):
            with self.subTest(query=query):
                assert self.bob_asks("GET", f"/servers?{query}").status_code == 400

    def test_it_is_renamed(self):
        changed = self.bob_asks("PUT", self.path(), {"server": {"name": "db"}})
        assert changed.json()["server"]["name"] == "db"
        assert Server.objects.get().name == "db"

    def test_it_is_deleted_and_that_may_be_said_twice(self):
        for _ in range(2):
            assert self.bob_asks("DELETE", self.path()).status_code == 204
        assert Server.objects.get().is_deleting

    def test_power_and_reboot(self):
        for action, task in (
            ({"os_stop": None}, "powering-off"),
            ({"reboot": {"type": "SOFT"}}, "rebooting"),
            ({"reboot": {"type": "HARD"}}, "rebooting_hard"),
        ):
            with self.subTest(action=action):
                Server.objects.update(task="", status="ACTIVE")
                assert self.act(self.server, **action).status_code == 202
                assert Server.objects.get().task == task
        Server.objects.update(task="", status="SHUTOFF")
        assert self.act(self.server, os_start=None).status_code == 202

    def test_what_its_state_does_not_allow_is_a_conflict(self):
        response = self.act(self.server, os_start=None)
        assert response.status_code == 409
        assert "active" in response.json()["conflictingRequest"]["message"]

    def test_what_is_no_action_is_refused(self):
        for body in (
            {},
            {"explode": None},
            {"reboot": None},
            {"reboot": {"type": "GENTLE"}},
            {"os-stop": None, "os-start": None},
            {"createImage": {}},
            {"createImage": {"name": "a\nb"}},
            {"createImage": {"name": "a", "metadata": {"a": 5}}},
            {"createImage": {"name": "a", "metadata": {"min_disk": "5"}}},
            {"createImage": {"name": "a", "metadata": {"os": "Debian"}}},
            {"createImage": {"name": "a", "metadata": {"a": "\0"}}},
            {"os-getConsoleOutput": {"length": "long"}},
            [],
            b"{",
        ):
            with self.subTest(body=body):
                path = f"{self.path()}/action"
                assert self.bob_asks("POST", path, body).status_code == 400

    def test_an_action_that_there_is_not_is_named(self):
        refused = self.act(self.server, rebuild={"imageRef": ""})
        message = refused.json()["badRequest"]["message"]
        assert message == "There is no support for rebuild here."

    def test_an_image_is_made_of_it(self):
        response = self.act(self.server, createImage={"name": "golden"})
        assert response.status_code == 202
        image = self.beta.images.get(name="golden")
        assert response["Location"].endswith(f"/image/IAD/v2/images/{image.pk}")

    def test_its_metadata_become_properties_of_the_image(self):
        metadata = {"image_type": "image", "team": "web"}
        wanted = {"name": "golden", "metadata": metadata}
        assert self.act(self.server, createImage=wanted).status_code == 202
        assert self.beta.images.get(name="golden").properties == metadata

    def test_metadata_that_no_image_may_have_begin_nothing(self):
        for metadata, status in (
            ({"os_glance_x": "y"}, 403),
            ({"size": "1"}, 403),
            ({f"name {number}": "" for number in range(200)}, 413),
        ):
            with self.subTest(metadata=metadata):
                wanted = {"name": "golden", "metadata": metadata}
                assert self.act(self.server, createImage=wanted).status_code == status
        self.server.refresh_from_db()
        assert self.server.task == ""

    def test_its_console_is_read_by_lines(self):
        self.compute.consoles[self.server.pk] = "one\ntwo\nthree\n"
        for length, output in ((None, "one\ntwo\nthree\n"), (2, "two\nthree\n")):
            response = self.act(self.server, os_getConsoleOutput={"length": length})
            assert response.json()["output"] == output

    def test_each_needs_its_role(self):
        creator = UserFactory.create(roles=[(self.beta, Role.SERVERS_CREATOR)])
        images = UserFactory.create(roles=[(self.beta, Role.IMAGES_ADMIN)])
        self.plain = self.token(images, self.beta)
        assert self.bob_asks("GET", "/servers").status_code == 403
        self.plain = self.token(creator, self.beta)
        assert self.bob_asks("GET", self.path()).status_code == 200
        assert self.bob_asks("DELETE", self.path()).status_code == 403
        assert self.act(self.server, os_stop=None).status_code == 403
        assert self.act(self.server, createImage={"name": "x"}).status_code == 403
        assert self.order().status_code == 202


class RestTests(ComputeTestCase):
    def test_versions_are_told_honestly(self):
        version = self.api("GET", V21).json()["version"]
        assert (version["version"], version["min_version"]) == ("2.1", "2.1")
        assert self.api("GET", "/compute/IAD/").json()["versions"] == [version]

    def test_one_microversion_is_spoken(self):
        answer = self.bob_asks("GET", "/flavors", OpenStack_API_Version="compute 2.1")
        assert answer["X-OpenStack-Nova-API-Version"] == "2.1"
        for asked in ("compute 2.90", "compute x"):
            refused = self.bob_asks("GET", "/flavors", OpenStack_API_Version=asked)
            assert refused.status_code == 406

    def test_flavors_are_listed_and_shown(self):
        FlavorFactory.create(id="hidden", is_public=False)
        listed = self.bob_asks("GET", "/flavors/detail").json()["flavors"]
        assert [(each["id"], each["ram"]) for each in listed] == [("small", 512)]
        assert not self.bob_asks("GET", f"/flavors?minRam={10**30}").json()["flavors"]
        assert self.bob_asks("GET", "/flavors/hidden").status_code == 200
        assert self.bob_asks("GET", "/flavors/none").status_code == 404

    def test_the_zone_is_the_region(self):
        zones = self.bob_asks("GET", "/os-availability-zone").json()
        assert zones["availabilityZoneInfo"][0]["zoneName"] == "IAD"

    def test_limits_are_the_account_s(self):
        limits = self.bob_asks("GET", "/limits").json()["limits"]["absolute"]
        assert limits["totalInstancesUsed"] == 0
        assert limits["maxTotalInstances"] > 0
        assert limits["totalCoresUsed"] == 0
        self.flavor.vcpus = 3
        self.flavor.save()
        ServerFactory.create(account=self.beta, flavor=self.flavor)
        limits = self.bob_asks("GET", "/limits").json()["limits"]["absolute"]
        assert (limits["totalInstancesUsed"], limits["totalCoresUsed"]) == (1, 3)

    def test_a_key_is_imported_shown_and_deleted(self):
        keypair = {"name": "second", "public_key": ED25519}
        made = self.bob_asks("POST", "/os-keypairs", {"keypair": keypair})
        assert made.json()["keypair"]["fingerprint"].startswith("SHA256:")
        twice = self.bob_asks("POST", "/os-keypairs", {"keypair": keypair})
        assert twice.status_code == 409
        names = [
            each["keypair"]["name"]
            for each in self.bob_asks("GET", "/os-keypairs").json()["keypairs"]
        ]
        assert names == ["laptop", "second"]
        assert self.bob_asks("GET", "/os-keypairs/second").status_code == 200
        assert self.bob_asks("DELETE", "/os-keypairs/second").status_code == 202
        assert self.bob_asks("DELETE", "/os-keypairs/second").status_code == 404

    def test_what_is_no_key_is_refused(self):
        for keypair in (
            {"name": "x"},
            {"name": "x", "public_key": "ssh-rsa rubbish"},
            {"name": "x", "public_key": "-----BEGIN OPENSSH PRIVATE KEY-----"},
            {"name": "a\0", "public_key": ED25519},
            {"public_key": ED25519},
        ):
            with self.subTest(keypair=keypair):
                response = self.bob_asks("POST", "/os-keypairs", {"keypair": keypair})
                assert response.status_code == 400

    def test_a_region_that_is_none_has_nothing(self):
        response = self.api("GET", "/compute/ZZZ/v2.1/servers", token=self.plain)
        assert response.status_code == 404

import time
import uuid
from dataclasses import replace
from unittest import mock

from django.urls import reverse
from procrastinate.contrib.django.models import ProcrastinateJob

from accounts.models import Account
from accounts.permissions import Role
from images.models import Image
from servers import tasks
from servers.compute.backends import compute_for
from servers.compute.base import PowerState
from servers.models import Server, SSHKey
from tests.cast import CastTestCase
from tests.factories import (
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
    UserFactory,
)
from tests.limits import limited
from tests.servers.factories import (
    ED25519,
    FlavorFactory,
    ServerFactory,
    SSHKeyFactory,
)
from tests.servers.fakes import PNG, FakeComputeMixin, FakeStore


class ServerViewTestCase(FakeComputeMixin, CastTestCase):
    def setUp(self):
        super().setUp()
        self.small = FlavorFactory.create()
        self.base = ImageFactory.create(owner=None, name="Tiny Linux")
        self.client.force_login(self.bob)

    def sign_in(self, role, account=None):
        user = UserFactory.create(roles=[(account or self.beta, role)])
        self.client.force_login(user)

    def url(self, name, *args, account=None):
        return reverse(f"servers:{name}", args=[(account or self.beta).number, *args])

    def get(self, page, /, *args, htmx=False, **query):
        headers = {"HX-Request": "true"} if htmx else {}
        return self.client.get(self.url(page, *args), query, headers=headers)

    def post(self, page, /, *args, htmx=False, **data):
        headers = {"HX-Request": "true"} if htmx else {}
        return self.client.post(self.url(page, *args), data, headers=headers)

    def server(self, **changes):
        changes = {"account": self.beta, "by": self.bob, "active": True, **changes}
        return ServerFactory.create(**changes)

    def order(self, htmx=False, **changes):
        data = {
            "token": uuid.uuid4(),
            "region": "IAD",
            "name": "web-1",
            "image": self.base.pk,
            "flavor": "small",
            **changes,
        }
        return self.post("create", htmx=htmx, **data)


class ListTests(ServerViewTestCase):
    def test_the_list_shows_the_account_s_servers_alone(self):
        self.server(name="mine")
        self.server(name="theirs", account=self.acme)

        self.assertContains(self.get("list"), "mine")
        self.assertNotContains(self.get("list"), "theirs")

    def test_the_region_narrows_the_list(self):
        london = RegionFactory.create(code="LON")
        image = ImageFactory.create(owner=None, region=london)
        self.server(name="far", image=image)
        self.server(name="near")

        response = self.get("list", region="LON")
        self.assertContains(response, "far")
        self.assertNotContains(response, "near")

    def test_an_empty_list_says_what_to_do(self):
        self.assertContains(self.get("list"), "No servers yet")

    def test_pages_go_on_where_the_last_one_ended(self):
        with limited(servers=99, memory_mb=1 << 20):
            servers = [
                self.server(name=f"n-{n:02}", image=self.base) for n in range(30)
            ]
        self.assertContains(self.get("list"), "n-05")
        second = self.get("list", after=servers[5].pk)

        self.assertNotContains(second, "n-05")
        for n in range(5):
            self.assertContains(second, f"n-0{n}")

    def test_an_unknown_page_says_so(self):
        for key in ["nonsense", uuid.uuid4()]:
            self.assertContains(self.get("list", after=key), "That page is gone")

    def test_the_number_of_queries_does_not_grow_with_the_list(self):
        self.server()
        self.get("list")
        with self.assertNumQueries(QUERIES["list"]):
            self.get("list")
        for _ in range(4):
            self.server()
        with self.assertNumQueries(QUERIES["list"]):
            self.get("list")

    def test_a_region_without_qemu_is_named_at_the_top(self):
        self.compute.unavailable = "QEMU is not installed."

        for page in ["list", "create"]:
            self.assertContains(self.get(page), "QEMU is not installed.")

    def test_a_row_is_sent_again_only_when_it_has_changed(self):
        server = self.server()
        server.reboot(by=self.bob)
        row = self.get("row", server.pk, htmx=True)
        seen = row.context["row"].version

        assert row.status_code == 200
        assert self.get("row", server.pk, htmx=True, seen=seen).status_code == 204
        tasks.reboot(server_id=str(server.pk))
        assert self.get("row", server.pk, htmx=True, seen=seen).status_code == 200

    def test_the_row_of_a_server_that_is_gone_disappears(self):
        server = self.server()
        server.forget()

        response = self.get("row", server.pk, htmx=True)
        assert (response.status_code, response.content) == (200, b"")
        assert self.get("row", server.pk).status_code == 404
        assert self.get("row", uuid.uuid4(), htmx=True).status_code == 404

    def test_an_observer_sees_why_nothing_can_be_done(self):
        self.server()
        self.sign_in(Role.SERVERS_OBSERVER)

        response = self.get("list")
        self.assertContains(response, "needs nova:admin")
        self.assertContains(response, "needs nova:creator")


class SelectorTests(ServerViewTestCase):
    def test_the_page_begins_in_the_home_region(self):
        self.beta.home_region = RegionFactory.create(code="LON")
        self.beta.save()
        ImageFactory.create(owner=None, name="Far", region=self.beta.home_region)

        response = self.get("create")
        self.assertContains(response, "Far")
        self.assertNotContains(response, "Tiny Linux")

    def test_each_tab_shows_its_own_images(self):
        own = ImageFactory.create(owner=self.beta, name="Own image")
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        tabs = {"base": self.base, "mine": own, "shared": self.image}

        for tab, image in tabs.items():
            with self.subTest(tab=tab):
                response = self.get("create", tab=tab, htmx=True)
                shown = {o.image for o in response.context["selector"].images}
                assert shown == {image}
                self.assertContains(response, image.name)

    def test_what_cannot_be_booted_is_not_shown(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        ImageFactory.create(owner=self.beta, status="queued")

        for tab in ["mine", "shared"]:
            selector = self.get("create", tab=tab).context["selector"]
            assert selector.images == []

    def test_an_offer_is_shown_at_the_top_of_the_selector(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        RegionFactory.create(code="LON")

        self.assertContains(self.get("create"), "is offered to this account")
        elsewhere = self.get("create", region="LON")
        self.assertNotContains(elsewhere, "is offered to this account")

    def test_the_search_takes_every_character_as_itself(self):
        ImageFactory.create(owner=None, name="100% pure_image")

        for text, found in [
            ("100%", 1),
            ("PURE_", 1),
            ("%", 1),
            ("tiny", 1),
            ("x_", 0),
        ]:
            with self.subTest(text=text):
                selector = self.get("create", q=text).context["selector"]
                assert len(selector.images) == found
        assert self.get("create", q="\0").status_code == 200

    def test_the_images_come_page_by_page(self):
        Image.objects.filter(pk=self.base.pk).update(name="zero")
        for n in range(15):
            ImageFactory.create(owner=None, name=f"base {n:02}")
        first = self.get("create").context["selector"]
        second = self.client.get(self.url("create") + first.next_query)

        names = [o.image.name for o in second.context["selector"].images]
        assert names == ["base 12", "base 13", "base 14", "zero"]
        assert self.get("create", after="odd").status_code == 200

    def test_create_server_with_image_chooses_it(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        FlavorFactory.create(id="tiny", ram_mb=64, disk_gb=1)
        Image.objects.filter(pk=self.image.pk).update(min_ram_mb=96)

        response = self.get("create", image=self.image.pk)
        self.assertContains(response, "A shared image is a nonstandard image")
        self.assertContains(response, "The image needs at least 96 MB RAM.")
        self.assertContains(response, f'value="{self.image.pk}"')

    def test_an_image_that_cannot_be_booted_cannot_be_chosen(self):
        for image in [self.image.pk, uuid.uuid4(), "nonsense"]:
            response = self.get("create", image=image)
            self.assertContains(response, "This account cannot boot that image")
            assert response.context["selector"].chosen is None

    def test_another_region_lets_go_of_the_image(self):
        RegionFactory.create(code="LON")
        response = self.get("create", image=self.base.pk, tab="base", region="LON")

        assert response.context["selector"].chosen is None
        assert response.context["selector"].region.pk == "LON"

    def test_the_number_of_queries_does_not_grow(self):
        for count in [1, 6]:
            ImageFactory.create_batch(count, owner=None)
            SSHKeyFactory.create(account=self.beta)
            self.get("create", image=self.base.pk)
            with self.assertNumQueries(QUERIES["create"]):
                self.get("create", image=self.base.pk)


class OrderTests(ServerViewTestCase):
    def test_an_order_shows_the_password_once_and_keeps_a_hash(self):
        for htmx in [False, True]:
            with self.subTest(htmx=htmx):
                response = self.order(htmx=htmx)
                assert response.status_code == 201
                password = response.context["password"]
                self.assertContains(response, password, status_code=201)
                assert "no-store" in response["Cache-Control"]
                server = response.context["server"]
                assert server.password_hash.startswith("$6$")
                detail = self.get("detail", server.pk)
                self.assertNotContains(detail, password)

    def test_no_secret_is_in_a_job(self):
        response = self.order()

        job = ProcrastinateJob.objects.get(task_name="servers.tasks.build")
        assert job.args == {"server_id": str(response.context["server"].pk)}

    def test_a_form_sent_twice_makes_one_server_and_says_so(self):
        token = uuid.uuid4()
        self.order(token=token)
        for htmx in [False, True]:
            response = self.order(htmx=htmx, token=token)
            self.assertContains(response, "has created", status_code=409)
        assert Server.objects.count() == 1

    def test_wrong_input_is_answered_beside_its_field(self):
        FlavorFactory.create(id="hidden", is_public=False)
        big = ImageFactory.create(owner=None, min_ram_mb=99999)
        key = SSHKeyFactory.create(account=self.beta)
        far = ImageFactory.create(owner=None, region=RegionFactory.create(code="LON"))
        foreign = SSHKeyFactory.create(account=self.acme)
        wrong = [
            ({"name": ""}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"name": "a\u202eb"}, "name"),
            ({"image": ""}, "image"),
            ({"image": uuid.uuid4()}, "image"),
            ({"image": self.image.pk}, "image"),
            ({"image": far.pk}, "image"),
            ({"image": big.pk}, "flavor"),
            ({"flavor": ""}, "flavor"),
            ({"flavor": "hidden"}, "flavor"),
            ({"ssh_key": foreign.pk}, "ssh_key"),
            ({"new_key": "x"}, "new_key"),
            ({"ssh_key": key.pk, "new_key": ED25519}, "new_key"),
            ({"new_key_name": "x"}, "new_key"),
            ({"new_key": ED25519, "new_key_name": key.name}, "new_key_name"),
            ({"token": "x"}, "token"),
        ]
        for data, field in wrong:
            for htmx in [False, True]:
                with self.subTest(data=data, htmx=htmx):
                    response = self.order(htmx=htmx, **data)
                    assert response.status_code == 422
                    assert list(response.context["form"].errors) == [field]
        assert not Server.objects.exists()

    def test_what_was_typed_stays_in_the_form(self):
        response = self.order(name="keep-me", flavor="")

        self.assertContains(response, 'value="keep-me"', status_code=422)
        assert response.context["selector"].chosen == self.base

    def test_names_in_every_script_are_taken_and_escaped(self):
        for name in ["日本語", "خادم", "<b>x</b>", "🦊", "x" * 255]:
            response = self.order(name=name)
            assert response.status_code == 201
            assert b"<b>x</b>" not in response.content

    def test_a_pasted_key_is_used_and_kept_under_a_name(self):
        self.order(new_key=ED25519)
        assert not SSHKey.objects.exists()
        response = self.order(new_key=ED25519, new_key_name="laptop")

        assert response.context["server"].public_key == ED25519
        assert SSHKey.objects.get().name == "laptop"

    def test_limits_are_named_and_nothing_is_made(self):
        with limited(servers=0):
            response = self.order()
        self.assertContains(response, "may have 0 servers", status_code=422)

    def test_a_full_region_is_told_on_the_form_and_nothing_is_made(self):
        self.compute.size = replace(self.compute.size, servers=0)

        self.assertContains(self.get("create"), "no capacity in Northern Virginia")
        response = self.order()
        self.assertContains(
            response, "no capacity in Northern Virginia at present", status_code=422
        )
        assert not Server.objects.exists()

    def test_a_flavor_that_finds_no_room_is_disabled_with_the_reason(self):
        FlavorFactory.create(id="large", ram_mb=4096)
        self.compute.size = replace(self.compute.size, memory_mb=2048)
        page = self.get("create")

        self.assertContains(page, "no capacity for it in Northern Virginia", count=1)
        self.assertNotContains(page, "No servers can be started")

    def test_a_flavor_beyond_the_account_s_limit_is_disabled_with_the_reason(self):
        FlavorFactory.create(id="large", ram_mb=1024)
        with limited(memory_mb=1000):
            page = self.get("create")

        self.assertContains(page, "has only 1000 MB of memory left", count=1)

    def test_without_qemu_nothing_is_ordered(self):
        self.compute.unavailable = "QEMU is not installed."

        self.assertContains(self.order(), "QEMU is not installed.", status_code=422)
        assert not Server.objects.exists()

    def test_an_image_withdrawn_between_form_and_order_is_refused(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        self.acme.status = Account.Status.SUSPENDED
        self.acme.save()

        assert self.order(image=self.image.pk).status_code == 422

    def test_an_observer_may_look_but_not_order(self):
        self.sign_in(Role.SERVERS_OBSERVER)

        self.assertContains(self.get("create"), "needs nova:creator")
        assert self.order().status_code == 403

    def test_a_creator_orders_also_without_any_role_in_images(self):
        self.sign_in(Role.SERVERS_CREATOR)
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)

        self.assertContains(self.get("create", tab="shared"), self.image.name)
        assert self.order(image=self.image.pk).status_code == 201


class DetailTests(ServerViewTestCase):
    def test_the_page_tells_how_to_reach_the_server(self):
        response = self.get("detail", self.server().pk)

        self.assertContains(response, "ssh -p 22022 root@127.0.0.1")
        self.assertContains(response, "loopback address")

    def test_a_failed_server_shows_the_reason(self):
        server = self.server()
        self.compute.power[server.pk] = PowerState.CRASHED
        self.compute.reasons[server.pk] = "The process ended."
        tasks.reconcile(0)

        self.assertContains(self.get("detail", server.pk), "The process ended.")

    def test_a_server_from_a_shared_image_comes_with_advice(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        server = self.server(image=self.image)
        self.assertContains(self.get("detail", server.pk), "Report Image")

        share.revoke(by=self.alice)
        self.assertContains(self.get("detail", server.pk), "(no longer shared)")
        self.image.delete_with_shares(by=self.alice)
        response = self.get("detail", server.pk)
        self.assertContains(response, "(deleted image)")
        self.assertContains(response, "Report Image")
        self.assertContains(response, "Acme")

    def test_an_open_page_is_told_only_news(self):
        server = self.server()
        seen = self.get("detail", server.pk).context["row"].version

        assert self.get("detail", server.pk, htmx=True, seen=seen).status_code == 204
        server.power_off(by=self.bob)
        response = self.get("detail", server.pk, htmx=True, seen=seen)
        self.assertContains(response, "Powering off")
        self.assertContains(response, "hx-swap-oob")
        self.assertNotContains(response, "<html")

    def test_an_open_page_of_a_deleted_server_says_so_and_asks_no_more(self):
        server = self.server()
        server.forget()

        response = self.get("detail", server.pk, htmx=True)
        self.assertContains(response, "has been deleted")
        self.assertNotContains(response, "hx-trigger")
        for page in ["console", "screen"]:
            assert self.get(page, server.pk, htmx=True).content == b""
        for page in ["detail", "console", "screen"]:
            assert self.get(page, server.pk).status_code == 404

    def test_the_console_is_text_whatever_the_server_writes(self):
        server = self.server()
        self.compute.consoles[server.pk] = "old\n" * 300 + "<script>alert(1)</script>"

        response = self.get("console", server.pk)
        self.assertContains(response, "&lt;script&gt;")
        self.assertNotContains(response, "<script>alert")
        assert response.context["console_log"].count("\n") == 199
        seen = response.context["console_seen"]
        assert self.get("console", server.pk, htmx=True, seen=seen).status_code == 204
        self.compute.consoles[server.pk] += "more"
        assert self.get("console", server.pk, htmx=True, seen=seen).status_code == 200

    def test_an_old_picture_of_the_screen_is_taken_again_once(self):
        server = self.server()
        pictures = ProcrastinateJob.objects.filter(task_name="servers.tasks.screenshot")
        assert self.get("screen", server.pk).status_code == 404
        for _ in range(3):
            self.get("screen", server.pk, htmx=True)
        assert pictures.count() == 1

        self.compute.screens[server.pk] = (PNG, time.time())
        response = self.get("screen", server.pk)
        assert (response["Content-Type"], response.content) == ("image/png", PNG)
        shown = self.get("screen", server.pk, htmx=True)
        self.assertContains(shown, "<img")
        seen = shown.context["screen_seen"]
        assert self.get("screen", server.pk, htmx=True, seen=seen).status_code == 204

    def test_no_picture_is_asked_of_a_server_that_is_off(self):
        server = self.server()
        server.power_off(by=self.bob)
        tasks.power_off(server_id=str(server.pk))

        self.assertContains(self.get("screen", server.pk, htmx=True), "dark")
        assert not ProcrastinateJob.objects.filter(task_name="servers.tasks.screenshot")

    def test_the_number_of_queries(self):
        server = self.server()
        self.get("detail", server.pk)
        self.compute.screens[server.pk] = (PNG, time.time())
        with self.assertNumQueries(QUERIES["detail"]):
            self.get("detail", server.pk)


class DeedTests(ServerViewTestCase):
    DEEDS = {
        "reboot": {"how": "soft"},
        "power-off": {},
        "rename": {"name": "db-1"},
        "create-image": {"name": ""},
        "delete": {},
    }

    def test_each_deed_asks_first(self):
        server = self.server()
        for deed in self.DEEDS:
            for htmx in [False, True]:
                with self.subTest(deed=deed, htmx=htmx):
                    response = self.get(deed, server.pk, htmx=htmx)
                    self.assertContains(response, server.name)
                    assert (b"<html" in response.content) is not htmx

    def test_each_deed_is_done(self):
        for deed, data in self.DEEDS.items():
            for htmx in [False, True]:
                with self.subTest(deed=deed, htmx=htmx):
                    server = self.server(image=self.base)
                    response = self.post(deed, server.pk, htmx=htmx, **data)
                    there = ["list"] if deed == "delete" else ["detail", server.pk]
                    header = "HX-Redirect" if htmx else "Location"
                    assert response[header] == self.url(*there)
                    server.refresh_from_db()
                    assert server.task or server.name == "db-1"

    def test_a_deed_leads_back_to_the_page_it_was_asked_on(self):
        server = self.server()
        here = "http://testserver" + self.url("list")
        response = self.client.post(
            self.url("power-off", server.pk),
            headers={"HX-Request": "true", "HX-Current-URL": here},
        )

        assert response["HX-Redirect"] == self.url("list")

    def test_the_wrong_state_is_a_conflict_with_the_state_now(self):
        server = self.server()
        server.delete_later(by=self.bob)
        for deed, data in self.DEEDS.items():
            for htmx in [False, True]:
                with self.subTest(deed=deed, htmx=htmx):
                    response = self.post(deed, server.pk, htmx=htmx, **data)
                    assert response.status_code == 409
                    assert b"Deleting" in response.content
        response = self.post("power-on", server.pk)
        self.assertContains(response, "Deleting is under way", status_code=409)

    def test_power_on(self):
        server = self.server()
        server.power_off(by=self.bob)
        tasks.power_off(server_id=str(server.pk))

        self.assertContains(self.get("detail", server.pk), "Power on")
        response = self.post("power-on", server.pk)
        assert response["Location"] == self.url("detail", server.pk)
        server.refresh_from_db()
        assert server.task == "powering-on"

    def test_odd_input_is_refused(self):
        server = self.server()
        assert self.post("reboot", server.pk, how="x").status_code == 422
        assert self.post("reboot", server.pk).status_code == 422
        for name in ["", "x" * 256, "a\tb"]:
            assert self.post("rename", server.pk, name=name).status_code == 422

    def test_another_account_s_server_is_not_there(self):
        server = self.server(account=self.acme)
        for page in ["detail", "row", "console", "screen", *self.DEEDS]:
            with self.subTest(page=page):
                assert self.get(page, server.pk).status_code == 404
                assert self.get(page, server.pk, htmx=True).status_code == 404
        for deed, data in [*self.DEEDS.items(), ("power-on", {})]:
            with self.subTest(deed=deed):
                assert self.post(deed, server.pk, **data).status_code == 404
        server.refresh_from_db()
        assert server.task == ""

    def test_a_creator_may_not_manage(self):
        server = self.server()
        self.sign_in(Role.SERVERS_CREATOR)

        for deed, data in [*self.DEEDS.items(), ("power-on", {})]:
            with self.subTest(deed=deed):
                assert self.post(deed, server.pk, **data).status_code == 403

    def test_a_region_on_an_unknown_backend_shows_why_nothing_runs(self):
        with (
            mock.patch.multiple("servers.views", compute_for=compute_for),
            mock.patch.multiple("servers.rows", compute_for=compute_for),
        ):
            server = self.server()
            server.region.backend = "moon"
            server.region.save()
            response = self.get("detail", server.pk)
            self.assertContains(response, "“moon” is not known here")
            assert self.get("screen", server.pk).status_code == 404


class CreateImageTests(ServerViewTestCase):
    def setUp(self):
        super().setUp()
        self.web = self.server(name="web-1", image=self.base)

    def shared_server(self):
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        return self.server(name="from acme", image=self.image)

    def saving(self):
        return Image.objects.get(status="saving")

    def test_an_image_is_in_saved_images_at_once(self):
        self.post("create-image", self.web.pk, name="golden")

        image = self.saving()
        assert (image.name, image.owner, image.region) == (
            "golden",
            self.beta,
            self.web.region,
        )
        listed = self.client.get(reverse("images:list", args=[self.beta.number]))
        self.assertContains(listed, "golden")
        self.assertContains(listed, self.url("detail", self.web.pk))
        self.assertContains(listed, "Saving")
        Image.objects.update(progress=40)
        row = reverse("images:row", args=[self.beta.number, image.pk])
        self.assertContains(self.client.get(row), "Saving 40 %")
        detail = self.get("detail", self.web.pk)
        self.assertContains(detail, "Creating an image")
        self.assertContains(detail, "Saving 40 %")
        self.assertContains(detail, "by <bdi>bob</bdi>")

    def test_without_a_name_it_is_called_as_the_server(self):
        self.post("create-image", self.web.pk, name="  ")

        assert self.saving().name == "web-1"

    def test_names_are_taken_in_every_script_and_need_not_be_unique(self):
        for name in ["画像 <b>", "画像 <b>"]:
            self.post("create-image", self.web.pk, name=name)
            Image.objects.update(status="error")
            Server.objects.update(task="")

        assert Image.objects.filter(name="画像 <b>").count() == 2
        self.assertNotContains(self.get("detail", self.web.pk), "画像 <b>")

    def test_odd_names_are_refused(self):
        for name in ["x" * 256, "a\tb"]:
            for htmx in [False, True]:
                response = self.post("create-image", self.web.pk, name=name, htmx=htmx)
                assert response.status_code == 422
                assert list(response.context["form"].errors) == ["name"]
        assert not Image.objects.filter(origin="server").exists()

    def test_the_dialog_says_what_the_image_of_a_running_server_is(self):
        said = "as if the power were cut"
        self.assertContains(self.get("create-image", self.web.pk), said)
        self.assertContains(self.get("create-image", self.web.pk), "private keys")
        Server.objects.update(status="SHUTOFF")
        self.assertNotContains(self.get("create-image", self.web.pk), said)

    def test_a_second_click_is_a_conflict_and_makes_no_second_image(self):
        for htmx in [False, True]:
            self.post("create-image", self.web.pk, name="one")
            response = self.post("create-image", self.web.pk, name="two", htmx=htmx)
            self.assertContains(response, "being made already: one", status_code=409)
            assert Image.objects.filter(origin="server").count() == 1

    def test_what_has_no_disk_in_order_is_a_conflict_with_the_state(self):
        states = {
            ("BUILD", "spawning"): "Building is under way",
            ("ACTIVE", "deleting"): "Deleting is under way",
            ("ACTIVE", "rebooting"): "Rebooting is under way",
            ("ERROR", ""): "is error, so",
        }
        for (status, task), said in states.items():
            for htmx in [False, True]:
                with self.subTest(status=status, task=task, htmx=htmx):
                    Server.objects.update(status=status, task=task)
                    response = self.post("create-image", self.web.pk, htmx=htmx)
                    self.assertContains(response, said, status_code=409)
        assert not Image.objects.filter(origin="server").exists()

    def test_a_full_quota_or_store_is_an_error_of_the_form(self):
        with limited(images=0):
            for htmx in [False, True]:
                response = self.post("create-image", self.web.pk, htmx=htmx)
                self.assertContains(response, "may have 0 images", status_code=422)
        with mock.patch.object(FakeStore, "full", new=True):
            response = self.post("create-image", self.web.pk)
            self.assertContains(response, "no room left", status_code=422)
        self.compute.size = replace(self.compute.size, free_bytes=0)
        response = self.post("create-image", self.web.pk)
        self.assertContains(response, "no room left", status_code=422)
        self.web.refresh_from_db()
        assert self.web.task == ""

    def test_a_server_of_a_shared_image_offers_your_own_copy(self):
        server = self.shared_server()
        offer = "Keep your own copy"
        for page in (self.get("list"), self.get("detail", server.pk)):
            self.assertContains(page, offer)
            self.assertContains(page, self.url("create-image", server.pk))
        dialog = self.get("create-image", server.pk, htmx=True)
        self.assertContains(dialog, "your own copy</strong>")
        self.assertContains(dialog, "Acme")
        self.assertNotContains(self.get("detail", self.web.pk), offer)

    def test_the_accepted_image_leads_to_its_servers_or_to_create_server(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        page = reverse("images:detail", args=[self.beta.number, self.image.pk])
        new = f"{self.url('create')}?region=IAD&amp;image={self.image.pk}"
        self.assertContains(self.client.get(page), "Boot a server from this image")
        self.assertContains(self.client.get(page), f'class="btn" href="{new}"')

        server = self.server(name="from acme", image=self.image)
        self.server(account=self.corp, name="of corp")
        shown = self.client.get(page)
        self.assertContains(shown, self.url("create-image", server.pk))
        self.assertContains(shown, "Create Image of <bdi>from acme")
        self.assertNotContains(shown, "Boot a server from this image")
        self.assertNotContains(shown, "of corp")

    def test_a_role_that_falls_short_is_told_so_everywhere(self):
        server = self.shared_server()
        self.sign_in(Role.SERVERS_CREATOR)
        detail = self.get("detail", server.pk)
        self.assertContains(detail, "Keeping a copy needs nova:admin")
        self.assertNotContains(detail, self.url("create-image", server.pk))
        assert self.post("create-image", server.pk).status_code == 403

        # Who sees images only learns of no server either.
        self.sign_in(Role.IMAGES_ADMIN)
        page = reverse("images:detail", args=[self.beta.number, self.image.pk])
        self.assertContains(self.client.get(page), "Keeping a copy needs nova:admin")
        self.assertNotContains(self.client.get(page), "from acme")

    def test_who_sees_servers_only_gets_no_link_to_images(self):
        self.post("create-image", self.web.pk, name="golden")
        self.sign_in(Role.SERVERS_ADMIN)

        detail = self.get("detail", self.web.pk)
        self.assertContains(detail, "golden")
        images = reverse("images:detail", args=[self.beta.number, self.saving().pk])
        self.assertNotContains(detail, images)

    def test_who_sees_images_only_gets_no_link_to_the_server(self):
        self.post("create-image", self.web.pk, name="golden")
        self.sign_in(Role.IMAGES_ADMIN)
        here = reverse("images:list", args=[self.beta.number])

        self.assertContains(self.client.get(here), "web-1")
        self.assertNotContains(self.client.get(here), self.url("detail", self.web.pk))


class KeyTests(ServerViewTestCase):
    def test_of_two_keys_at_once_with_one_name_the_second_is_told(self):
        with mock.patch.object(SSHKey, "add", side_effect=SSHKey.Taken("Taken.")):
            response = self.post("keys", name="laptop", public_key=ED25519)
            self.assertContains(response, "Taken.", status_code=422)
            response = self.order(new_key=ED25519, new_key_name="laptop")
            self.assertContains(response, "Taken.", status_code=201)

    def test_an_account_keeps_so_many_keys_and_no_more(self):
        with mock.patch("servers.models.key.MOST_KEYS", 1):
            self.post("keys", name="laptop", public_key=ED25519)
            response = self.post("keys", name="desktop", public_key=ED25519)
        self.assertContains(response, "at most 1 keys", status_code=422)
        assert self.beta.ssh_keys.count() == 1

    def test_keys_are_added_and_deleted(self):
        self.post("keys", name="laptop", public_key=ED25519)
        key = self.beta.ssh_keys.get()
        self.assertContains(self.get("keys"), key.fingerprint)

        self.assertContains(self.get("key-delete", key.pk), key.fingerprint)
        assert self.post("key-delete", key.pk, htmx=True)["HX-Redirect"]
        assert not self.beta.ssh_keys.exists()
        assert self.post("key-delete", key.pk).status_code == 404

    def test_wrong_keys_are_told_why(self):
        SSHKeyFactory.create(account=self.beta, name="taken")
        wrong = [
            ({"name": "", "public_key": ED25519}, "name"),
            ({"name": "taken", "public_key": ED25519}, "name"),
            ({"name": "new", "public_key": "-----BEGIN PRIVATE KEY"}, "public_key"),
            ({"name": "new", "public_key": ""}, "public_key"),
        ]
        for data, field in wrong:
            for htmx in [False, True]:
                with self.subTest(data=data, htmx=htmx):
                    response = self.post("keys", htmx=htmx, **data)
                    assert response.status_code == 422
                    assert list(response.context["form"].errors) == [field]

    def test_an_observer_sees_keys_and_adds_none(self):
        key = SSHKeyFactory.create(account=self.beta)
        self.sign_in(Role.SERVERS_OBSERVER)

        self.assertContains(self.get("keys"), "needs nova:creator")
        response = self.post("keys", name="x", public_key=ED25519)
        assert response.status_code == 403
        assert self.post("key-delete", key.pk).status_code == 403

    def test_another_account_s_keys_are_not_there(self):
        key = SSHKeyFactory.create(account=self.acme)

        self.assertNotContains(self.get("keys"), key.name)
        assert self.post("key-delete", key.pk).status_code == 404


QUERIES = {"list": 4, "create": 10, "detail": 7}

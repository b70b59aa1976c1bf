"""Pages of images, as browsers with and without htmx ask for them."""

from unittest import mock
from uuid import uuid4

from accounts.models import Account
from accounts.permissions import Role
from images.models import Image, ImageConflict
from images.views import STOP_POLLING
from sharing.models import ImageShare
from tests.factories import (
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
    UserFactory,
)
from tests.images.case import HTMX, ImageTestCase

# What people call their images: markup, emoji, right to left, no space to break at.
NAMES = [
    "<script>alert(1)</script> & \"quotes\" 'too'",
    "🚀 рабочий образ",
    "صورة الخادم",
    "x" * 255,
    "100%_done\\",
    "{{ name }} {% now %}",
]


def a_saving(owner, **fields):
    return ImageFactory.create(owner=owner, status="saving", blob=None, **fields)


class ListTests(ImageTestCase):
    def test_alice_sees_her_image(self):
        response = self.get("list")

        self.assertContains(response, self.image.name)
        self.assertContains(response, f'title="{self.image.pk}"')
        self.assertContains(response, "Uploaded")
        self.assertContains(response, "17.0 MiB")
        self.assertTemplateUsed(response, "base.html")

    def test_htmx_gets_the_table_alone(self):
        response = self.get("list", headers=HTMX)

        self.assertContains(response, self.image.name)
        self.assertTemplateNotUsed(response, "base.html")
        assert "HX-Request" in response["Vary"]

    def test_bob_sees_what_he_accepted_and_from_whom(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        self.client.force_login(self.bob)

        response = self.get("list", account=self.beta)

        self.assertContains(response, "Shared Image")
        self.assertContains(response, f"<bdi>Acme</bdi> ({self.acme.number})")
        for said in ("Create Server with Image", "Remove Image", "Report Image"):
            self.assertContains(response, said)
        for name in ("edit", "download", "delete"):
            url = self.url(name, self.image.pk, account=self.beta)
            self.assertNotContains(response, url)

    def test_bob_never_sees_the_server_that_an_image_came_from(self):
        Image.objects.filter(pk=self.image.pk).update(
            origin="server", source_server_id=uuid4(), source_server_name="secret-db"
        )
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)

        self.assertContains(self.get("list"), "secret-db")
        self.client.force_login(self.bob)
        for page in ("list", "detail", "row"):
            args = [] if page == "list" else [self.image.pk]
            response = self.get(page, *args, account=self.beta)
            self.assertNotContains(response, "secret-db")

    def test_pending_and_rejected_images_are_not_on_the_list(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        self.client.force_login(self.bob)
        self.assertNotContains(
            self.get("list", account=self.beta), f"gear-{self.image.pk}"
        )
        share.reject(by=self.bob)
        self.assertNotContains(
            self.get("list", account=self.beta), f"gear-{self.image.pk}"
        )

    def test_names_are_shown_as_they_are_typed(self):
        for name in NAMES:
            ImageFactory.create(owner=self.acme, name=name)
        response = self.get("list")

        self.assertNotContains(response, "<script>alert")
        self.assertContains(response, "&lt;script&gt;alert(1)&lt;/script&gt; &amp;")
        for name in NAMES[1:]:
            self.assertContains(response, f">{name}</bdi>")

    def test_all_that_a_gear_offers_the_owner(self):
        response = self.get("list")

        for said in (
            "Create Server with Image",
            "Share Image",
            "Edit",
            "Download",
            "Delete",
        ):
            self.assertContains(response, said)
        self.assertContains(response, f"?region=IAD&amp;image={self.image.pk}")

    def test_what_a_role_does_not_allow_stays_with_its_reason(self):
        observer = UserFactory.create(roles=[(self.acme, Role.IMAGES_OBSERVER)])
        self.client.force_login(observer)

        response = self.get("list")

        for doing, needs in {
            "Sharing": "cloudImages:creator",
            "Editing": "cloudImages:admin",
            "Deleting": "cloudImages:admin or nova:admin",
            "Uploading": "cloudImages:admin",
            "Creating a server": "nova:creator",
        }.items():
            self.assertContains(response, f"{doing} needs {needs}")
        self.assertContains(response, "alice")
        self.assertNotContains(response, self.url("edit", self.image.pk))

    def test_what_a_state_does_not_allow_stays_with_its_reason(self):
        Image.objects.filter(pk=self.image.pk).update(
            status="deactivated", protected=True
        )
        response = self.get("list")

        self.assertContains(response, "The image is Deactivated, not Active.", count=3)
        self.assertContains(response, "The image is protected")
        self.assertNotContains(response, self.url("delete", self.image.pk))

    def test_a_suspended_producer_s_image_cannot_be_booted(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        Account.objects.filter(pk=self.acme.pk).update(status="suspended")
        self.client.force_login(self.bob)

        self.assertContains(
            self.get("list", account=self.beta), "The account that shares it is suspend"
        )

    def test_the_region_narrows_the_list_and_every_region_has_its_count(self):
        london = RegionFactory.create(code="LON")
        ImageFactory.create_batch(2, owner=self.acme, region=london)
        shared = ImageFactory.create(region=london)
        ImageShareFactory.create(image=shared, consumer=self.acme, accepted=True)

        response = self.get("list", region="LON")

        self.assertContains(response, 'London <span class="count">3</span>')
        self.assertContains(response, 'Northern Virginia <span class="count">1</span>')
        self.assertContains(
            response, 'All Regions (Global) <span class="count">4</span>'
        )
        self.assertContains(response, shared.name)
        self.assertNotContains(response, f"gear-{self.image.pk}")
        self.assertContains(response, f"/images/{shared.pk}/?region=LON")

    def test_counts_end_at_a_hundred(self):
        ImageFactory.create_batch(100, owner=self.acme, blob=self.image.blob)

        self.assertContains(self.get("list"), '<span class="count">100+</span>', 2)

    def test_what_makes_no_sense_is_told_and_the_first_page_is_shown(self):
        for query, said in {
            "region=MARS": "There is no region MARS",
            "sort=colour": "Images cannot be sorted by colour",
            "after=nonsense": "That page does not exist",
            "before=WzEsMl0=": "That page does not exist",
            "after=WyIyMDI2IiwgIjEiXQ==": "That page does not exist",
            "sort=size&after=WzFlMzA4LCAiNGJjNCJd": "That page does not exist",
        }.items():
            for headers in (None, HTMX):
                with self.subTest(query=query, headers=headers):
                    response = self.client.get(
                        f"{self.url('list')}?{query}", headers=headers
                    )
                    self.assertContains(response, self.image.name)
                    if headers is None or "region" not in query:
                        self.assertContains(response, said)

    def test_each_kind_of_emptiness_says_what_to_do(self):
        RegionFactory.create(code="LON")
        self.assertContains(
            self.get("list", region="LON"), "No saved images in London (LON)"
        )
        self.assertContains(
            self.get("list", q="<nothing>"), "“<bdi>&lt;nothing&gt;</bdi>”"
        )
        self.image.delete_with_shares(by=self.alice)
        self.assertContains(self.get("list"), "No saved images yet")

    def test_the_number_of_queries_does_not_grow_with_the_images(self):
        ImageFactory.create_batch(30, owner=self.acme, blob=self.image.blob)
        for image in ImageFactory.create_batch(5):
            ImageShareFactory.create(image=image, consumer=self.acme, accepted=True)
        self.get("list")

        with self.assertNumQueries(5):
            self.get("list")
        with self.assertNumQueries(3):
            self.get("list", headers=HTMX)


class RowTests(ImageTestCase):
    def test_a_row_asks_again_while_its_image_is_saved(self):
        saving = a_saving(self.acme, progress=40)
        url = self.url("row", saving.pk)

        self.assertContains(self.get("list"), f'hx-get="{url}"')
        row = self.get("row", saving.pk, headers=HTMX)
        self.assertContains(row, "Saving 40 %")
        self.assertContains(row, "hx-trigger")

        saving.fail("It was of no use.")
        row = self.get("row", saving.pk, headers=HTMX)
        self.assertContains(row, "Error")
        self.assertNotContains(row, "hx-trigger")

    def test_a_row_that_is_gone_is_taken_away(self):
        response = self.get("row", uuid4(), headers=HTMX)

        assert (response.status_code, response.content) == (STOP_POLLING, b"")

    def test_carol_gets_no_row_of_alice_s(self):
        self.client.force_login(self.carol)

        assert self.get("row", self.image.pk).status_code == 404
        response = self.get("row", self.image.pk, account=self.corp)
        assert response.status_code == STOP_POLLING


class DetailTests(ImageTestCase):
    def test_alice_sees_everything(self):
        Image.objects.filter(pk=self.image.pk).update(
            tags=["web", "<b>"], description="First\nsecond", created_by="dave"
        )
        response = self.get("detail", self.image.pk)

        for said in (
            self.image.blob.digest,
            str(self.image.pk),
            "&lt;b&gt;",
            "First<br>second",
            "dave",
            "Image Sharing",
            "64.0 MiB",
        ):
            self.assertContains(response, said)

    def test_bob_sees_an_offered_image_but_not_who_made_it(self):
        Image.objects.filter(pk=self.image.pk).update(created_by="dave")
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        self.client.force_login(self.bob)

        for answer, has_gear in ((None, False), ("accept", True), ("remove", False)):
            if answer:
                getattr(share, answer)(by=self.bob)
            with self.subTest(answer=answer):
                response = self.get("detail", self.image.pk, account=self.beta)
                self.assertContains(response, self.image.blob.digest)
                self.assertContains(response, "/etc/passwd")
                self.assertNotContains(response, "dave")
                assert (f"gear-{self.image.pk}" in response.text) is has_gear

    def test_bob_loses_the_page_with_the_share(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        self.client.force_login(self.bob)
        share.revoke(by=self.alice)

        response = self.get("detail", self.image.pk, account=self.beta)
        assert response.status_code == 404

    def test_carol_sees_a_base_image_and_no_other(self):
        base = ImageFactory.create(owner=None)
        self.client.force_login(self.carol)

        self.assertContains(
            self.get("detail", base.pk, account=self.corp), "Base image"
        )
        response = self.get("detail", self.image.pk, account=self.corp)
        assert response.status_code == 404

    def test_it_follows_an_image_that_is_saved(self):
        saving = a_saving(self.acme, progress=40)

        self.assertContains(self.get("detail", saving.pk), "40 % done")
        part = self.get("detail", saving.pk, headers=HTMX)
        self.assertTemplateNotUsed(part, "base.html")
        self.assertContains(part, 'hx-trigger="every 3s"')

        saving.fail("It was of no use.")
        assert self.get("detail", saving.pk, headers=HTMX)["HX-Refresh"] == "true"


class EditTests(ImageTestCase):
    FIELDS = {
        "name": "web, new",
        "description": "One\r\ntwo",
        "os": "Debian 14",
        "tags": "web, golden,, web ",
        "min_disk_gb": "10",
        "min_ram_mb": "512",
        "protected": "on",
    }

    def edit(self, headers=None, **changes):
        data = self.FIELDS | changes
        return self.post("edit", self.image.pk, data=data, headers=headers)

    def test_alice_edits_and_bob_sees_the_new_name(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)

        self.assertRedirects(self.edit(), self.url("detail", self.image.pk))

        self.image.refresh_from_db()
        assert self.image.name == "web, new"
        assert self.image.description == "One\ntwo"
        assert self.image.tags == ["web", "golden"]
        assert self.image.protected
        assert (self.image.min_disk_gb, self.image.min_ram_mb) == (10, 512)
        self.client.force_login(self.bob)
        self.assertContains(self.get("list", account=self.beta), "web, new")

    def test_htmx_leaves_for_the_page_it_came_from(self):
        listed = self.url("list", sort="name")
        headers = HTMX | {"HX-Current-URL": f"http://testserver{listed}"}

        assert self.edit(headers=headers)["HX-Redirect"] == listed
        assert self.edit(headers=HTMX)["HX-Redirect"] == self.url(
            "detail", self.image.pk
        )

    def test_what_is_not_sound_is_said_beside_the_field(self):
        for changes in (
            {"name": ""},
            {"name": "   "},
            {"name": "x" * 300},
            {"name": "a\0b"},
            {"name": "a\x07b"},
            {"name": "report\u202egpj.exe"},
            {"name": "a\nb"},
            {"description": "x" * 1001},
            {"description": "\x1b[2J"},
            {"tags": "x" * 61},
            {"tags": ",".join(map(str, range(21)))},
            {"tags": "a\x00"},
            {"min_disk_gb": "-1"},
            {"min_ram_mb": "99999999999"},
            {"min_ram_mb": ""},
            {"os": "x" * 101},
        ):
            for headers in (None, HTMX):
                with self.subTest(changes=changes, headers=headers):
                    response = self.edit(headers=headers, **changes)
                    assert response.status_code == 422
                    self.assertContains(response, "errorlist", status_code=422)
        before = self.image.name
        self.image.refresh_from_db()
        assert self.image.name == before

    def test_names_in_any_script_come_back_as_they_were(self):
        for name in NAMES:
            with self.subTest(name=name):
                assert self.edit(name=name).status_code == 302
                self.image.refresh_from_db()
                assert self.image.name == name
                form = self.get("edit", self.image.pk).context["form"]
                assert form["name"].value() == name

    def test_the_form_shows_what_is_there(self):
        self.edit()

        self.assertContains(self.get("edit", self.image.pk), "web, golden")

    def test_an_image_deleted_meanwhile(self):
        gone = ImageConflict("It has been deleted in the meantime.")
        with mock.patch.object(Image, "edit", side_effect=gone):
            for headers in (None, HTMX):
                response = self.edit(headers=headers)
                self.assertContains(response, "in the meantime", status_code=409)

    def test_bob_cannot_edit_what_he_accepted(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        self.client.force_login(self.bob)

        for name in ("edit", "delete", "download"):
            for method in ("get", "post"):
                url = self.url(name, self.image.pk, account=self.beta)
                status = getattr(self.client, method)(url).status_code
                assert status == 404 or (name, method) == ("download", "post")


class DeleteTests(ImageTestCase):
    def test_the_question_names_how_many_accounts_lose_it(self):
        for consumer in (self.beta, self.corp):
            ImageShareFactory.create(image=self.image, consumer=consumer)

        response = self.get("delete", self.image.pk)

        self.assertContains(response, "It is shared with 2 accounts.")
        assert Image.objects.filter(pk=self.image.pk).exists()

    def test_alice_deletes_it_and_bob_loses_it(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)

        self.assertRedirects(self.post("delete", self.image.pk), self.url("list"))

        assert not Image.objects.filter(pk=self.image.pk).exists()
        assert not ImageShare.objects.exists()
        assert self.post("delete", self.image.pk).status_code == 404

    def test_a_protected_image_stays(self):
        Image.objects.filter(pk=self.image.pk).update(protected=True)

        self.assertContains(self.get("delete", self.image.pk), "is protected")
        for headers in (None, HTMX):
            response = self.post("delete", self.image.pk, headers=headers)
            self.assertContains(response, "is protected", status_code=409)
        assert Image.objects.filter(pk=self.image.pk).exists()

    def test_htmx_comes_back_to_the_list_as_it_was(self):
        listed = self.url("list", q="web")
        headers = HTMX | {"HX-Current-URL": f"http://testserver{listed}"}

        response = self.post("delete", self.image.pk, headers=headers)

        assert response["HX-Redirect"] == listed

    def test_a_servers_admin_deletes_though_the_list_is_closed_to_them(self):
        dave = UserFactory.create(roles=[(self.acme, Role.SERVERS_ADMIN)])
        self.client.force_login(dave)

        response = self.client.post(self.url("delete", self.image.pk), follow=True)

        assert response.status_code == 200
        self.assertContains(response, "has been deleted")


class BulkDeleteTests(ImageTestCase):
    def setUp(self):
        super().setUp()
        self.more = ImageFactory.create_batch(2, owner=self.acme)
        self.ids = [str(image.pk) for image in [self.image, *self.more]]

    def test_the_question_lists_what_goes_and_who_loses_it(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        Image.objects.filter(pk=self.more[0].pk).update(protected=True)

        response = self.get("bulk-delete", image=self.ids)

        self.assertContains(response, "Is deleted; 1 account loses it")
        self.assertContains(response, "Stays, because it is protected")
        self.assertContains(response, self.more[1].name)
        assert Image.objects.count() == 3

    def test_one_that_cannot_go_spoils_nothing(self):
        Image.objects.filter(pk=self.more[0].pk).update(protected=True)
        others = ImageFactory.create()

        response = self.client.post(
            self.url("bulk-delete"),
            {"image": [*self.ids, others.pk, uuid4(), "nonsense"]},
            follow=True,
        )

        assert set(Image.objects.all()) == {self.more[0], others}
        self.assertContains(response, "2 images have been deleted.")
        self.assertContains(response, f"{self.more[0].name} is protected")
        self.assertContains(response, "2 of the chosen images are not here")

    def test_nothing_chosen(self):
        response = self.client.get(self.url("bulk-delete"), follow=True)

        self.assertContains(response, "Choose the images to delete first.")

    def test_htmx_leaves_the_page(self):
        response = self.post("bulk-delete", data={"image": self.ids}, headers=HTMX)

        assert response["HX-Redirect"] == self.url("list")
        assert not Image.objects.exists()

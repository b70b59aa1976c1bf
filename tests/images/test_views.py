"""Pages of images, as browsers with and without htmx ask for them."""

from django.urls import reverse

from accounts.permissions import Role
from images.models import Image
from tests.cast import CastTestCase
from tests.factories import (
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
    UserFactory,
)

HTMX = {"HX-Request": "true"}


class ImageTestCase(CastTestCase):
    def setUp(self):
        self.client.force_login(self.alice)

    def url(self, name, *args, account=None, **query):
        account = account or self.acme
        return reverse(f"images:{name}", args=[account.number, *args], query=query)

    def get(self, name, *args, headers=None, account=None, **query):
        url = self.url(name, *args, account=account, **query)
        return self.client.get(url, headers=headers)


class ListTests(ImageTestCase):
    def test_alice_sees_her_image(self):
        response = self.get("list")

        self.assertContains(response, self.image.name)
        self.assertContains(response, f'id="gear-{self.image.pk}"')
        self.assertContains(response, "Uploaded")
        self.assertTemplateUsed(response, "base.html")

    def test_htmx_gets_the_table_alone(self):
        response = self.get("list", headers=HTMX)

        self.assertContains(response, self.image.name)
        self.assertTemplateNotUsed(response, "base.html")

    def test_bob_sees_what_he_accepted_and_from_whom(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        self.client.force_login(self.bob)

        response = self.get("list", account=self.beta)

        self.assertContains(response, "Shared Image")
        self.assertContains(response, f"<bdi>Acme</bdi> ({self.acme.number})")
        self.assertContains(response, "Remove Image")
        self.assertNotContains(
            response, self.url("delete", self.image.pk, account=self.beta)
        )

    def test_detail(self):
        response = self.get("detail", self.image.pk)
        self.assertContains(response, self.image.blob.digest)
        for name in ("edit", "delete"):
            self.assertEqual(self.get(name, self.image.pk).status_code, 200)
        self.assertEqual(self.get("upload").status_code, 200)
        self.assertEqual(self.get("bulk-delete", image=self.image.pk).status_code, 200)

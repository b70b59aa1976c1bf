"""The page that shows the OpenAPI documents."""

from django.test import TestCase

from tests.test_templates import INLINE


class ReferenceTests(TestCase):
    def test_every_operation_of_each_service_is_on_its_page(self):
        seen = 0
        for service in ("identity", "image", "compute"):
            page = self.client.get(f"/docs/api/{service}/").text
            document = self.client.get(f"/{service}/openapi.json").json()
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    seen += 1
                    with self.subTest(operation=f"{method} {path}"):
                        assert f"<b>{method.upper()}</b> {path}</code>" in page
                        assert operation["summary"].replace("'", "&#x27;") in page
        assert seen > 60

    def test_it_is_for_everyone_and_needs_no_script(self):
        page = self.client.get("/docs/api/")
        assert page.status_code == 200
        assert not INLINE.search(page.text)

    def test_an_operation_tells_role_parameters_body_answers_and_a_command(self):
        page = self.client.get("/docs/api/image/").text
        start = page.index('id="members-add-member"')
        shown = page[start : page.index("</section>", start)]
        for text in (
            "Needs a token with cloudImages:creator",
            "The ID of an image",
            "application/json",
            "<code>member</code>",
            "<code>409</code> Conflict",
            "http://testserver/image/IAD/v2/images/IMAGE_ID/members",
            "X-Auth-Token: $TOKEN",
            "82000126",
        ):
            with self.subTest(text=text):
                assert text in shown

    def test_every_link_leads_to_an_operation(self):
        for service in ("identity", "image", "compute"):
            page = self.client.get(f"/docs/api/{service}/").text
            links = page.split('href="#')[1:]
            assert len(links) > 30
            for link in links:
                assert f'id="{link.split('"')[0]}"' in page

    def test_a_service_that_is_none_is_not_found(self):
        assert self.client.get("/docs/api/volume/").status_code == 404

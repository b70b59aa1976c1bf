"""The OpenAPI documents, which the code makes, tell what a reader needs."""

import re
from itertools import product
from pathlib import Path

import jsonschema_rs
from django.conf import settings
from django.test import TestCase

from tests.factories import RegionFactory

SERVICES = ["identity", "image", "compute"]
GUIDE = Path(settings.BASE_DIR, "docs", "api.md")
# In the guide's tables a path begins behind these.
BASES = ["/identity/v3", "/image/<>/v2", "/compute/<>/v2.1"]


class OpenApiTests(TestCase):
    def operations(self):
        for service in SERVICES:
            document = self.client.get(f"/{service}/openapi.json").json()
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    with self.subTest(operation=f"{method} {path}"):
                        yield path, method, operation, document

    def test_every_operation_says_what_it_is_and_what_it_answers(self):
        seen = 0
        for path, _, operation, _ in self.operations():
            seen += 1
            assert operation["summary"]
            assert operation["tags"]
            assert min(map(int, operation["responses"])) < 400
            assert {"400", "503"} <= operation["responses"].keys()
            for part in operation["parameters"]:
                assert part["schema"]
                assert part["in"] != "path" or f"{{{part['name']}}}" in path
        assert seen > 60

    def test_what_needs_a_token_says_so_and_what_refuses_it(self):
        for path, method, operation, document in self.operations():
            (scheme,) = document["components"]["securitySchemes"].values()
            assert scheme["name"] == "X-Auth-Token"
            is_open = operation["tags"] in (["Versions"], ["Discovery"])
            signs_in = method == "post" and path.endswith("/auth/tokens")
            if "security" in operation:
                assert {"401", "403", "429"} <= operation["responses"].keys()
            else:
                assert is_open or signs_in

    def test_every_body_has_its_media_type_and_every_json_body_an_example(self):
        bodies = 0
        for _, _, operation, _ in self.operations():
            for kind, content in operation.get("requestBody", {"content": {}})[
                "content"
            ].items():
                bodies += 1
                assert content["schema"]
                assert "example" in content or kind == "application/octet-stream"
        assert bodies > 12

    def test_every_example_is_what_the_body_is_described_to_be(self):
        """Two bodies of one name would be described as one of them."""
        examples = 0
        for _, _, operation, document in self.operations():
            contents = operation.get("requestBody", {"content": {}})["content"]
            for content in contents.values():
                if "example" in content:
                    examples += 1
                    whole = content["schema"] | {"components": document["components"]}
                    jsonschema_rs.validate(whole, content["example"])
        assert examples > 10

    def test_every_refusal_is_described_in_the_service_s_own_form(self):
        for _, _, operation, _ in self.operations():
            for status, answer in operation["responses"].items():
                assert "X-Openstack-Request-Id" in answer["headers"]
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Error"}

    def test_the_guide_has_every_operation_in_its_tables_and_no_other(self):
        written = {
            (method.upper(), unnamed(path)) for path, method, _, _ in self.operations()
        }
        assert guide_s_operations() == written

    def test_a_region_that_is_none_has_no_versions(self):
        RegionFactory.create(code="IAD")
        for path, status in (
            ("/compute/IAD", 200),
            ("/compute/nowhere", 404),
            ("/compute/nowhere/v2.1", 404),
            ("/compute/%00", 404),
            ("/image/nowhere", 404),
        ):
            with self.subTest(path=path):
                assert self.client.get(path).status_code == status


def guide_s_operations():
    """Of the first cell in each row: `GET /a`, `/b`, or `PUT`, `DELETE /c`."""
    found = set()
    for base, section in zip(BASES, guide_s_sections(), strict=True):
        for row in re.findall(r"^\| (`[A-Z]+.*?) \|", section, re.M):
            methods = []
            for method, path in re.findall(r"`([A-Z]*) ?(/[^`]*)?`", row):
                methods += [method] if method else []
                here = unnamed(path)
                whole = here if is_whole(here) else base + here
                found |= set(product(methods, [whole])) if path else set()
    return found


def guide_s_sections():
    sections = {}
    for section in GUIDE.read_text().split("\n## ")[1:]:
        sections[section.split(":")[0].lower()] = section
    return [sections["identity"], sections["images"], sections["compute"]]


def is_whole(path):
    return path.startswith(("/identity/", "/image/", "/compute/"))


def unnamed(path):
    return re.sub("{[^}]*}|<[^>]*>", "<>", path)

import json
from uuid import uuid4

from accounts.permissions import Role
from images.models import Image
from images.reconciling import defer_admit
from sharing.models import ShareEvent
from tests.api.images import PATCH, V2, ImagesTestCase
from tests.factories import ImageFactory, ImageShareFactory
from tests.images.case import lose_jobs
from tests.limits import limited


class DiscoveryTests(ImagesTestCase):
    def test_the_root_lists_versions_without_a_token(self):
        for path, status in (("", 300), ("/", 300), ("/versions", 200), ("/v2", 300)):
            with self.subTest(path):
                response = self.client.get(f"/image/IAD{path}")
                assert response.status_code == status
                newest = response.json()["versions"][0]
                assert (newest["id"], newest["status"]) == ("v2.7", "CURRENT")
                href = newest["links"][0]["href"]
                assert href == "http://testserver/image/IAD/v2/"

    def test_a_region_that_there_is_not_has_no_versions(self):
        for region in ("ZZZ", "%00"):
            assert self.client.get(f"/image/{region}").status_code == 404

    def test_import_is_of_staged_data_alone(self):
        methods = self.call("GET", "/info/import").json()["import-methods"]
        assert methods["value"] == ["glance-direct"]
        assert len(self.call("GET", "/info/stores").json()["stores"]) == 1

    def test_there_is_a_schema_of_each_thing(self):
        for name in ("image", "images", "member", "members", "task", "tasks"):
            schema = self.call("GET", f"/schemas/{name}").json()
            assert schema["name"] == name
            assert schema["properties"]
        assert self.call("GET", "/schemas/other").status_code == 404

    def test_there_are_no_tasks(self):
        assert self.call("GET", "/tasks").json()["tasks"] == []
        assert self.call("GET", "/tasks/1").status_code == 404
        assert self.call("GET", self.at(self.image, "/tasks")).json() == {"tasks": []}
        assert self.call("GET", self.at(uuid4(), "/tasks")).status_code == 404

    def test_the_document_names_every_operation(self):
        paths = self.client.get("/image/openapi.json").json()["paths"]
        operations = [each for path in paths.values() for each in path.values()]
        assert len(operations) == 27
        assert all(each["summary"] for each in operations)
        images = paths["/image/{region}/v2/images"]
        assert "sort_key" in {each["name"] for each in images["get"]["parameters"]}
        assert images["post"]["requestBody"]["required"]


class ErrorTests(ImagesTestCase):
    def test_json_is_for_those_who_ask_for_it_by_name(self):
        path = self.at(uuid4())
        asked = self.call("GET", path)
        assert asked.json() == {
            "code": "404 Not Found",
            "title": "Not Found",
            "message": f"No image found with ID {path.rsplit('/', 1)[1]}",
        }
        page = self.call("GET", path, Accept="*/*")
        assert page["Content-Type"].startswith("text/html")
        assert "<h1>404 Not Found</h1>" in page.text
        shown = self.call("POST", "/images", {"name": "<b>", "x": 1}, Accept="*/*")
        assert "<b>" not in shown.text


class ShowTests(ImagesTestCase):
    def test_the_owner_sees_everything(self):
        Image.objects.filter(pk=self.image.pk).update(
            properties={"os_distro": "debian"}, description="For tests", tags=["a"]
        )
        body = self.call("GET", self.at(self.image)).json()
        image = Image.objects.get(pk=self.image.pk)
        assert body["id"] == str(image.pk)
        assert body["visibility"] == "shared"
        assert body["owner"] == self.acme.pk
        assert body["os_distro"] == "debian"
        assert body["description"] == "For tests"
        assert body["os"] == "Debian 13"
        assert (body["os_hash_algo"], body["checksum"]) == ("sha256", None)
        assert body["os_hash_value"] == image.blob.digest
        assert body["created_at"] == image.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert body["file"] == f"/v2/images/{image.pk}/file"

    def test_a_consumer_sees_less_whatever_it_answered(self):
        Image.objects.filter(pk=self.image.pk).update(
            properties={"key": "secret"}, protected=True, source_server_name="web-1"
        )
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        for status in ("pending", "accepted", "rejected"):
            share.set_status(share.Status(status), by=self.bob)
            answer = self.call("GET", self.at(self.image), by="bob")
            assert answer.status_code == 200
            assert "secret" not in answer.text
            assert "web-1" not in answer.text
            assert "alice" not in answer.text
            assert answer.json()["protected"] is False

    def test_what_is_not_visible_is_answered_like_what_there_is_not(self):
        there, gone = self.image.pk, uuid4()
        for method, rest, body in (
            ("GET", "", None),
            ("PATCH", "", None),
            ("DELETE", "", None),
            ("GET", "/file", None),
            ("POST", "/actions/deactivate", None),
            ("PUT", "/tags/x", None),
            ("GET", "/members", None),
            ("POST", "/members", {"member": self.beta.pk}),
            ("PUT", f"/members/{self.corp.pk}", {"status": "accepted"}),
            ("DELETE", f"/members/{self.corp.pk}", None),
        ):
            with self.subTest(method=method, rest=rest):
                answers = []
                for pk in (there, gone):
                    if method == "PATCH":
                        path = self.at(pk)
                        answer = self.send(method, path, "[]", PATCH, by="carol")
                    else:
                        answer = self.call(method, self.at(pk, rest), body, by="carol")
                    assert answer.status_code == 404, answer.text
                    answers.append(answer.text.replace(str(pk), "ID"))
                assert answers[0] == answers[1]

    def test_an_id_that_is_none_is_not_found(self):
        for path in ("/images/web", "/images/1234", "/images/%00", "/images/a%2Fb"):
            assert self.call("GET", path).status_code == 404

    def test_it_is_one_query_beside_the_token_s(self):
        self.call("GET", self.at(self.image))
        with self.assertNumQueries(2):
            self.call("GET", self.at(self.image))

    def test_the_statuses_as_the_image_api_names_them(self):
        for status, shown in (("queued", "queued"), ("error", "killed")):
            image = ImageFactory.create(owner=self.acme, status=status, blob=None)
            body = self.call("GET", self.at(image)).json()
            assert (body["status"], body["size"]) == (shown, None)


class CreateTests(ImagesTestCase):
    def test_a_new_image_waits_for_its_data(self):
        sent = {
            "name": "web",
            "disk_format": "qcow2",
            "container_format": "bare",
            "min_disk": 3,
            "min_ram": 64,
            "tags": ["a", "a"],
            "protected": True,
            "os_hidden": True,
            "description": "For tests",
            "os_distro": "debian",
            "owner": self.acme.pk,
            "visibility": "private",
        }
        response = self.call("POST", "/images", sent)
        assert response.status_code == 201, response.text
        body = response.json()
        assert response["Location"] == f"/v2/images/{body['id']}"
        assert response["OpenStack-image-import-methods"] == "glance-direct"
        assert {name: body[name] for name in sent} == sent | {"tags": ["a"]}
        assert body["status"] == "queued"
        image = Image.objects.get(pk=body["id"])
        assert (image.owner, image.created_by) == (self.acme, "alice")
        assert image.properties == {"os_distro": "debian"}

    def test_without_a_name_it_is_called_by_its_id(self):
        for sent in ({}, {"name": None}, {"name": ""}):
            body = self.call("POST", "/images", sent).json()
            assert body["name"] == body["id"]
            assert body["disk_format"] is body["container_format"] is None
            assert body["visibility"] == "shared"

    def test_an_id_can_be_chosen_and_is_taken_once(self):
        chosen = str(uuid4())
        assert self.call("POST", "/images", {"id": chosen}).json()["id"] == chosen
        again = self.call("POST", "/images", {"id": chosen})
        assert again.status_code == 409
        assert "already exists" in again.json()["message"]
        # Nor while something is still done with one that was deleted.
        image = Image.objects.get(pk=chosen)
        defer_admit(image)
        assert self.call("DELETE", self.at(image)).status_code == 204
        assert self.call("POST", "/images", {"id": chosen}).status_code == 409
        lose_jobs()
        assert self.call("POST", "/images", {"id": chosen}).status_code == 201

    def test_what_is_wrong_is_told_and_makes_nothing(self):
        for body, status, words in (
            (b"{", 400, "Malformed JSON"),
            (b"\xff", 400, "Malformed JSON"),
            (b'{"x": NaN}', 400, "Malformed JSON"),
            (b'{"name": "\\ud800"}', 400, "Malformed JSON"),
            (b"[" * 100_000, 400, "Malformed JSON"),
            (b"1", 400, "Unexpected body type"),
            (b"[]", 400, "does not match schema"),
            (b"", 400, "Body expected"),
            ({"name": 1}, 400, "name: it is not a string"),
            ({"name": "x" * 256}, 400, "name: it is longer than 255"),
            ({"name": "a\0b"}, 400, "Control characters"),
            ({"name": "a\u202eb"}, 400, "Control characters"),
            ({"id": "1"}, 400, "no UUID"),
            ({"id": 1}, 400, "no UUID"),
            ({"protected": "yes"}, 400, "protected: it is not a boolean"),
            ({"min_disk": "1"}, 400, "min_disk: it is not an integer"),
            ({"min_disk": True}, 400, "min_disk: it is not an integer"),
            ({"min_ram": -1}, 400, "min_ram: it is not between"),
            ({"min_ram": 1 << 40}, 400, "min_ram: it is not between"),
            ({"disk_format": "qed"}, 400, "disk_format: it is not one of"),
            ({"disk_format": ["raw"]}, 400, "disk_format: it is not one of"),
            ({"container_format": 1}, 400, "container_format: it is not one of"),
            ({"visibility": "none"}, 400, "visibility: it is not one of"),
            ({"visibility": []}, 400, "visibility: it is not one of"),
            ({"visibility": "public"}, 403, "publicize_image"),
            ({"visibility": "community"}, 403, "communitize_image"),
            ({"owner": self.beta.pk}, 403, "not permitted"),
            ({"tags": "a"}, 400, "tags: it is not a list"),
            ({"tags": [1]}, 400, "tags: it is not a string"),
            ({"tags": ["x" * 61]}, 400, "tags: it is longer than 60"),
            ({"tags": [" "]}, 400, "tags: a tag is empty"),
            ({"tags": [str(n) for n in range(21)]}, 413, "image tags"),
            ({"os_distro": 1}, 400, "os_distro: it is not a string"),
            ({"os_distro": None}, 400, "os_distro: it is not a string"),
            ({"": "x"}, 400, "Custom property"),
            ({"x" * 256: "x"}, 400, "Custom property"),
            ({"a\nb": "x"}, 400, "single line"),
            ({"x": "y" * 2049}, 400, "longer than 2048"),
            ({f"p{n}": "" for n in range(129)}, 413, "image properties"),
            ({f"p{n}": "y" * 2000 for n in range(9)}, 413, "16384 bytes"),
            ({"status": "active"}, 403, "Attribute 'status' is read-only."),
            ({"checksum": "x"}, 403, "read-only"),
            ({"self": "x"}, 403, "read-only"),
            ({"deleted": "x"}, 403, "Attribute 'deleted' is reserved."),
            ({"os_glance_x": "x"}, 403, "is reserved"),
            ({"locations": []}, 403, "locations are invisible"),
        ):
            with self.subTest(str(body)[:60]):
                response = self.call("POST", "/images", body)
                assert response.status_code == status, response.text
                assert words in response.json()["message"]
        assert Image.objects.count() == 1

    def test_a_body_too_large_is_413(self):
        response = self.call("POST", "/images", b'"' + b"x" * (3 << 20) + b'"')
        assert response.status_code == 413

    def test_the_number_of_images_is_limited(self):
        with limited(images=1):
            response = self.call("POST", "/images", {"name": "web"})
        assert response.status_code == 413
        assert "may have 1 image" in response.json()["message"]

    def test_only_an_admin_of_images_creates(self):
        for role, status in (
            (Role.IMAGES_CREATOR, 403),
            (Role.SERVERS_ADMIN, 403),
            (Role.IMAGES_ADMIN, 201),
        ):
            self.act_as(role)
            response = self.call("POST", "/images", {"name": "web"})
            assert response.status_code == status


class UpdateTests(ImagesTestCase):
    def patch(self, *operations, kind=PATCH, image=None, by="alice"):
        path = self.at(image or self.image)
        return self.send("PATCH", path, json.dumps(operations), kind, by=by)

    def test_a_patch_changes_what_it_names(self):
        response = self.patch(
            {"op": "replace", "path": "/name", "value": "new"},
            {"op": "replace", "path": "/tags", "value": ["a", "b"]},
            {"op": "add", "path": "/tags/2", "value": "c"},
            {"op": "remove", "path": "/tags/0"},
            {"op": "add", "path": "/os_distro", "value": "debian"},
            {"op": "add", "path": "/x~1y", "value": "slash"},
            {"op": "add", "path": "/gone", "value": "x"},
            {"op": "remove", "path": "/gone"},
            {"op": "replace", "path": "/protected", "value": True},
            {"op": "add", "path": "/description", "value": "For tests"},
            {"op": "remove", "path": "/os"},
            {"op": "replace", "path": "/min_ram", "value": 64},
        )
        assert response.status_code == 200, response.text
        body = response.json()
        assert (body["name"], body["tags"], body["min_ram"]) == ("new", ["b", "c"], 64)
        assert (body["os_distro"], body["x/y"]) == ("debian", "slash")
        assert "gone" not in body
        assert "os" not in body
        image = Image.objects.get(pk=self.image.pk)
        assert (image.name, image.os, image.protected) == ("new", "", True)

    def test_the_older_kind_of_patch(self):
        old = PATCH.replace("2.1", "2.0")
        assert self.patch({"add": "/x", "value": "1"}, kind=old).status_code == 200
        assert self.patch({"add": "/x", "value": "2"}, kind=old).status_code == 409
        assert self.patch({"replace": "/x", "value": "2"}, kind=old).json()["x"] == "2"
        assert "x" not in self.patch({"remove": "/x"}, kind=old).json()
        assert self.patch({"op": "remove"}, kind=old).status_code == 400

    def test_all_of_a_patch_or_nothing(self):
        response = self.patch(
            {"op": "replace", "path": "/name", "value": "new"},
            {"op": "replace", "path": "/nothing", "value": "x"},
        )
        assert response.status_code == 409
        assert response.json()["message"] == "Property nothing does not exist."
        assert Image.objects.get(pk=self.image.pk).name == self.image.name

    def test_what_is_wrong_is_told(self):
        for operation, status, words in (
            (1, 400, "must be JSON objects"),
            ({"path": "/x"}, 400, "Unable to find `op`"),
            ({"op": "move", "path": "/x"}, 400, "Invalid operation: `move`"),
            ({"op": ["add"], "path": "/x"}, 400, "Invalid operation"),
            ({"op": "add", "value": "x"}, 400, "Unable to find 'path'"),
            ({"op": "add", "path": "x", "value": "x"}, 400, 'not start with "/"'),
            ({"op": "add", "path": 1, "value": "x"}, 400, 'not start with "/"'),
            ({"op": "add", "path": "/", "value": "x"}, 400, "Invalid JSON pointer"),
            ({"op": "add", "path": "/a/b", "value": "x"}, 400, "Invalid JSON pointer"),
            ({"op": "add", "path": "/~2", "value": "x"}, 400, "escape sequence"),
            ({"op": "add", "path": "/x"}, 400, 'requires a member named "value"'),
            ({"op": "add", "path": "/tags/9", "value": "x"}, 400, "position"),
            ({"op": "remove", "path": "/name"}, 403, "may not be removed"),
            ({"op": "remove", "path": "/x"}, 409, "does not exist"),
            ({"op": "replace", "path": "/status", "value": "x"}, 403, "read-only"),
            ({"op": "add", "path": "/os_glance_x", "value": "x"}, 403, "reserved"),
            ({"op": "add", "path": "/locations", "value": []}, 403, "invisible"),
            ({"op": "replace", "path": "/owner", "value": "x"}, 403, "Owner can't"),
            ({"op": "replace", "path": "/disk_format", "value": "raw"}, 403, "queued"),
            ({"op": "replace", "path": "/visibility", "value": "public"}, 403, ""),
            ({"op": "replace", "path": "/min_ram", "value": "x"}, 400, "integer"),
        ):
            with self.subTest(str(operation)):
                response = self.patch(operation)
                assert response.status_code == status, response.text
                assert words in response.json()["message"]
        assert self.patch().status_code == 200
        wrong = self.send("PATCH", self.at(self.image), "{}", PATCH)
        assert wrong.status_code == 400

    def test_another_media_type_is_415(self):
        response = self.patch(kind="application/json")
        assert response.status_code == 415
        assert PATCH in response["Accept-Patch"]

    def test_formats_change_while_there_is_no_data(self):
        image = ImageFactory.create(owner=self.acme, status="queued", blob=None)
        operation = {"op": "replace", "path": "/disk_format", "value": "raw"}
        assert self.patch(operation, image=image).json()["disk_format"] == "raw"

    def test_what_is_shared_cannot_be_made_private(self):
        private = {"op": "replace", "path": "/visibility", "value": "private"}
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        response = self.patch(private)
        assert response.status_code == 409
        assert "remove them all" in response.json()["message"]
        share.revoke(by=self.alice)
        assert self.patch(private).json()["visibility"] == "private"

    def test_others_read_and_change_nothing(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        base = ImageFactory.create(owner=None)
        for image, by in ((self.image, "bob"), (base, "alice")):
            for method, rest in (
                ("DELETE", ""),
                ("POST", "/actions/deactivate"),
                ("POST", "/actions/reactivate"),
                ("PUT", "/tags/x"),
                ("DELETE", "/tags/x"),
                ("GET", "/file"),
            ):
                with self.subTest(method=method, rest=rest):
                    answer = self.call(method, self.at(image, rest), by=by)
                    assert answer.status_code == 403, answer.text
            assert self.patch(image=image, by=by).status_code == 403


class DeedTests(ImagesTestCase):
    def test_deleting_takes_the_shares_along_and_says_who(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        assert self.call("DELETE", self.at(self.image)).status_code == 204
        event = ShareEvent.objects.latest("pk")
        assert (event.actor_name, event.via, event.to_status) == ("alice", "API", "")
        assert self.call("GET", self.at(self.image)).status_code == 404

    def test_a_protected_image_stays(self):
        Image.objects.update(protected=True)
        answer = self.call("DELETE", self.at(self.image))
        assert answer.status_code == 403
        assert "is protected and cannot be deleted" in answer.json()["message"]

    def test_an_admin_of_servers_deletes_too(self):
        self.act_as(Role.SERVERS_ADMIN)
        assert self.call("DELETE", self.at(self.image)).status_code == 204

    def test_deactivating_and_reactivating(self):
        for action, status in (
            ("reactivate", "active"),
            ("deactivate", "deactivated"),
            ("deactivate", "deactivated"),
            ("reactivate", "active"),
        ):
            path = self.at(self.image, f"/actions/{action}")
            assert self.call("POST", path).status_code == 204
            assert Image.objects.get(pk=self.image.pk).status == status

    def test_what_is_damaged_is_not_reactivated(self):
        self.image.deactivate("Its data is damaged.")
        answer = self.call("POST", self.at(self.image, "/actions/reactivate"))
        assert answer.status_code == 403
        assert answer.json()["message"] == "Its data is damaged."

    def test_only_what_has_data_is_deactivated(self):
        image = ImageFactory.create(owner=self.acme, status="queued", blob=None)
        for action in ("deactivate", "reactivate"):
            answer = self.call("POST", self.at(image, f"/actions/{action}"))
            assert answer.status_code == 403

    def test_tags_one_by_one(self):
        for tag in ("one", "two%20words", "one"):
            path = self.at(self.image, f"/tags/{tag}")
            assert self.call("PUT", path).status_code == 204
        assert Image.objects.get(pk=self.image.pk).tags == ["one", "two words"]
        path = self.at(self.image, "/tags/one")
        assert self.call("DELETE", path).status_code == 204
        assert self.call("DELETE", path).status_code == 404
        for tag in ("x" * 61, "%00", "%20"):
            path = self.at(self.image, f"/tags/{tag}")
            assert self.call("PUT", path).status_code in {400, 404}
        assert self.call("GET", f"{V2}/images").status_code == 200

from datetime import timedelta

from django.utils import timezone

from accounts.permissions import Role
from images.models import Image
from tests.api.images import V2, ImagesTestCase
from tests.factories import ImageFactory, ImageShareFactory


class ListTests(ImagesTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        Image.objects.update(name="web")
        cls.image.refresh_from_db()
        cls.base = ImageFactory.create(owner=None, name="Debian")

    def offer(self, name, *, answer="", **about):
        traits = {answer: True} if answer else {}
        image = ImageFactory.create(owner=self.beta, name=name, **about)
        ImageShareFactory.create(image=image, consumer=self.acme, **traits)
        return image

    def test_the_list_has_own_base_and_accepted_images_newest_first(self):
        self.offer("accepted", answer="accepted")
        self.offer("pending")
        self.offer("rejected", answer="rejected")
        ImageFactory.create(owner=self.corp, name="foreign")
        ImageFactory.create(owner=self.acme, name="elsewhere", region__code="LON")

        assert self.listed() == ["accepted", "Debian", "web"]

    def test_offers_are_listed_by_what_was_answered(self):
        for answer in ("accepted", "", "rejected"):
            self.offer(answer or "pending", answer=answer)
        for status in ("accepted", "pending", "rejected"):
            names = self.listed(f"?visibility=shared&member_status={status}")
            assert names == [status, "web"]
        names = self.listed("?member_status=all&visibility=shared&sort=name:asc")
        assert names == ["accepted", "pending", "rejected", "web"]

    def test_visibility_narrows(self):
        ImageFactory.create(owner=self.acme, name="secret", private=True)
        assert self.listed("?visibility=public") == ["Debian"]
        assert self.listed("?visibility=private") == ["secret"]
        assert self.listed("?visibility=shared") == ["web"]
        assert self.listed("?visibility=community") == []
        assert len(self.listed("?visibility=all")) == 3

    def test_every_filter(self):
        wanted = ImageFactory.create(
            owner=self.acme,
            name='a "b", c',
            status="deactivated",
            protected=True,
            min_disk_gb=7,
            min_ram_mb=512,
            size=1000,
            tags=["one", "two"],
            disk_format="qcow2",
            properties={"os_distro": "debian", "x": "y"},
        )
        moment = timezone.now() - timedelta(days=30)
        Image.objects.filter(pk=wanted.pk).update(created_at=moment, updated_at=moment)
        second = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        before = (moment - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
        digest = wanted.blob.digest
        queries = (
            'name=a "b", c',
            r'name=in:"a \"b\", c",other',
            f"id={wanted.pk}",
            f"id=in:{wanted.pk},{self.base.pk}&owner={self.acme.pk}",
            "status=deactivated",
            "status=in:deactivated,killed",
            "protected=true",
            "min_disk=7",
            "min_ram=512",
            "size_max=1000",
            "size_min=1000&size_max=1001",
            "tag=one&tag=two",
            "disk_format=qcow2",
            "container_format=bare&tag=one",
            "os_distro=debian",
            "os_distro=debian&x=y",
            f"os_hash_value={digest}",
            f"created_at=lte:{second}",
            f"created_at={second}",
            f"created_at=eq:{second}",
            f"created_at=gt:{before}&created_at=lt:{second[:10]}T23:59:59%2B00:00"
            f"&created_at=lte:{second}",
            f"updated_at=gte:{before}&updated_at=lte:{second}",
        )
        for query in queries:
            with self.subTest(query):
                assert self.listed(f"?{query}") == ['a "b", c']
        nothing = (
            "name=nobody",
            f"id={'0' * 8}",
            "status=queued",
            "checksum=0123",
            "os_distro=fedora",
            "tag=one&tag=three",
            f"owner={self.corp.pk}",
            f"created_at=neq:{second}&tag=one",
            f"created_at=gt:{second}&tag=one",
            f"created_at=lt:{second}",
            "os_hidden=true",
            "os_hash_algo=md5",
        )
        for query in nothing:
            with self.subTest(query):
                assert self.listed(f"?{query}") == []

    def test_filters_reach_images_that_are_shared(self):
        self.offer("theirs", answer="accepted", tags=["a"], min_ram_mb=64)
        for query in (
            f"owner={self.beta.pk}",
            "name=theirs",
            "tag=a",
            "min_ram=64",
            "status=active&name=in:theirs",
        ):
            with self.subTest(query):
                assert self.listed(f"?{query}") == ["theirs"]

    def test_what_a_consumer_is_not_told_finds_nothing(self):
        self.offer(
            "theirs", answer="accepted", protected=True, properties={"key": "secret"}
        )
        assert self.listed("?key=secret") == []
        assert self.listed("?protected=true") == []
        assert "theirs" in self.listed("?protected=false")

    def test_what_is_hidden_is_listed_when_asked_for(self):
        ImageFactory.create(owner=self.acme, name="old", hidden=True)
        assert self.listed() == ["Debian", "web"]
        assert self.listed("?os_hidden=true") == ["old"]
        assert self.listed("?os_hidden=True") == ["old"]

    def test_sorting_by_several_keys_and_both_ways_of_saying_so(self):
        for name, size in (("b", 1), ("a", 1), ("c", 2)):
            ImageFactory.create(owner=self.acme, name=name, size=size, os="x")
        for query in (
            "sort=size:asc,name:desc",
            "sort_key=size&sort_key=name&sort_dir=asc&sort_dir=desc",
        ):
            assert self.listed(f"?os=x&{query}") == ["b", "a", "c"]
        assert self.listed("?os=x&sort_key=name&sort_dir=asc") == ["a", "b", "c"]
        assert self.listed("?os=x&sort=name") == ["c", "b", "a"]

    def test_pages_in_any_order_miss_nothing_and_repeat_nothing(self):
        for n in range(5):
            ImageFactory.create(owner=self.acme, name="same", size=n // 2)
        self.offer("accepted", answer="accepted")
        for sort in ("created_at:desc", "name:asc", "size:asc,name:desc", "id"):
            with self.subTest(sort):
                whole = self.call("GET", f"/images?sort={sort}").json()
                assert "next" not in whole
                wanted = [each["id"] for each in whole["images"]]
                seen, path = [], f"/images?limit=3&sort={sort}"
                while path:
                    page = self.call("GET", path.removeprefix("/v2")).json()
                    seen += [each["id"] for each in page["images"]]
                    assert page["first"].startswith("/v2/images?limit=3")
                    path = page.get("next")
                assert seen == wanted
                assert len(seen) == 8

    def test_a_page_of_nothing(self):
        assert self.listed("?limit=0") == []

    def test_next_keeps_the_filters(self):
        for n in range(3):
            ImageFactory.create(owner=self.acme, name=f"n{n}", tags=["a", "b"])
        page = self.call("GET", "/images?tag=a&tag=b&limit=2").json()
        assert "tag=a&tag=b" in page["next"]
        last = self.call("GET", page["next"].removeprefix("/v2")).json()
        assert [each["name"] for each in last["images"]] == ["n0"]

    def test_wrong_queries_are_told_in_the_words_of_the_image_api(self):
        for query, words in {
            "limit=x": "limit param must be an integer",
            "limit=-1": "limit param must be positive",
            "marker=nobody": "No image found with ID nobody",
            f"marker={ImageFactory.create(owner=self.corp).pk}": "No image found",
            "sort_key=owner": "Invalid sort key: owner",
            "sort_dir=up": "Invalid sort direction: up",
            "sort=name&sort_key=size": "cannot be combined",
            "sort_key=name&sort_dir=asc&sort_dir=asc": "does not match the number",
            "visibility=x": "Invalid visibility value: x",
            "member_status=x": "Invalid status: x",
            "protected=yes": "Invalid value 'yes' for 'protected'",
            "os_hidden=yes": "Invalid value 'yes' for 'os_hidden'",
            "size_min=x": "non-numeric",
            "min_ram=x": "non-numeric",
            "created_at=yesterday": 'Bad "created_at" query filter format',
            "created_at=gt:0001-01-01T00:00:00%2B23:00": "Bad",
            'name=in:"a': "quote",
            "changes-since=x": "no longer available",
            "name=%00": "no such character",
            "%00=x": "no such character",
        }.items():
            with self.subTest(query):
                answer = self.call("GET", f"/images?{query}")
                assert answer.status_code == 400, answer.text
                assert answer.json()["code"] == "400 Bad Request"
                assert words in answer.json()["message"]

    def test_numbers_beyond_what_a_column_holds_find_nothing(self):
        huge = "9" * 40
        assert self.listed(f"?size_min={huge}") == []
        assert self.listed(f"?min_ram={huge}") == []

    def test_it_is_one_query_beside_the_token_s(self):
        self.listed()
        with self.assertNumQueries(2):
            self.listed()

    def test_a_role_of_servers_alone_lists_no_images(self):
        self.act_as(Role.SERVERS_ADMIN)
        answer = self.call("GET", "/images")
        assert answer.status_code == 403
        assert "cloudImages:observer" in answer.json()["message"]

    def test_a_region_that_there_is_not_is_not_found(self):
        answer = self.call("GET", "/image/ZZZ/v2/images")
        assert answer.status_code == 404
        assert self.client.get(f"{V2}/images").status_code == 401

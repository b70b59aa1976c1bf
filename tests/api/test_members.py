from django.conf import settings

from accounts.permissions import Role
from images.models import Image
from sharing.models import ImageShare, ShareEvent
from tests.api.images import ImagesTestCase
from tests.factories import AccountFactory, ImageFactory, ImageShareFactory

NOBODY_S = "99999997"


class MembersTestCase(ImagesTestCase):
    def members(self, rest="", image=None):
        return self.at(image or self.image, f"/members{rest}")

    def add(self, number=None, by="alice", image=None):
        body = {"member": number or self.beta.pk}
        return self.call("POST", self.members(image=image), body, by=by)

    def answer(self, status, by="bob", number=None):
        path = self.members(f"/{number or self.beta.pk}")
        return self.call("PUT", path, {"status": status}, by=by)


class ProducerTests(MembersTestCase):
    def test_a_member_is_added_and_waits(self):
        response = self.add()
        assert response.status_code == 200
        body = response.json()
        assert body["member_id"] == self.beta.pk
        assert body["image_id"] == str(self.image.pk)
        assert (body["status"], body["schema"]) == ("pending", "/v2/schemas/member")
        share = ImageShare.objects.get()
        assert (share.consumer, share.offered_by) == (self.beta, "alice")
        assert ShareEvent.objects.get().via == "API"

    def test_a_number_that_nobody_has_is_answered_like_any_other(self):
        known, unknown = self.add().json(), self.add(NOBODY_S).json()
        assert known.keys() == unknown.keys()
        assert unknown["status"] == "pending"
        listed = self.call("GET", self.members()).json()["members"]
        assert [each["member_id"] for each in listed] == [self.beta.pk, NOBODY_S]

    def test_what_is_wrong_is_told(self):
        for body, words in (
            ({"member": "82000119"}, "8 digits"),
            ({"member": "everyone"}, "8 digits"),
            ({"member": "é\0"}, "8 digits"),
            ({"member": 82000118}, "8 digits"),
            ({"member": ""}, "can't be empty"),
            ({}, "not specified"),
            ([], "Expected a member"),
            (b"{", "Malformed JSON"),
        ):
            with self.subTest(str(body)):
                response = self.call("POST", self.members(), body)
                assert response.status_code == 400
                assert words in response.json()["message"]

    def test_the_same_twice_is_a_conflict(self):
        self.add()
        again = self.add()
        assert again.status_code == 409
        assert again.json()["message"] == (
            f"Member {self.beta.pk} is duplicated for image {self.image.pk}"
        )

    def test_the_own_account_is_no_member(self):
        assert self.add(self.acme.pk).status_code == 409

    def test_an_image_without_data_is_not_shared(self):
        image = ImageFactory.create(owner=self.acme, status="queued", blob=None)
        assert self.add(image=image).status_code == 409

    def test_a_private_image_has_no_members(self):
        Image.objects.update(private=True)
        assert self.add().status_code == 403
        listed = self.call("GET", self.members())
        assert listed.status_code == 403
        assert "Only shared images have members." in listed.json()["message"]

    def test_a_base_image_has_no_members(self):
        base = ImageFactory.create(owner=None)
        assert self.add(image=base).status_code == 403
        assert self.call("GET", self.members(image=base)).status_code == 403

    def test_an_image_has_as_many_members_as_it_may(self):
        limits = settings.SHARING | {"members_per_image": 1}
        with self.settings(SHARING=limits):
            assert self.add().status_code == 200
            full = self.add(self.corp.pk)
        assert full.status_code == 413
        assert "limit exceeded" in full.json()["message"]

    def test_the_day_s_offers_run_out(self):
        with self.settings(SHARING=settings.SHARING | {"offers_per_day": 1}):
            self.add()
            assert self.add(self.corp.pk).status_code == 429

    def test_it_is_not_shared_by_the_consumer_nor_answered_by_the_producer(self):
        self.add()
        assert self.add(self.corp.pk, by="bob").status_code == 403
        assert self.answer("accepted", by="alice").status_code == 403

    def test_a_member_is_removed_once(self):
        self.add()
        path = self.members(f"/{self.beta.pk}")
        assert self.call("DELETE", path).status_code == 204
        assert self.call("DELETE", path).status_code == 404
        assert self.call("GET", self.members()).json()["members"] == []
        assert self.call("GET", self.at(self.image), by="bob").status_code == 404

    def test_ids_that_are_none_are_not_found(self):
        for member in ("nobody", "%00", "1" * 300, self.corp.pk):
            for method, body in (("GET", None), ("DELETE", None)):
                path = self.members(f"/{member}")
                assert self.call(method, path, body).status_code == 404


class ConsumerTests(MembersTestCase):
    def setUp(self):
        super().setUp()
        self.share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        ImageShareFactory.create(image=self.image, consumer=self.corp)

    def test_any_status_at_any_time(self):
        for status in ("accepted", "pending", "rejected", "accepted", "accepted"):
            response = self.answer(status)
            assert response.status_code == 200
            assert response.json()["status"] == status
        event = ShareEvent.objects.latest("pk")
        assert (event.actor_name, event.side, event.via) == ("bob", "consumer", "API")

    def test_another_status_is_none(self):
        for status in ("maybe", "", None, 1, ["accepted"]):
            response = self.answer(status)
            assert response.status_code == 400
            assert (
                'must be "pending", "accepted" or "rejected".'
                in response.text.replace('\\"', '"')
            )
        path = self.members(f"/{self.beta.pk}")
        assert self.call("PUT", path, {}, by="bob").status_code == 400
        assert self.call("PUT", path, [], by="bob").status_code == 400

    def test_a_consumer_finds_itself_alone(self):
        listed = self.call("GET", self.members(), by="bob").json()["members"]
        assert [each["member_id"] for each in listed] == [self.beta.pk]
        own, other = (self.members(f"/{each.pk}") for each in (self.beta, self.corp))
        assert self.call("GET", own, by="bob").status_code == 200
        assert self.call("GET", other, by="bob").status_code == 404
        assert self.answer("accepted", number=self.corp.pk).status_code == 404

    def test_a_consumer_does_not_remove_itself(self):
        path = self.members(f"/{self.beta.pk}")
        assert self.call("DELETE", path, by="bob").status_code == 403

    def test_an_answer_is_seen_by_the_producer_and_in_the_panel(self):
        self.answer("accepted")
        path = self.members(f"/{self.beta.pk}")
        assert self.call("GET", path).json()["status"] == "accepted"
        self.client.force_login(self.bob)
        page = self.client.get(f"/{self.beta.pk}/images/")
        self.assertContains(page, str(self.image.pk))


class RoleTests(MembersTestCase):
    def test_a_creator_shares_and_does_not_take_back(self):
        for role, shares, removes in (
            (Role.IMAGES_OBSERVER, 403, 403),
            (Role.IMAGES_CREATOR, 200, 403),
            (Role.IMAGES_ADMIN, 200, 204),
        ):
            with self.subTest(role):
                self.act_as(role)
                other = AccountFactory.create()
                assert self.add(other.pk).status_code == shares
                ImageShare.objects.all().delete()
                ImageShareFactory.create(image=self.image, consumer=other)
                path = self.members(f"/{other.pk}")
                assert self.call("DELETE", path).status_code == removes
                ImageShare.objects.all().delete()

    def test_a_creator_of_the_consumer_reads_and_does_not_answer(self):
        theirs = ImageFactory.create(owner=self.beta)
        ImageShareFactory.create(image=theirs, consumer=self.acme)
        self.act_as(Role.IMAGES_CREATOR)
        path = self.members(f"/{self.acme.pk}", image=theirs)
        assert self.call("GET", path).status_code == 200
        refused = self.call("PUT", path, {"status": "accepted"})
        assert refused.status_code == 403
        assert "cloudImages:admin" in refused.json()["message"]

    def test_it_is_one_query_beside_the_token_s(self):
        self.add()
        self.call("GET", self.members())
        with self.assertNumQueries(2):
            self.call("GET", self.members())

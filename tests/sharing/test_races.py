"""Deeds at the same moment: threads that meet at a barrier, on real PostgreSQL."""

from functools import partial

from django.test import TransactionTestCase

from images.models import Image
from sharing.models import ImageShare, ShareEvent
from tests.factories import (
    AccountFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
    account_number,
)
from tests.races import at_once


class RaceTests(TransactionTestCase):
    def copies(self, share, number=8):
        return [ImageShare.objects.get(pk=share.pk) for _ in range(number)]

    def test_one_of_eight_simultaneous_answers_wins(self):
        share, bob = ImageShareFactory.create(), UserFactory.create()

        outcomes = at_once(
            [partial(copy.accept, by=bob) for copy in self.copies(share)]
        )

        assert outcomes == {"done": 1, "conflict": 7}
        assert ShareEvent.objects.filter(to_status="accepted").count() == 1

    def test_of_accepting_and_rejecting_at_once_only_one_happens(self):
        share, bob = ImageShareFactory.create(), UserFactory.create()
        copies = self.copies(share)
        deeds = [partial(copy.accept, by=bob) for copy in copies[:4]]
        deeds += [partial(copy.reject, by=bob) for copy in copies[4:]]

        assert at_once(deeds) == {"done": 1, "conflict": 7}
        assert ShareEvent.objects.filter(from_status="pending").count() == 1

    def test_one_of_eight_simultaneous_revocations_wins(self):
        share, alice = ImageShareFactory.create(), UserFactory.create()

        outcomes = at_once(
            [partial(copy.revoke, by=alice) for copy in self.copies(share)]
        )

        assert outcomes == {"done": 1, "conflict": 7}
        assert ShareEvent.objects.filter(to_status="").count() == 1

    def test_an_answer_and_a_revocation_at_once_leave_a_true_story(self):
        for _ in range(5):
            share, bob = ImageShareFactory.create(), UserFactory.create()
            accepting, revoking = self.copies(share, 2)

            at_once(
                [partial(accepting.accept, by=bob), partial(revoking.revoke, by=bob)]
            )

            story = ShareEvent.objects.filter(image_id=share.image_id).order_by("pk")
            states = [(event.from_status, event.to_status) for event in story]
            assert not ImageShare.objects.filter(pk=share.pk).exists()
            assert states in (
                [("", "pending"), ("pending", "accepted"), ("accepted", "")],
                [("", "pending"), ("pending", "")],
            )

    def test_of_eight_simultaneous_offers_of_a_pair_one_is_made(self):
        image, alice = ImageFactory.create(), UserFactory.create()
        offer = partial(ImageShare.objects.offer, image, to=account_number(7), by=alice)

        assert at_once([offer] * 8) == {"done": 1, "conflict": 7}
        assert ImageShare.objects.count() == 1
        assert ShareEvent.objects.count() == 1

    def test_simultaneous_offers_do_not_pass_the_limit(self):
        image, alice = ImageFactory.create(), UserFactory.create()
        offer = partial(ImageShare.objects.offer, image, by=alice)
        with self.settings(
            SHARING={"members_per_image": 3, "offers_per_day": 100},
        ):
            outcomes = at_once(
                [partial(offer, to=account_number(n)) for n in range(900, 908)]
            )

        assert outcomes == {"done": 3, "conflict": 5}

    def test_sharing_in_one_go_and_an_offer_at_once_make_one_share(self):
        image, alice = ImageFactory.create(), UserFactory.create()
        beta, bob = AccountFactory.create(), UserFactory.create()
        offer = partial(ImageShare.objects.offer, image, to=beta.pk, by=alice)
        in_one_go = partial(
            ImageShare.objects.offer_and_accept,
            image,
            to=beta,
            by=alice,
            answered_by=bob,
        )

        assert at_once([offer, in_one_go] * 4) == {"done": 1, "conflict": 7}
        share = ImageShare.objects.get()
        told = ShareEvent.objects.order_by("-pk")[0]
        assert told.to_status == share.status

    def test_sharing_in_one_go_and_an_answer_at_once_leave_a_true_story(self):
        share, alice = ImageShareFactory.create(), UserFactory.create()
        in_one_go = partial(
            ImageShare.objects.offer_and_accept,
            share.image,
            to=share.consumer,
            by=alice,
            answered_by=alice,
        )
        accepts = [partial(copy.accept, by=alice) for copy in self.copies(share, 4)]

        assert at_once([*accepts, *[in_one_go] * 4]) == {"done": 1, "conflict": 7}
        assert ShareEvent.objects.filter(to_status="accepted").count() == 1

    def test_an_image_deleted_while_it_is_offered_leaves_no_share(self):
        image, alice = ImageFactory.create(), UserFactory.create()
        offer = partial(ImageShare.objects.offer, image, by=alice)
        offers = [partial(offer, to=account_number(n)) for n in range(900, 907)]

        at_once([*offers, partial(image.delete_with_shares, by=alice)])

        offered = ShareEvent.objects.filter(from_status="").count()
        assert ShareEvent.objects.filter(to_status="").count() == offered
        assert not ImageShare.objects.exists()
        assert not Image.objects.exists()

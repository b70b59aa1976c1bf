"""Any sequence of deeds on one pair, against a model of a few lines."""

import pytest
from hypothesis import settings
from hypothesis.extra.django import TestCase
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from images.models import Image
from sharing.models import ImageShare, ShareConflict, ShareEvent
from tests.factories import AccountFactory, ImageFactory, UserFactory

# What each deed makes of each state; what is not here is refused.
AFTER = {
    ("none", "offer"): "pending",
    ("none", "share_in_one_go"): "accepted",
    ("pending", "accept"): "accepted",
    ("pending", "reject"): "rejected",
    ("accepted", "remove"): "rejected",
    ("pending", "revoke"): "none",
    ("accepted", "revoke"): "none",
    ("rejected", "revoke"): "none",
}


class ShareMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.image = ImageFactory.create()
        self.beta = AccountFactory.create()
        self.user = UserFactory.create()
        self.state, self.events = "none", 0
        self.share = None

    def expect(self, deed, do):
        after = AFTER.get((self.state, deed))
        if after is None:
            with pytest.raises(ShareConflict):
                do()
            return
        do()
        self.state = after
        self.events += 2 if deed == "share_in_one_go" else 1

    @rule()
    def offer(self):
        def do():
            self.share = ImageShare.objects.offer(
                self.image, to=self.beta.pk, by=self.user
            )

        self.expect("offer", do)

    @rule()
    def share_in_one_go(self):
        def do():
            self.share = ImageShare.objects.offer_and_accept(
                self.image, to=self.beta, by=self.user, answered_by=self.user
            )

        self.expect("share_in_one_go", do)

    def answer(self, deed):
        """With a fresh copy, or the last one known when the share is gone."""
        share = ImageShare.objects.filter(image=self.image).first() or self.share
        if share:
            self.expect(deed, lambda: getattr(share, deed)(by=self.user))

    @rule()
    def accept(self):
        self.answer("accept")

    @rule()
    def reject(self):
        self.answer("reject")

    @rule()
    def remove(self):
        self.answer("remove")

    @rule()
    def revoke(self):
        self.answer("revoke")

    @invariant()
    def row_and_model_agree(self):
        if not hasattr(self, "image"):
            return
        share = ImageShare.objects.filter(image=self.image).first()
        assert (share.status if share else "none") == self.state
        usable = Image.objects.usable_by(self.beta).filter(pk=self.image.pk)
        assert usable.exists() == (self.state == "accepted")

    @invariant()
    def events_tell_the_story(self):
        if not hasattr(self, "image"):
            return
        events = ShareEvent.objects.filter(image_id=self.image.pk).order_by("pk")
        story = list(events.values_list("from_status", "to_status"))
        assert len(story) == self.events
        state = ""
        for before, after in story:
            assert before == state
            state = after
        assert (state or "none") == self.state


class StoryTests(TestCase):
    def test_any_sequence_of_deeds_follows_the_table(self):
        run_state_machine_as_test(
            ShareMachine,
            settings=settings(max_examples=30, stateful_step_count=25, deadline=None),
        )

from datetime import timedelta

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.test import override_settings
from django.utils import timezone

from accounts.models import Account, LimitUse
from controlpanel.http import TooMany
from images.models import Image
from sharing.models import (
    ImageReport,
    ImageShare,
    ShareConflict,
    ShareDeclaration,
    ShareEvent,
)
from tests.cast import CastTestCase
from tests.factories import (
    AccountFactory,
    ImageFactory,
    ImageShareFactory,
    account_number,
)

PENDING, ACCEPTED, REJECTED = ImageShare.Status
UNKNOWN = account_number(999)
GONE = "gone"


def limits(**changed):
    return override_settings(SHARING=settings.SHARING | changed)


# The table of docs/sharing.md.
#    from      deed      to (None: refused)
TRANSITIONS = [
    (PENDING,  "offer",  None),
    (PENDING,  "accept", ACCEPTED),
    (PENDING,  "reject", REJECTED),
    (PENDING,  "remove", None),
    (PENDING,  "revoke", GONE),
    (PENDING,  "delete", GONE),
    (ACCEPTED, "offer",  None),
    (ACCEPTED, "accept", None),
    (ACCEPTED, "reject", None),
    (ACCEPTED, "remove", REJECTED),
    (ACCEPTED, "revoke", GONE),
    (ACCEPTED, "delete", GONE),
    (REJECTED, "offer",  None),
    (REJECTED, "accept", None),
    (REJECTED, "reject", None),
    (REJECTED, "remove", None),
    (REJECTED, "revoke", GONE),
    (REJECTED, "delete", GONE),
]  # fmt: skip


class StateTableTests(CastTestCase):
    def test_every_row_of_the_table(self):
        for before, deed, after in TRANSITIONS:
            with self.subTest(before=before, deed=deed):
                self.check(before, deed, after)

    def check(self, before, deed, after):
        image = ImageFactory.create(owner=self.acme)
        share = ImageShareFactory.create(image=image, consumer=self.beta)
        share.set_status(before, by=self.bob)
        deeds = {
            "offer": lambda: ImageShare.objects.offer(
                image, to=self.beta.pk, by=self.alice
            ),
            "accept": lambda: share.accept(by=self.bob),
            "reject": lambda: share.reject(by=self.bob),
            "remove": lambda: share.remove(by=self.bob),
            "revoke": lambda: share.revoke(by=self.alice),
            "delete": lambda: image.delete_with_shares(by=self.alice),
        }
        events = ShareEvent.objects.filter(image_id=image.pk)
        events_before = events.count()
        pk = share.pk

        if after is None:
            with pytest.raises(ShareConflict):
                deeds[deed]()
        else:
            deeds[deed]()

        now = ImageShare.objects.filter(pk=pk).first()
        assert (now.status if now else GONE) == (after or before)
        assert events.count() == events_before + (0 if after is None else 1)

    def test_every_verb_on_a_share_that_is_gone_is_a_conflict(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        stale = ImageShare.objects.get(pk=share.pk)
        share.revoke(by=self.alice)

        for deed in ["accept", "reject", "remove", "revoke"]:
            with self.subTest(deed=deed), pytest.raises(ShareConflict):
                getattr(stale, deed)(by=self.bob)

    def test_through_the_api_bob_may_set_any_status_at_any_time(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        for before in ImageShare.Status:
            for after in ImageShare.Status:
                with self.subTest(before=before, after=after):
                    share.set_status(before, by=self.bob)
                    share.set_status(after, by=self.bob)
                    share.refresh_from_db()
                    assert share.status == after


class OfferTests(CastTestCase):
    def offer(self, number, **kwargs):
        return ImageShare.objects.offer(self.image, to=number, by=self.alice, **kwargs)

    def test_an_offer_is_pending(self):
        share = self.offer(self.beta.number)

        assert share.status == PENDING
        assert ImageShare.objects.received_by(self.beta).get() == share

    def test_an_account_created_later_sees_only_a_later_offer(self):
        early = self.offer(UNKNOWN)
        late = AccountFactory.create(number=UNKNOWN)

        assert early.status == PENDING
        assert not ImageShare.objects.received_by(late).exists()
        assert not ShareEvent.objects.received_by(late).exists()

        early.revoke(by=self.alice)
        self.offer(UNKNOWN).accept(by=self.carol)

        assert Image.objects.usable_by(late).get() == self.image
        assert ShareEvent.objects.received_by(late).count() == 2

    def test_cannot_be_offered_twice(self):
        for number in [self.beta.number, UNKNOWN]:
            with self.subTest(number=number):
                self.offer(number)

                with pytest.raises(ShareConflict, match="already shared"):
                    self.offer(number)

                assert ShareEvent.objects.filter(consumer_number=number).count() == 1

    def test_after_a_rejection_the_refusal_says_what_to_do(self):
        self.offer(self.beta.number).reject(by=self.bob)

        with pytest.raises(
            ShareConflict, match="remove the consumer, then share again"
        ):
            self.offer(self.beta.number)

    def test_the_database_refuses_a_second_share_of_the_same_pair(self):
        share = self.offer(UNKNOWN)
        share.pk = None

        with pytest.raises(IntegrityError), transaction.atomic():
            share.save(force_insert=True)

    def test_a_deleted_image_cannot_be_offered(self):
        Image.objects.get(pk=self.image.pk).delete_with_shares(by=self.alice)

        with pytest.raises(ShareConflict, match="deleted"):
            self.offer(self.beta.number)

    def test_cannot_be_offered_to_its_owner(self):
        with pytest.raises(ShareConflict, match="own account"):
            self.offer(self.acme.number)

    def test_a_base_image_cannot_be_offered(self):
        base = ImageFactory.create(owner=None)

        with pytest.raises(ShareConflict, match="there for everyone"):
            ImageShare.objects.offer(base, to=self.beta.number, by=self.alice)

    def test_only_an_active_image_can_be_offered(self):
        for status in ["queued", "saving", "deactivated", "error"]:
            with self.subTest(status=status):
                Image.objects.filter(pk=self.image.pk).update(status=status)
                with pytest.raises(ShareConflict, match="cannot be shared: it is"):
                    self.offer(self.beta.number)

    @limits(members_per_image=2)
    def test_an_image_has_no_more_consumers_than_allowed(self):
        self.offer(account_number(901))
        self.offer(account_number(902))

        with pytest.raises(ShareConflict, match="with 2 accounts already"):
            self.offer(account_number(903))
        with pytest.raises(ShareConflict, match="already shared with"):
            self.offer(account_number(902))

    @limits(offers_per_day=1)
    def test_what_is_refused_uses_no_offer_of_the_day_up(self):
        for _ in range(3):
            with pytest.raises(ShareConflict):
                self.offer(self.acme.number)
        self.offer(self.beta.number)

        with pytest.raises(TooMany, match="1 times today"):
            self.offer(self.corp.number)
        assert ImageShare.objects.count() == 1
        assert LimitUse.objects.get(what="offers").count == 1


class ShareInOneGoTests(CastTestCase):
    def share(self):
        return ImageShare.objects.offer_and_accept(
            self.image, to=self.beta, by=self.alice, answered_by=self.bob
        )

    def test_it_is_accepted_and_both_events_say_how(self):
        assert self.share().is_accepted

        events = list(ShareEvent.objects.order_by("pk"))
        assert [(e.side, e.actor_name, e.to_status) for e in events] == [
            ("producer", "alice", "pending"),
            ("consumer", "bob", "accepted"),
        ]
        assert all("in one go" in event.note for event in events)

    def test_what_is_shared_already_is_a_conflict(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)

        with pytest.raises(ShareConflict, match="already shared"):
            self.share()


class EventTests(CastTestCase):
    def setUp(self):
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, offered_by=self.alice
        )

    def changes(self):
        fields = ["side", "actor_name", "from_status", "to_status"]
        return list(ShareEvent.objects.order_by("pk").values_list(*fields))

    def test_every_verb_leaves_its_event(self):
        self.share.accept(by=self.bob)
        self.share.remove(by=self.bob)
        self.share.revoke(by=self.alice)

        assert self.changes() == [
            ("producer", "alice", "", "pending"),
            ("consumer", "bob", "pending", "accepted"),
            ("consumer", "bob", "accepted", "rejected"),
            ("producer", "alice", "rejected", ""),
        ]

    def test_a_deleted_image_leaves_an_event_for_each_of_its_shares(self):
        self.share.accept(by=self.bob)
        ImageShareFactory.create(image=self.image, rejected=True)
        elsewhere = ImageShareFactory.create()

        self.image.delete_with_shares(by=self.alice)

        assert sorted(self.changes()[-2:]) == [
            ("producer", "alice", "accepted", ""),
            ("producer", "alice", "rejected", ""),
        ]
        assert ImageShare.objects.get() == elsewhere

    def test_a_shared_image_cannot_go_without_events(self):
        with pytest.raises(ProtectedError):
            self.image.delete()

    def test_each_side_reads_the_names_of_its_own_users_only(self):
        self.share.accept(by=self.bob)

        sent = ShareEvent.objects.sent_by(self.acme)
        received = ShareEvent.objects.received_by(self.beta)
        assert [event.actor for event in sent] == [self.beta.number, "alice"]
        assert [event.actor for event in received] == ["bob", self.acme.number]

    def test_the_events_outlive_image_and_user(self):
        self.image.delete_with_shares(by=self.alice)
        self.alice.delete()

        event = ShareEvent.objects.sent_by(self.acme)[0]
        assert (event.image_name, event.actor) == (self.image.name, "alice")

    def test_events_are_told_in_words(self):
        self.share.accept(by=self.bob)
        self.share.remove(by=self.bob)
        self.share.revoke(by=self.alice)

        told = [event.what for event in ShareEvent.objects.sent_by(self.acme)]
        assert told == [
            "Sharing stopped",
            "Removed by the consumer",
            "Accepted",
            "Shared",
        ]


class ConsumerNameTests(CastTestCase):
    def name_read_by(self, user):
        return ImageShare.objects.with_consumer_name(user).get().consumer_name

    def test_a_name_is_known_by_the_accounts_choice_or_to_its_own_users(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)

        assert self.name_read_by(self.alice) == ""
        assert self.name_read_by(self.bob) == "Beta"
        Account.objects.filter(pk=self.beta.pk).update(discoverable=True)
        assert self.name_read_by(self.alice) == "Beta"

    def test_a_number_that_nobody_has_has_no_name(self):
        ImageShare.objects.offer(self.image, to=UNKNOWN, by=self.alice)

        assert self.name_read_by(self.alice) == ""


class OfAShareTests(CastTestCase):
    def setUp(self):
        self.share = ImageShareFactory.create(image=self.image, consumer=self.beta)

    def test_only_a_pending_share_waits_long(self):
        assert not self.share.is_long_pending
        self.share.created_at = timezone.now() - timedelta(days=4)
        assert self.share.is_long_pending
        self.share.accept(by=self.bob)
        assert not self.share.is_long_pending

    def test_the_image_of_a_suspended_producer_is_not_available(self):
        assert self.share.is_available
        Account.objects.filter(pk=self.acme.pk).update(status="suspended")

        share = ImageShare.objects.get()
        assert not share.is_available
        assert share.is_pending

    def test_a_deactivated_image_is_not_available(self):
        Image.objects.filter(pk=self.image.pk).update(status="deactivated")

        assert not ImageShare.objects.get().is_available

    def test_the_newest_answers_of_the_producer_count(self):
        assert ImageShare.objects.with_declaration().get().declared_at is None
        ShareDeclaration.objects.answer(self.image, by=self.alice)
        newest = ShareDeclaration.objects.answer(self.image, by=self.alice)

        assert (
            ImageShare.objects.with_declaration().get().declared_at == newest.created_at
        )

    def test_a_deleted_image_takes_no_answers(self):
        stale = Image.objects.get(pk=self.image.pk)
        self.image.delete_with_shares(by=self.alice)

        with pytest.raises(ShareConflict, match="deleted"):
            ShareDeclaration.objects.answer(stale, by=self.alice)

    def test_the_database_refuses_an_unknown_status(self):
        with pytest.raises(IntegrityError), transaction.atomic():
            ImageShare.objects.update(status="maybe")

    def test_nobody_revokes_all_shares_of_the_cloud_by_mistake(self):
        assert not hasattr(ImageShare.objects, "revoke")


class ReportTests(CastTestCase):
    def test_a_report_keeps_digest_and_both_accounts_when_the_image_goes(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        event = ShareEvent.objects.received_by(self.beta).get()
        report = ImageReport.objects.file(
            event, account=self.beta, by=self.bob, reason="malware", text="A miner."
        )
        digest = self.image.blob.digest
        self.image.delete_with_shares(by=self.alice)

        report.refresh_from_db()
        assert report.digest == digest
        assert (report.producer, report.reporter) == (self.acme, self.beta)
        assert report.reported_by == "bob"

    def test_a_withdrawn_image_can_be_reported(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        event = ShareEvent.objects.received_by(self.beta).get()
        self.image.delete_with_shares(by=self.alice)

        report = ImageReport.objects.file(
            event, account=self.beta, by=self.bob, reason="other", text=""
        )

        assert report.digest == ""
        assert report.image_name == self.image.name

    def test_reports_are_limited(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        event = ShareEvent.objects.received_by(self.beta).get()
        told = {"account": self.beta, "by": self.bob, "reason": "spam", "text": ""}
        with limits(reports_per_day=1):
            ImageReport.objects.file(event, **told)

            with pytest.raises(TooMany, match="1 times today"):
                ImageReport.objects.file(event, **told)
        assert ImageReport.objects.count() == 1

"""When an account loses an image, its servers keep their disks, and need it no more."""

import sys
from unittest import mock

from django.test import TransactionTestCase
from django.utils import timezone

from images.models import Blob, Image
from servers import tasks, withdrawals
from servers.compute.base import ComputeError, NoCapacity, ServerBusy
from servers.models import Server, ServerEvent, What
from servers.templatetags.image_use import accounts_using
from sharing.models import ImageShare, ShareEvent, Withdrawal
from sharing.offers import pending_offers
from tests.cast import CastTestCase
from tests.factories import (
    AccountFactory,
    BlobFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
)
from tests.images.case import waiting, work
from tests.places import places
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.servers.fakes import FakeComputeMixin


def look():
    withdrawals.look(timestamp=0)


class WithdrawalTestCase(FakeComputeMixin, CastTestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch("servers.withdrawals._LOOK_EVERY", 0))
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        self.server = self.boot(self.beta, self.image)

    def boot(self, account, image):
        return ServerFactory.create(
            account=account,
            image=image,
            flavor=FlavorFactory.create(disk_gb=1),
            active=True,
        )

    def events(self, server=None):
        server = server or self.server
        events = ServerEvent.objects.filter(server_id=server.pk).order_by("pk")
        return list(events.values_list("what", "note"))

    def assert_detached(self, server=None):
        server = server or self.server
        server.refresh_from_db()
        assert server.is_detached
        assert server.withdrawn_at
        assert self.compute.detached == {server.pk}
        assert self.events(server)[-1][0] == What.DETACHED

    def assert_untouched(self):
        self.server.refresh_from_db()
        assert self.server.withdrawn_at is None
        assert self.server.blob == self.image.blob
        assert self.compute.detached == set()

    def withdrawn(self):
        return list(Server.objects.withdrawn())


class EntitlementTests(WithdrawalTestCase):
    """Whose servers may rest on which data."""

    def test_an_accepted_image_entitles(self):
        look()
        self.assert_untouched()
        assert not waiting("detach")

    def test_nobody_else_s_share_does(self):
        ImageShareFactory.create(image=self.image, consumer=self.corp, accepted=True)
        self.share.revoke(by=self.alice)
        assert self.withdrawn() == [self.server]

    def test_an_image_offered_anew_does_not_until_it_is_accepted(self):
        self.share.revoke(by=self.alice)
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        assert self.withdrawn() == [self.server]
        share.accept(by=self.bob)
        assert self.withdrawn() == []

    def test_the_same_data_under_another_name_does_not(self):
        """Else nobody would be told that the image is gone."""
        for owner in (self.beta, None):
            ImageFactory.create(owner=owner, blob=self.image.blob)
        twin = ImageFactory.create(owner=self.corp, blob=self.image.blob)
        ImageShareFactory.create(image=twin, consumer=self.beta, accepted=True)
        assert self.withdrawn() == []
        self.share.revoke(by=self.alice)
        assert self.withdrawn() == [self.server]

    def test_other_data_under_the_same_name_does_not(self):
        base = ImageFactory.create(owner=None)
        server = ServerFactory.create(account=self.beta, image=base, active=True)
        Image.objects.filter(pk=base.pk).update(blob=BlobFactory.create())
        assert self.withdrawn() == [server]

    def test_a_suspended_producer_or_an_image_switched_off_is_no_withdrawal(self):
        self.image.deactivate("For a check")
        self.acme.status = "suspended"
        self.acme.save()
        look()
        self.assert_untouched()

    def test_a_pending_share_that_is_taken_back_starts_nothing(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.corp)
        share.revoke(by=self.alice)
        assert not waiting("look")
        assert not Withdrawal.objects.exists()


class DetachTests(WithdrawalTestCase):
    def test_when_sharing_stops_the_consumer_s_server_is_detached(self):
        own = self.boot(self.acme, self.image)
        self.share.revoke(by=self.alice)
        work()

        self.assert_detached()
        own.refresh_from_db()
        assert own.blob == self.image.blob
        assert Blob.objects.filter(pk=self.image.blob_id).exists()

    def test_when_the_consumer_removes_the_image_too(self):
        self.share.remove(by=self.bob)
        work()

        self.assert_detached()
        note = f"This account removed {self.image} from its images."
        assert (What.WITHDRAWN, note) in self.events()

    def test_and_when_the_api_sets_the_share_back(self):
        self.share.set_status(ImageShare.Status.PENDING, by=self.bob)
        work()

        self.assert_detached()

    def test_when_the_image_is_deleted_its_file_goes_with_the_last_disk(self):
        own = self.boot(self.acme, self.image)
        digest = self.image.blob.digest
        with mock.patch("images.reconciling.store_for") as store_for:
            self.image.delete_with_shares(by=self.alice)
            for server in (self.server, own):
                assert Blob.objects.exists()
                server.refresh_from_db()
                assert server.blob
            work()

        assert not Blob.objects.exists()
        assert store_for().delete.call_args.args == (digest,)
        assert self.compute.detached == {self.server.pk, own.pk}
        assert (What.WITHDRAWN, f"{self.image} was deleted.") in self.events(own)
        note = f"Acme ({self.acme.pk}) deleted {self.image}."
        assert (What.WITHDRAWN, note) in self.events()

    def test_a_withdrawn_base_image_is_let_go_of(self):
        base = ImageFactory.create(owner=None)
        server = self.boot(self.beta, base)
        base.delete_with_shares(by=self.alice)
        work()

        self.assert_detached(server)
        assert "The cloud has withdrawn" in self.events(server)[-2][1]

    def test_the_account_is_told_once_what_happened_and_when(self):
        self.share.revoke(by=self.alice)
        event = ShareEvent.objects.latest("pk")
        look()
        look()

        self.server.refresh_from_db()
        how = f"Acme ({self.acme.pk}) stopped sharing {self.image}."
        assert self.server.withdrawn_how == how
        assert self.server.withdrawn_at == event.created_at
        assert self.events().count((What.WITHDRAWN, how)) == 1
        assert "alice" not in str(self.events())

    def test_an_image_that_comes_back_in_time_is_kept(self):
        self.share.revoke(by=self.alice)
        look()
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        look()
        withdrawals.detach()

        self.assert_untouched()
        assert self.events()[-1][0] == What.GIVEN_BACK

    def test_a_server_with_a_task_comes_later(self):
        self.server.reboot(by=self.bob)
        self.share.revoke(by=self.alice)
        look()
        withdrawals.detach()
        self.server.refresh_from_db()
        assert not self.server.is_detached
        assert self.server.withdrawn_at

        tasks.reboot(server_id=str(self.server.pk))
        look()
        withdrawals.detach()
        self.assert_detached()

    def test_a_deed_begun_meanwhile_comes_first(self):
        def power_off():
            self.compute.at_detach = lambda: None
            Server.objects.get(pk=self.server.pk).power_off(by=self.bob)

        self.compute.at_detach = power_off
        self.share.revoke(by=self.alice)
        look()
        withdrawals.detach()

        # Nothing is written: the disk could be another one by now.
        self.server.refresh_from_db()
        assert self.server.blob == self.image.blob
        assert self.server.task == "powering-off"
        tasks.power_off(server_id=str(self.server.pk))
        withdrawals.detach()
        self.assert_detached()
        assert self.server.status == "SHUTOFF"

    def test_what_was_begun_and_done_meanwhile_counts_as_well(self):
        """Rebuilt, say: the disk that stands alone is then not the one it has."""

        def change():
            self.compute.at_detach = lambda: None
            Server.objects.update(changed_at=timezone.now())

        self.compute.at_detach = change
        self.share.revoke(by=self.alice)
        work()

        self.assert_detached()
        assert self.compute.deeds.count("detach") == 2

    def test_a_busy_server_is_asked_again(self):
        self.compute.trouble = ServerBusy("busy")
        self.share.revoke(by=self.alice)
        work()

        self.assert_detached()

    def test_without_room_it_waits_and_says_so_and_others_are_not_held_up(self):
        base = ImageFactory.create(owner=None)
        other = self.boot(self.beta, base)
        base.delete_with_shares(by=self.alice)
        look()
        Server.objects.filter(pk=other.pk).update(detach_tried_at="2026-01-01T00:00Z")
        self.compute.trouble = NoCapacity("The region has too little disk space.")
        self.share.revoke(by=self.alice)
        look()
        with self.assertLogs("panel.servers") as logged:
            withdrawals.detach()

        self.server.refresh_from_db()
        assert self.server.detach_problem == "The region has too little disk space."
        assert self.server.blob == self.image.blob
        assert len(logged.records) == 1
        self.assert_detached(other)

        # Not again a minute later, and not a word more when there is room.
        self.compute.trouble = NoCapacity("The region has too little disk space.")
        with self.assertNoLogs("panel.servers"):
            look()
            withdrawals.detach()
            look()
            withdrawals.detach()
        self.server.refresh_from_db()
        assert (self.server.is_detached, self.server.detach_problem) == (True, "")

    def test_a_server_that_was_never_built_lets_go_at_once(self):
        self.compute.trouble = ComputeError("No.")
        failed = self.boot(self.beta, self.image)
        assert failed.is_broken
        self.server.forget()
        self.image.delete_with_shares(by=self.alice)
        deeds = list(self.compute.deeds)
        with mock.patch("images.reconciling.store_for"):
            work()

        assert not Blob.objects.exists()
        assert self.compute.deeds == deeds
        assert What.DETACHED not in dict(self.events(failed))

    def test_one_server_does_not_take_all_the_time(self):
        with (
            mock.patch.object(self.compute, "detach", return_value=False) as asked,
            mock.patch("servers.withdrawals._LONGEST", 0.05),
        ):
            self.share.revoke(by=self.alice)
            work()

        assert asked.called
        self.server.refresh_from_db()
        assert not self.server.is_detached
        assert self.server.detach_tried_at

    def test_a_deleted_server_is_left_alone(self):
        def delete():
            Server.objects.get(pk=self.server.pk).forget()

        self.compute.at_detach = delete
        self.image.delete_with_shares(by=self.alice)
        with mock.patch("images.reconciling.store_for"):
            work()

        assert not Server.objects.exists()
        assert not Blob.objects.exists()


class DetachedServerTests(WithdrawalTestCase):
    def setUp(self):
        super().setUp()
        Image.objects.filter(pk=self.image.pk).update(virtual_size=3 << 30)
        self.server.image_virtual_size = 3 << 30
        self.server.save()
        self.image.delete_with_shares(by=self.alice)
        with mock.patch("images.reconciling.store_for"):
            work()
        self.server.refresh_from_db()

    def test_its_disk_is_as_large_as_before(self):
        assert self.server.is_detached
        assert self.server.disk_size == 3 << 30

    def test_it_takes_every_deed(self):
        for deed, job, status in [
            (Server.reboot, tasks.reboot, "ACTIVE"),
            (Server.power_off, tasks.power_off, "SHUTOFF"),
            (Server.power_on, tasks.power_on, "ACTIVE"),
            (Server.delete_later, tasks.delete, None),
        ]:
            deed(self.server, by=self.bob)
            job(server_id=str(self.server.pk))
            if status:
                self.server.refresh_from_db()
                assert (self.server.status, self.server.task) == (status, "")
        assert not Server.objects.exists()

    def test_an_image_can_be_made_of_it(self):
        image = self.server.create_image(name="our own", by=self.bob)
        assert image.min_disk_gb == 3
        with mock.patch.object(self.compute, "snapshot") as snapshot:
            tasks.snapshot(server_id=str(self.server.pk))
        assert snapshot.call_args.args[0].image is None


class KilledWorkerTests(FakeComputeMixin, TransactionTestCase):
    """Killed before any line of it, the work is brought to its end by the next."""

    def test_detaching(self):
        self.enterContext(mock.patch("servers.withdrawals._LOOK_EVERY", 0))
        lines = self.detach_until(0)
        assert lines > 20
        for line in places(lines):
            with self.subTest(line=line):
                self.detach_until(line)

    def detach_until(self, last):
        share = ImageShareFactory.create(accepted=True)
        server = ServerFactory.create(
            account=share.consumer, image=share.image, active=True
        )
        share.image.delete_with_shares(by=UserFactory.create())
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if not frame.f_code.co_filename.endswith("servers/withdrawals.py"):
                return None if event == "call" else trace
            if event == "line":
                count += 1
                if count == last:
                    raise KilledError
            return trace

        class KilledError(BaseException):
            pass

        before = sys.gettrace()  # of what counts the coverage
        sys.settrace(trace)
        try:
            look()
            withdrawals.detach()
        except KilledError:
            pass
        finally:
            sys.settrace(before)
        look()
        withdrawals.detach()
        server.refresh_from_db()
        assert server.is_detached
        events = ServerEvent.objects.filter(server_id=server.pk)
        for what in (What.WITHDRAWN, What.DETACHED):
            assert events.filter(what=what).count() == 1
        assert not Blob.objects.exists()
        server.forget()
        return count


class ProducerPagesTests(WithdrawalTestCase):
    """Alice is told whether servers use the image, and no more than that."""

    def setUp(self):
        super().setUp()
        self.client.force_login(self.alice)
        self.other = ImageShareFactory.create(
            image=self.image, consumer=self.corp, accepted=True
        )

    def page(self, path):
        response = self.client.get(f"/{self.acme.pk}/{path}")
        assert response.status_code == 200
        html = " ".join(response.content.decode().split())
        # Neither which servers nor how many.
        assert self.server.name not in html
        assert str(self.server.pk) not in html
        return html

    def test_before_she_stops_sharing(self):
        said = "Servers of this account use the image: <strong>{}</strong>"
        assert said.format("yes") in self.page(f"shares/{self.share.pk}/revoke/")
        assert said.format("no") in self.page(f"shares/{self.other.pk}/revoke/")

    def test_of_an_offer_that_is_pending_nothing_is_said(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=AccountFactory.create()
        )
        assert "use the image" not in self.page(f"shares/{share.pk}/revoke/")

    def test_in_the_table_by_one_query(self):
        html = self.page(f"images/{self.image.pk}/")
        for share, said in [(self.share, "Yes"), (self.other, "No")]:
            row = html.partition(f'id="share-{share.pk}"')[2].partition("</tr>")[0]
            assert f">{said}<" in row.partition("In use")[2]
        with self.assertNumQueries(1):
            assert accounts_using(self.image) == {self.beta.pk}

    def test_before_she_deletes_the_image(self):
        own = "of this account use it: <strong>{}"
        others = "of other accounts use it: <strong>{}"
        html = self.page(f"images/{self.image.pk}/delete/")
        assert own.format("no") in html
        assert others.format("yes") in html
        self.boot(self.acme, self.image)
        assert own.format("yes") in self.page(f"images/{self.image.pk}/delete/")

    def test_before_she_deletes_many(self):
        unused = ImageFactory.create(owner=self.acme)
        own = ImageFactory.create(owner=self.acme)
        self.boot(self.acme, own)
        chosen = "&".join(f"image={i.pk}" for i in (self.image, unused, own))
        html = self.page(f"images/delete/?{chosen}")
        for image, said in [
            (self.image, "servers of other accounts"),
            (unused, "Is deleted <"),
            (own, "servers of this account"),
        ]:
            row = html.partition(f'title="{image.pk}"')[2].partition("</tr>")[0]
            assert said in row

    def test_a_server_that_is_detached_does_not_count(self):
        self.share.remove(by=self.bob)
        assert accounts_using(self.image) == {self.beta.pk}
        work()
        assert accounts_using(self.image) == frozenset()


class ConsumerPagesTests(WithdrawalTestCase):
    def setUp(self):
        super().setUp()
        self.client.force_login(self.bob)

    def page(self, path, status=200):
        response = self.client.get(f"/{self.beta.pk}/{path}")
        assert response.status_code == status
        return " ".join(response.content.decode().split())

    def detail(self):
        return self.page(f"servers/{self.server.pk}/")

    def test_before_bob_removes_the_image_a_copy_is_offered(self):
        html = self.page(f"images/{self.image.pk}/remove/")
        assert f"servers/{self.server.pk}/create-image/" in html

        self.server.forget()
        assert "own copy" not in self.page(f"images/{self.image.pk}/remove/")

    def test_the_server_s_page_says_what_happened_and_how_far_it_is(self):
        assert 'id="withdrawn"' not in self.detail()
        self.share.revoke(by=self.alice)
        look()
        html = self.detail()
        assert f"Acme ({self.acme.pk}) stopped sharing {self.image}." in html
        assert "is being made independent" in html
        assert "no longer available" in self.page("servers/")

        Server.objects.update(detach_problem="There is no room.")
        assert "has to wait. There is no room." in self.detail()
        work()
        assert "needs nothing of that image any more" in self.detail()
        assert f"servers/{self.server.pk}/create-image/" in self.detail()

    def test_the_account_finds_out_without_looking_into_servers(self):
        assert "taken back" not in self.page("images/")
        seen = self.version()
        self.share.revoke(by=self.alice)
        html = self.page("images/")
        assert "An image was taken back" in html
        assert f"stopped sharing <strong><bdi>{self.image}</bdi>" in html
        # Pages that are open hear of it, too.
        assert self.version() != seen
        assert str(self.image) in self.page("offers/withdrawn/")
        events = f"images/{self.image.pk}/events/"
        assert events in self.page("offers/withdrawn/")
        assert "Sharing stopped" in self.page(events)

    def test_of_a_deleted_image_that_is_said(self):
        self.image.delete_with_shares(by=self.alice)
        assert f"deleted <strong><bdi>{self.image}</bdi>" in self.page("images/")
        assert "The image was deleted" in self.page(f"images/{self.image.pk}/events/")

    def test_it_is_shown_until_bob_hides_what_he_has_seen(self):
        self.share.revoke(by=self.alice)
        newest = Withdrawal.objects.get().pk
        later = ImageShareFactory.create(consumer=self.beta, accepted=True)
        later.revoke(by=self.alice)
        url = f"/{self.beta.pk}/offers/withdrawn/seen/"
        for odd in ("", "x", "9" * 40):
            assert self.client.post(url, {"newest": odd}).status_code == 302
        assert Withdrawal.objects.count() == 2

        self.client.post(url, {"newest": newest})
        html = self.page("images/")
        assert str(self.image) not in html
        assert str(later.image) in html

    def test_nobody_else_is_told(self):
        self.share.revoke(by=self.alice)
        self.client.force_login(self.carol)
        response = self.client.get(f"/{self.corp.pk}/images/")
        self.assertNotContains(response, "taken back")
        url = f"/{self.corp.pk}/offers/withdrawn/seen/"
        self.client.post(url, {"newest": Withdrawal.objects.get().pk})
        assert Withdrawal.objects.count() == 1

    def version(self):
        return pending_offers(self.beta.pk, self.bob).version

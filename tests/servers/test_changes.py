"""Another disk and another size, from the click to the settled row."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from accounts.models import Quota, QuotaReached
from accounts.permissions import Role
from images.models import Blob
from images.reconciling import mend
from images.stores import BlobGone
from servers import changes, tasks, watching
from servers.compute.base import (
    Capacity,
    ComputeError,
    NoCapacity,
    PowerState,
    ServerBusy,
)
from servers.models import (
    DoesNotFit,
    NotBootable,
    Rebuild,
    Resize,
    Server,
    ServerConflict,
    ServerEvent,
    What,
)
from tests.cast import CastTestCase
from tests.factories import (
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
    UserFactory,
)
from tests.limits import limited
from tests.servers import fakes
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.servers.fakes import FakeComputeMixin

HASH = "$6$salt$" + "y" * 86
GIB = 1 << 30


class ChangeTestCase(FakeComputeMixin, CastTestCase):
    def setUp(self):
        super().setUp()
        self.small = FlavorFactory.create(id="small", ram_mb=512, disk_gb=10)
        self.large = FlavorFactory.create(id="large", ram_mb=1024, disk_gb=20)
        self.base = ImageFactory.create(owner=None, name="Tiny Linux")
        self.server = ServerFactory.create(
            account=self.beta, name="web-1", image=self.base, by=self.bob, active=True
        )

    def row(self):
        """Afresh, as each request and each job reads it."""
        servers = Server.objects.select_related("account", "region", "flavor", "blob")
        return servers.get(pk=self.server.pk)

    def shut_off(self):
        self.row().power_off(by=self.bob)
        tasks.power_off(server_id=str(self.server.pk))

    def work_until_killed(self, place, name):
        kill = mock.patch.object(place, name, side_effect=KeyboardInterrupt)
        with kill, pytest.raises(KeyboardInterrupt):
            self.work()

    def state(self):
        row = self.row()
        return row.status, row.task

    def events(self, *whats):
        events = ServerEvent.objects.filter(server_id=self.server.pk, what__in=whats)
        return [event.note for event in events.order_by("pk")]


class RebuildTests(ChangeTestCase):
    def setUp(self):
        super().setUp()
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )

    def order(self, image=None):
        image = image or self.image
        return Rebuild.order(self.row(), image, password_hash=HASH, by=self.bob)

    def work(self):
        tasks.rebuild(server_id=str(self.server.pk))

    def test_the_server_has_the_other_image_and_the_new_password(self):
        old = self.server.blob
        self.base.delete_with_shares(by=self.alice)
        self.order()
        assert self.state() == ("ACTIVE", "rebuilding")
        assert self.row().blob == old

        self.work()
        server = self.row()
        assert self.state() == ("ACTIVE", "")
        assert (server.image, server.blob) == (self.image, self.image.blob)
        assert (server.image_owner, server.password_hash) == (self.acme, HASH)
        assert self.compute.deeds == ["spawn", "rebuild", "power_on"]
        assert self.compute.specs[server.pk].password_hash == HASH
        assert self.events(What.REBUILD, What.REBUILT) == [f"From {self.image}"] * 2
        assert not Rebuild.objects.exists()
        assert not Blob.objects.filter(pk=old.pk).exists()

    def test_one_that_was_off_stays_off(self):
        self.shut_off()
        self.order()
        self.work()
        assert self.state() == ("SHUTOFF", "")
        assert "power_on" not in self.compute.deeds

    def test_a_broken_one_runs_again(self):
        self.compute.power[self.server.pk] = PowerState.CRASHED
        tasks.reconcile(0)
        assert self.row().is_broken
        self.order()
        self.work()
        assert self.state() == ("ACTIVE", "")

    def test_a_withdrawn_one_starts_anew(self):
        self.order()
        self.work()
        self.share.refresh_from_db()
        self.share.revoke(by=self.alice)
        self.row().withdraw("Acme stopped sharing it.", self.row().changed_at)
        self.order(self.base)
        self.work()
        server = self.row()
        assert (server.withdrawn_at, server.withdrawn_how) == (None, "")
        assert server.image == self.base

    def test_what_cannot_be_booted_is_refused(self):
        self.share.revoke(by=self.alice)
        with pytest.raises(NotBootable, match="no longer shared"):
            self.order()
        with pytest.raises(NotBootable, match="deactivated"):
            self.order(ImageFactory.create(owner=self.beta, status="deactivated"))
        assert self.state() == ("ACTIVE", "")
        assert not Rebuild.objects.exists()

    def test_what_does_not_fit_is_refused(self):
        elsewhere = ImageFactory.create(
            owner=self.beta, region=RegionFactory.create(code="LON")
        )
        large = ImageFactory.create(owner=self.beta, min_disk_gb=11)
        for image, words in {elsewhere: "lies in", large: "at least 11 GB"}.items():
            with self.subTest(words), pytest.raises(DoesNotFit, match=words):
                self.order(image)
        self.compute.size = replace(self.compute.size, free_bytes=0)
        with pytest.raises(ServerConflict, match="too little disk space"):
            self.order()
        assert not Rebuild.objects.exists()

    def test_the_wrong_state_is_a_conflict(self):
        self.row().reboot(by=self.bob)
        with pytest.raises(ServerConflict, match="Rebooting is under way"):
            self.order()
        unbuilt = ServerFactory.create(account=self.beta, image=self.base)
        Server.objects.filter(pk=unbuilt.pk).update(status="ERROR", task="")
        with pytest.raises(ServerConflict, match="cannot be done"):
            Rebuild.order(unbuilt, self.image, password_hash=HASH, by=self.bob)
        assert not Rebuild.objects.exists()

    def test_an_image_that_is_withdrawn_before_the_worker_comes(self):
        self.order()
        self.share.refresh_from_db()
        self.share.revoke(by=self.alice)

        self.work()
        assert self.state() == ("ACTIVE", "")
        assert self.row().image == self.base
        assert "rebuild" not in self.compute.deeds
        (note,) = self.events(What.FAILED)
        assert note.startswith("It was not rebuilt.")
        assert "no longer shared" in note

    def test_an_image_that_is_deleted_before_the_worker_comes(self):
        self.order()
        blob = self.image.blob
        self.image.delete_with_shares(by=self.alice)
        assert Blob.objects.filter(pk=blob.pk).exists()

        self.work()
        assert self.row().image == self.base
        assert not Blob.objects.filter(pk=blob.pk).exists()

    def test_a_worker_killed_before_the_row_was_written_goes_on(self):
        """The disk is the new one; by then the image may be gone."""
        self.order()
        self.work_until_killed(Rebuild, "finish")
        self.image.delete_with_shares(by=self.alice)

        self.work()
        server = self.row()
        assert self.state() == ("ACTIVE", "")
        assert (server.image, server.image_name) == (None, self.image.name)
        assert server.blob == self.image.blob
        assert self.compute.deeds.count("rebuild") == 1

    def test_a_worker_killed_before_the_start_goes_on(self):
        self.order()
        self.work_until_killed(self.compute, "power_on")
        assert self.state() == ("ACTIVE", "rebuilding")
        self.work()
        assert self.state() == ("ACTIVE", "")
        assert self.compute.deeds.count("rebuild") == 1

    def test_a_region_that_fails_leaves_the_old_disk(self):
        self.order()
        self.compute.trouble = ComputeError("There is no room.")
        self.work()
        assert self.state() == ("ACTIVE", "")
        assert self.row().blob == self.base.blob
        assert self.events(What.FAILED) == ["It was not rebuilt. There is no room."]

    def test_one_that_a_killed_worker_has_shut_down_runs_again_if_it_is_given_up(self):
        self.order()
        self.compute.power[self.server.pk] = PowerState.SHUTDOWN
        self.share.refresh_from_db()
        self.share.revoke(by=self.alice)

        self.work()
        assert self.compute.power[self.server.pk] is PowerState.RUNNING
        assert self.state() == ("ACTIVE", "")

    def test_it_mends_a_server_whose_own_image_is_lost(self):
        lost = self.row().blob.digest

        def path(digest):
            if digest == lost:
                raise BlobGone("The image file is gone.", digest)
            return Path("/images") / digest

        self.order()
        with mock.patch.object(fakes.FakeStore, "path", side_effect=path):
            self.work()
        assert self.state() == ("ACTIVE", "")
        assert self.row().image == self.image

    def test_a_deletion_that_fails_leaves_no_order_behind(self):
        self.order()
        self.row().delete_later(by=self.bob)
        blob = self.image.blob
        self.image.delete_with_shares(by=self.alice)
        self.compute.trouble = ComputeError("The disk is busy.")
        tasks.delete(server_id=str(self.server.pk))
        assert self.state() == ("ERROR", "")
        assert not Rebuild.objects.exists()
        assert not Blob.objects.filter(pk=blob.pk).exists()
        self.order(self.base)
        self.work()
        assert self.state() == ("ACTIVE", "")

    def test_a_deletion_that_fails_keeps_the_data_of_the_disk_that_there_is(self):
        self.order()
        self.work_until_killed(Rebuild, "finish")
        self.row().delete_later(by=self.bob)
        blob = self.image.blob
        self.image.delete_with_shares(by=self.alice)
        self.compute.trouble = ComputeError("The process cannot be ended.")
        tasks.delete(server_id=str(self.server.pk))
        assert self.state() == ("ERROR", "")
        assert self.row().blob == blob
        assert not Rebuild.objects.exists()

    def test_a_deletion_that_is_done_twice_drops_no_newer_order(self):
        self.row().delete_later(by=self.bob)
        late = Server.objects.with_parts().get(pk=self.server.pk)
        self.compute.trouble = ComputeError("The process cannot be ended.")
        tasks.delete(server_id=str(self.server.pk))
        order = self.order()
        changes.keep(late, "It could not be deleted.")
        assert Rebuild.objects.get() == order

    def test_a_region_that_fails_when_the_disk_is_exchanged_has_rebuilt_it(self):
        self.order()
        usual = self.compute.rebuild

        def rebuild(spec, *, order):
            usual(spec, order=order)
            raise ComputeError("The region's host has failed.")

        with mock.patch.object(self.compute, "rebuild", rebuild):
            self.work()
        assert self.state() == ("ACTIVE", "")
        assert self.row().image == self.image
        assert not Rebuild.objects.exists()

    def test_nothing_is_decided_while_the_region_cannot_be_looked_at(self):
        order = self.order()
        away = mock.Mock(side_effect=ComputeError("The region's host has failed."))
        with (
            mock.patch.object(self.compute, "observe", away),
            pytest.raises(ServerBusy),
        ):
            self.work()
        assert Rebuild.objects.get() == order
        self.work()
        assert self.row().image == self.image

    def test_a_busy_server_is_tried_again(self):
        self.order()
        self.compute.trouble = ServerBusy("It is being detached.")
        with pytest.raises(ServerBusy):
            self.work()
        self.work()
        assert self.row().image == self.image

    def test_a_deletion_overtakes_it(self):
        self.order()
        self.row().delete_later(by=self.bob)
        self.work()
        tasks.delete(server_id=str(self.server.pk))
        assert not Server.objects.filter(pk=self.server.pk).exists()
        assert not Rebuild.objects.exists()
        assert Blob.objects.filter(pk=self.image.blob.pk).exists()

    def test_a_deletion_lets_go_of_the_data_that_was_held_for_it(self):
        self.order()
        blob = self.image.blob
        self.row().delete_later(by=self.bob)
        self.image.delete_with_shares(by=self.alice)
        tasks.delete(server_id=str(self.server.pk))
        assert not Blob.objects.filter(pk=blob.pk).exists()


class MeanwhileTests(ChangeTestCase):
    """What was read before the server was rebuilt or resized says nothing of it now."""

    def setUp(self):
        super().setUp()
        self.hungry = ImageFactory.create(owner=self.beta, min_ram_mb=512)
        self.lean = FlavorFactory.create(id="lean", ram_mb=256, disk_gb=10)
        self.before = self.row()

    def rebuild(self):
        Rebuild.order(self.row(), self.hungry, password_hash=HASH, by=self.bob)
        tasks.rebuild(server_id=str(self.server.pk))

    def resize(self):
        Resize.order(self.row(), self.lean, by=self.bob)
        tasks.resize(server_id=str(self.server.pk))

    def test_an_image_is_not_taken_for_memory_that_is_gone(self):
        self.resize()
        with pytest.raises(ServerConflict, match="has changed in the meantime"):
            Rebuild.order(self.before, self.hungry, password_hash=HASH, by=self.bob)

    def test_memory_is_not_taken_from_another_image(self):
        self.rebuild()
        with pytest.raises(ServerConflict, match="has changed in the meantime"):
            Resize.order(self.before, self.lean, by=self.bob)

    def test_a_look_at_the_old_disk_settles_nothing(self):
        self.rebuild()
        gone = BlobGone("The image file is gone.", self.before.blob.digest)
        self.compute.power[self.server.pk] = PowerState.SHUTDOWN
        with mock.patch.object(fakes.FakeStore, "path", side_effect=gone):
            watching.put_right(self.before)
        assert self.state() == ("ACTIVE", "")

    def test_a_difference_that_is_none_any_more_is_left_alone(self):
        self.compute.power[self.server.pk] = PowerState.SHUTDOWN
        [finding] = watching.servers_that_differ()
        tasks.reconcile(0)
        self.row().power_on(by=self.bob)
        tasks.power_on(server_id=str(self.server.pk))
        assert mend(finding)
        assert self.state() == ("ACTIVE", "")

    def test_it_has_not_lost_the_image_that_it_is_not_of_any_more(self):
        self.base.delete_with_shares(by=self.alice)
        before = Server.objects.withdrawn().get(pk=self.server.pk)
        self.rebuild()
        before.withdraw("The cloud has withdrawn it.", timezone.now())
        assert self.row().withdrawn_at is None

    def test_an_image_made_anew_under_the_id_is_not_its_image(self):
        Rebuild.order(self.row(), self.hungry, password_hash=HASH, by=self.bob)
        self.hungry.delete_with_shares(by=self.bob)
        theirs = ImageFactory.create(id=self.hungry.pk, owner=self.acme)
        changes_made = self.row().rebuild_order
        changes_made.finish()
        assert self.row().image_uuid == theirs.pk
        assert self.row().image is None


class ResizeTests(ChangeTestCase):
    def order(self, flavor):
        return Resize.order(self.row(), flavor, by=self.bob)

    def work(self):
        tasks.resize(server_id=str(self.server.pk))

    def test_it_is_larger_and_runs_again(self):
        self.order(self.large)
        assert self.state() == ("ACTIVE", "resizing")
        self.work()
        assert self.state() == ("ACTIVE", "")
        spec = self.compute.specs[self.server.pk]
        assert (spec.memory_mb, spec.disk_gb) == (1024, 20)
        assert self.compute.deeds == ["spawn", "resize", "power_on"]
        assert self.events(What.RESIZE, What.RESIZED) == ["Small to Large"] * 2
        assert not Resize.objects.exists()

    def test_one_that_was_off_stays_off(self):
        self.shut_off()
        self.order(self.large)
        self.work()
        assert self.state() == ("SHUTOFF", "")
        assert self.row().flavor == self.large

    def test_a_deletion_that_fails_leaves_no_order_behind(self):
        self.order(self.large)
        self.row().delete_later(by=self.bob)
        self.compute.trouble = ComputeError("The disk is busy.")
        tasks.delete(server_id=str(self.server.pk))
        assert self.state() == ("ERROR", "")
        assert self.row().flavor == self.small
        assert not Resize.objects.exists()

    def test_memory_may_be_less_and_the_disk_may_not(self):
        lean = FlavorFactory.create(id="lean", ram_mb=256, disk_gb=10)
        flat = FlavorFactory.create(id="flat", ram_mb=512, disk_gb=9)
        Server.objects.update(image_min_ram_mb=128)
        poor = FlavorFactory.create(id="poor", ram_mb=64, disk_gb=10)
        refused = {
            flat: "never made smaller",
            poor: "at least 128 MB",
            self.small: "has this flavor",
        }
        for flavor, words in refused.items():
            with self.subTest(words), pytest.raises(DoesNotFit, match=words):
                self.order(flavor)
        self.order(lean)
        self.work()
        assert self.row().flavor == lean

    def test_limits_count_what_comes_in_addition(self):
        with limited(memory_mb=1023), pytest.raises(QuotaReached):
            self.order(self.large)
        self.compute.size = replace(self.compute.size, memory_mb=1023)
        with pytest.raises(NoCapacity):
            self.order(self.large)
        assert self.state() == ("ACTIVE", "")
        assert self.row().flavor == self.small
        self.compute.size = replace(self.compute.size, memory_mb=1024)
        with limited(memory_mb=1024):
            self.order(self.large)

    def test_the_memory_is_taken_from_the_order_on(self):
        self.order(self.large)
        with limited(memory_mb=1500), pytest.raises(QuotaReached):
            ServerFactory.create(account=self.beta, flavor=self.small)

    def test_until_it_is_smaller_all_of_the_memory_is_taken(self):
        self.compute.size = Capacity(servers=9, memory_mb=1024, free_bytes=1 << 40)
        lean = FlavorFactory.create(id="lean", ram_mb=256, disk_gb=10)
        before = self.beta.quota_uses(Quota.MEMORY_MB)
        self.order(lean)
        assert self.beta.quota_uses(Quota.MEMORY_MB) == before
        assert Server.objects.room_in(self.server.region).memory_mb == 512
        self.work()
        [use] = self.beta.quota_uses(Quota.MEMORY_MB)
        assert use.used == 256

    def test_of_two_at_once_the_second_is_a_conflict(self):
        first, second = self.row(), self.row()
        Resize.order(first, self.large, by=self.bob)
        with pytest.raises(ServerConflict, match="Resizing is under way"):
            Resize.order(second, self.large, by=self.bob)
        assert Resize.objects.count() == 1

    def test_a_region_that_fails_leaves_it_as_it_was(self):
        self.order(self.large)
        self.compute.trouble = NoCapacity("There is no memory left.")
        self.work()
        assert self.state() == ("ACTIVE", "")
        assert self.row().flavor == self.small
        assert self.events(What.FAILED) == [
            "It was not resized. There is no memory left."
        ]

    def test_one_whose_disk_cannot_grow_runs_again_as_it_was(self):
        self.order(self.large)
        self.compute.power[self.server.pk] = PowerState.SHUTDOWN
        self.compute.trouble = ComputeError("The disk cannot be made larger.")
        started = mock.Mock(wraps=self.compute.power_on)
        with mock.patch.object(self.compute, "power_on", started):
            self.work()
        assert started.call_args.args[0].memory_mb == self.small.ram_mb
        assert self.state() == ("ACTIVE", "")
        assert self.row().flavor == self.small

    def test_one_that_was_off_stays_off_when_it_is_given_up(self):
        self.shut_off()
        self.order(self.large)
        self.compute.trouble = ComputeError("The disk cannot be made larger.")
        self.work()
        assert self.compute.power[self.server.pk] is PowerState.SHUTDOWN
        assert self.state() == ("SHUTOFF", "")

    def test_a_worker_killed_anywhere_goes_on(self):
        for place, name in ((Resize, "finish"), (self.compute, "power_on")):
            flavor = self.large if self.row().flavor == self.small else self.small
            Server.objects.update(image_virtual_size=0)
            self.small.disk_gb = self.large.disk_gb
            self.small.save()
            self.order(flavor)
            self.work_until_killed(place, name)
            self.work()
            assert self.state() == ("ACTIVE", "")
            assert self.row().flavor == flavor
            assert not Resize.objects.exists()

    def test_a_deletion_overtakes_it(self):
        self.order(self.large)
        self.row().delete_later(by=self.bob)
        tasks.delete(server_id=str(self.server.pk))
        assert not Server.objects.filter(pk=self.server.pk).exists()
        assert not Resize.objects.exists()


class ChangePagesTests(ChangeTestCase):
    def setUp(self):
        super().setUp()
        self.client.force_login(self.bob)

    def url(self, deed):
        return reverse(f"servers:{deed}", args=[self.beta.number, self.server.pk])

    def post(self, deed, htmx=False, **data):
        headers = {"HX-Request": "true"} if htmx else {}
        return self.client.post(self.url(deed), data, headers=headers)

    def test_the_gear_offers_both(self):
        page = self.client.get(self.url("detail"))
        self.assertContains(page, self.url("rebuild"))
        self.assertContains(page, self.url("resize"))

    def test_rebuild_shows_what_can_be_booted_in_its_region(self):
        own = ImageFactory.create(owner=self.beta, name="our own")
        page = self.client.get(self.url("rebuild"))
        self.assertContains(page, "Tiny Linux")
        self.assertContains(page, "is thrown away")
        self.assertContains(self.client.get(self.url("rebuild"), {"tab": "mine"}), own)
        part = self.client.get(self.url("rebuild"), headers={"HX-Request": "true"})
        assert b"<html" not in part.content

    def test_rebuild_offers_no_other_region(self):
        page = self.client.get(self.url("rebuild"))
        self.assertNotContains(page, 'name="region"')
        create = reverse("servers:create", args=[self.beta.number])
        self.assertContains(self.client.get(create), 'id="choose-region"')

    def test_rebuild_shows_the_password_once(self):
        for htmx in (False, True):
            answer = self.post("rebuild", htmx, image=self.base.pk, is_sure="on")
            self.assertContains(answer, "is shown only now", status_code=202)
            assert self.row().task == "rebuilding"
            assert answer.context["password"] not in str(Rebuild.objects.values())
            tasks.rebuild(server_id=str(self.server.pk))

    def test_rebuild_wants_to_be_sure(self):
        answer = self.post("rebuild", image=self.base.pk)
        self.assertContains(answer, "nothing can be undone", status_code=422)
        assert self.post("rebuild", is_sure="on").status_code == 422
        assert self.post("rebuild", image="x", is_sure="on").status_code == 422
        assert self.state() == ("ACTIVE", "")

    def test_an_image_withdrawn_meanwhile_is_a_conflict(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        share.revoke(by=self.alice)
        gone = self.post("rebuild", image=self.image.pk, is_sure="on")
        self.assertContains(gone, "cannot boot that image", status_code=409)
        unknown = ImageFactory.create(owner=self.corp).pk
        foreign = self.post("rebuild", image=unknown, is_sure="on")
        self.assertContains(foreign, "cannot boot that image", status_code=409)
        assert self.state() == ("ACTIVE", "")

    def test_rebuild_of_a_busy_server_is_a_conflict(self):
        self.row().reboot(by=self.bob)
        answer = self.post("rebuild", image=self.base.pk, is_sure="on")
        self.assertContains(answer, "Rebooting is under way", status_code=409)

    def test_an_image_that_is_too_large_says_so_before(self):
        large = ImageFactory.create(owner=self.beta, name="large", min_disk_gb=99)
        page = self.client.get(self.url("rebuild"), {"image": large.pk})
        self.assertContains(page, "at least 99 GB")
        answer = self.post("rebuild", image=large.pk, is_sure="on")
        self.assertContains(answer, "at least 99 GB", status_code=409)

    def test_resize_tells_which_flavors_do_not_fit(self):
        FlavorFactory.create(id="flat", ram_mb=512, disk_gb=9)
        page = self.client.get(self.url("resize"))
        self.assertContains(page, "never made smaller")
        self.assertContains(page, "has this flavor")

    def test_resize(self):
        answer = self.post("resize", flavor="large")
        assert answer["Location"] == self.url("detail")
        assert self.row().flavor == self.large

    def test_resize_refuses_what_cannot_be(self):
        assert self.post("resize", flavor="none").status_code == 422
        assert self.post("resize").status_code == 422
        with limited(memory_mb=600):
            full = self.post("resize", flavor="large")
            assert full.status_code == 422
        assert self.post("resize", flavor="small").status_code == 409
        self.row().reboot(by=self.bob)
        busy = self.post("resize", flavor="large")
        self.assertContains(busy, "Rebooting is under way", status_code=409)

    def test_one_that_is_deleted_between_look_and_deed_is_not_found(self):
        def be_deleted(*args, **kwargs):
            Server.objects.filter(pk=self.server.pk).delete()
            raise ServerConflict("web-1 has been deleted.")

        for verb, order, data in (
            ("rebuild", Rebuild, {"image": self.base.pk, "is_sure": "on"}),
            ("resize", Resize, {"flavor": "large"}),
        ):
            with (
                self.subTest(verb),
                mock.patch.object(order, "order", be_deleted),
                transaction.atomic(),
            ):
                answer = self.client.post(self.url(verb), data)
                transaction.set_rollback(True)
            assert answer.status_code == 404

    def test_an_image_that_is_no_id_cannot_be_booted(self):
        data = {"image": "x", "is_sure": "on"}
        answer = self.client.post(self.url("rebuild"), data)
        self.assertContains(answer, "cannot boot that image", status_code=422)

    def test_others_find_nothing_and_creators_may_not(self):
        creator = UserFactory.create(roles=[(self.beta, Role.SERVERS_CREATOR)])
        for user, status in ((self.carol, 404), (creator, 403)):
            self.client.force_login(user)
            for deed in ("rebuild", "resize"):
                with self.subTest(deed=deed, status=status):
                    assert self.client.get(self.url(deed)).status_code == status
                    assert self.post(deed).status_code == status

    def test_the_disk_says_what_its_size_is(self):
        Server.objects.update(image_virtual_size=20 * GIB + 1)
        page = self.client.get(self.url("resize"))
        self.assertContains(page, "disk has 21 GB")

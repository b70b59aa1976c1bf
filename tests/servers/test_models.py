import uuid
from dataclasses import replace
from functools import partial

import pytest
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from accounts.models import Account
from controlpanel.http import TooMany
from images.models import Blob, Image
from servers.compute.base import NoCapacity
from servers.models import (
    AlreadyOrdered,
    NotBootable,
    Server,
    ServerConflict,
    ServerEvent,
    SSHKey,
    What,
)
from tests.cast import CastTestCase
from tests.factories import ImageFactory, ImageShareFactory, RegionFactory
from tests.limits import limited
from tests.servers.factories import (
    ED25519,
    FlavorFactory,
    ServerFactory,
    SSHKeyFactory,
)
from tests.servers.fakes import FakeComputeMixin

GIB = 1 << 30


def jobs():
    return [
        (job.task_name.rpartition(".")[2], job.args)
        for job in ProcrastinateJob.objects.filter(queue_name="servers").order_by("id")
    ]


class FlavorTests(CastTestCase):
    def test_a_flavor_tells_why_an_image_does_not_fit(self):
        flavor = FlavorFactory.create(ram_mb=512, disk_gb=10)
        fits = {
            "": Image(min_ram_mb=512, min_disk_gb=10, virtual_size=10 * GIB),
            "at least 513 MB RAM": Image(min_ram_mb=513),
            "at least 11 GB": Image(min_disk_gb=11),
            "disk of the image alone has 11 GB": Image(virtual_size=10 * GIB + 1),
        }
        for reason, image in fits.items():
            with self.subTest(reason=reason):
                assert reason in flavor.why_not(image)
                assert bool(reason) == bool(flavor.why_not(image))


class OrderTests(FakeComputeMixin, CastTestCase):
    def order(self, image, account=None, **changes):
        account = account or self.beta
        return ServerFactory.create(
            account=account, image=image, by=self.bob, **changes
        )

    def test_an_order_makes_a_row_a_job_and_an_event(self):
        server = self.order(ImageFactory.create(owner=None))

        assert (server.status, server.task) == ("BUILD", "spawning")
        assert jobs() == [("build", {"server_id": str(server.pk)})]
        event = ServerEvent.objects.get()
        assert (event.what, event.actor_name) == (What.CREATE, "bob")

    def test_an_account_that_tried_its_image_is_remembered_to_have(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        own = ImageFactory.create(owner=self.beta)
        self.order(own).forget()
        self.order(self.image)

        for image, is_tried in [(own, True), (self.image, False)]:
            image.refresh_from_db()
            assert (image.tried_at is not None) is is_tried

    def test_base_own_and_accepted_images_can_be_ordered(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        own = ImageFactory.create(owner=self.beta)

        for image in [ImageFactory.create(owner=None), own, self.image]:
            assert self.order(image).blob == image.blob

    def test_no_other_image_can_be_ordered(self):
        shared = partial(ImageFactory.create, owner=self.acme)
        images = {
            "stranger's": shared(),
            "pending": shared(),
            "rejected": shared(),
            "withdrawn": shared(),
            "queued": ImageFactory.create(owner=self.beta, status="queued"),
            "deactivated": ImageFactory.create(owner=self.beta, status="deactivated"),
        }
        share = partial(ImageShareFactory.create, consumer=self.beta)
        share(image=images["pending"])
        share(image=images["rejected"], rejected=True)
        share(image=images["withdrawn"], accepted=True).revoke(by=self.alice)

        for name, image in images.items():
            with self.subTest(image=name), pytest.raises(NotBootable):
                self.order(image)
        assert not Server.objects.exists()
        assert "build" not in dict(jobs())

    def test_an_image_of_a_suspended_account_cannot_be_ordered(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, accepted=True)
        self.acme.status = Account.Status.SUSPENDED
        self.acme.save()

        with pytest.raises(NotBootable):
            self.order(self.image)

    def test_a_deleted_image_cannot_be_ordered(self):
        stale = ImageFactory.create(owner=self.beta)
        Image.objects.get(pk=stale.pk).delete_with_shares(by=self.bob)

        with pytest.raises(NotBootable, match="deleted"):
            Server.objects.order(
                self.beta,
                stale,
                FlavorFactory.create(),
                name="web",
                password_hash="",
                public_key="",
                token=uuid.uuid4(),
                by=self.bob,
            )

    def test_a_flavor_that_does_not_fit_is_refused(self):
        image = ImageFactory.create(owner=None, min_ram_mb=1024)

        with pytest.raises(NotBootable, match="1024 MB"):
            self.order(image)

    def test_a_form_sent_twice_makes_one_server(self):
        token = uuid.uuid4()
        first = self.order(ImageFactory.create(owner=None), token=token)

        with pytest.raises(AlreadyOrdered) as caught:
            self.order(ImageFactory.create(owner=None), token=token)
        assert caught.value.server == first
        assert Server.objects.count() == 1

    def test_the_limit_of_an_account_is_named(self):
        image = ImageFactory.create(owner=None)
        with limited(servers=1):
            self.order(image)
            with pytest.raises(TooMany, match="may have 1 server and has 1 server"):
                self.order(image)
            self.order(image, account=self.acme)

    def test_a_full_region_is_named(self):
        image = ImageFactory.create(owner=None, region=RegionFactory.create(code="LON"))
        self.compute.size = replace(self.compute.size, servers=1)
        self.order(image, account=self.acme)
        with pytest.raises(NoCapacity, match="no capacity in London"):
            self.order(image)

    def test_the_memory_of_the_region_is_shared_by_all(self):
        image = ImageFactory.create(owner=None)
        self.compute.size = replace(self.compute.size, memory_mb=1023)
        self.order(image, account=self.acme)
        with pytest.raises(NoCapacity, match="no 512 MB of memory left"):
            self.order(image)
        assert Server.objects.count() == 1

    def test_a_server_that_could_not_be_built_takes_no_place(self):
        image = ImageFactory.create(owner=None)
        self.compute.size = replace(self.compute.size, servers=1)
        self.order(image, account=self.acme)
        Server.objects.update(status="ERROR", task="")

        self.order(image)

    def test_regions_of_one_backend_share_its_places(self):
        self.compute.size = replace(self.compute.size, servers=1)
        self.order(ImageFactory.create(owner=None))
        london = RegionFactory.create(code="LON")
        with pytest.raises(NoCapacity):
            self.order(ImageFactory.create(owner=None, region=london))

    def test_below_the_floor_of_the_disk_nothing_new_is_begun(self):
        image = ImageFactory.create(owner=None)
        server = self.order(image)
        Server.objects.update(status="SHUTOFF", task="", launched_at=timezone.now())
        server.refresh_from_db()
        self.compute.size = replace(self.compute.size, free_bytes=0)

        with pytest.raises(NoCapacity, match="too little disk space"):
            self.order(image)
        with pytest.raises(ServerConflict, match="too little disk space"):
            server.power_on(by=self.bob)
        server.refresh_from_db()
        assert server.task == ""

    def test_the_host_name_is_made_of_the_name(self):
        names = {
            "Web 1": "web-1",
            "a_b": "a-b",
            "--x--": "x",
            "Ünïcode": "unicode",
            "x" * 80: "x" * 63,
        }
        for name, hostname in names.items():
            assert Server(name=name).hostname == hostname
        nameless = Server(name="日本")
        assert nameless.hostname == f"server-{str(nameless.pk)[:8]}"


class DeedTests(FakeComputeMixin, CastTestCase):
    def setUp(self):
        super().setUp()
        self.server = ServerFactory.create(account=self.beta, by=self.bob, active=True)

    def state(self):
        self.server.refresh_from_db()
        return self.server.status, self.server.task

    def test_each_deed_marks_the_row_and_hands_a_job_to_the_worker(self):
        self.server.reboot(by=self.bob, hard=True)

        assert self.state() == ("ACTIVE", "rebooting_hard")
        assert jobs()[-1] == ("reboot", {"server_id": str(self.server.pk)})
        event = ServerEvent.objects.latest("pk")
        assert (event.what, event.actor_name) == (What.REBOOT_HARD, "bob")

    def test_the_table_of_states(self):
        allowed = {
            ("BUILD", "spawning"): set(),
            ("ACTIVE", ""): {"reboot", "power_off", "create_image"},
            ("SHUTOFF", ""): {"power_on", "create_image"},
            ("ERROR", ""): {"power_on"},
            ("ACTIVE", "rebooting"): set(),
            ("SHUTOFF", "powering-on"): set(),
            ("ACTIVE", "image_snapshot"): set(),
            ("ACTIVE", "deleting"): set(),
        }
        for (status, task), deeds in allowed.items():
            for deed, offered in OFFERED.items():
                with self.subTest(status=status, task=task, deed=deed):
                    rows = Server.objects.filter(pk=self.server.pk)
                    rows.update(status=status, task=task)
                    self.server.refresh_from_db()
                    Image.objects.filter(origin="server").delete()
                    named = {"name": "copy"} if deed == "create_image" else {}
                    can = getattr(self.server, f"can_be_{offered}")
                    assert can == (deed in deeds)
                    if deed in deeds:
                        getattr(self.server, deed)(by=self.bob, **named)
                    else:
                        with pytest.raises(ServerConflict):
                            getattr(self.server, deed)(by=self.bob, **named)

    def test_a_server_that_was_never_built_cannot_be_started(self):
        server = ServerFactory.create(account=self.beta)
        Server.objects.filter(pk=server.pk).update(status="ERROR", task="")
        server.refresh_from_db()

        assert not server.can_be_powered_on
        with pytest.raises(ServerConflict):
            server.power_on(by=self.bob)

    def test_the_second_of_two_deeds_is_a_conflict_that_names_the_first(self):
        copy = Server.objects.get(pk=self.server.pk)
        self.server.power_off(by=self.bob)

        with pytest.raises(ServerConflict, match="Powering off is under way"):
            copy.reboot(by=self.bob)

    def test_deleting_twice_is_a_conflict(self):
        copy = Server.objects.get(pk=self.server.pk)
        self.server.delete_later(by=self.bob)

        with pytest.raises(ServerConflict, match="being deleted already"):
            copy.delete_later(by=self.bob)
        assert [name for name, _ in jobs()].count("delete") == 1

    def test_a_server_that_is_gone_says_so(self):
        copy = Server.objects.get(pk=self.server.pk)
        self.server.forget()

        with pytest.raises(ServerConflict, match="has been deleted"):
            copy.reboot(by=self.bob)
        with pytest.raises(ServerConflict):
            copy.rename("other", by=self.bob)

    def test_renaming_is_written_down(self):
        self.server.rename("db-1", by=self.bob)

        assert Server.objects.get().name == "db-1"
        assert "to db-1" in ServerEvent.objects.latest("pk").note
        self.server.rename("db-1", by=self.bob)
        assert ServerEvent.objects.filter(what="rename").count() == 1

    def test_a_blob_goes_with_the_last_of_image_and_servers(self):
        image = ImageFactory.create(owner=self.beta)
        server = ServerFactory.create(account=self.beta, image=image)
        image.delete_with_shares(by=self.bob)
        server.refresh_from_db()
        assert (server.image, server.blob) == (None, image.blob)

        server.forget()

        assert not Blob.objects.filter(pk=image.blob.pk).exists()
        assert ServerEvent.objects.latest("pk").what == What.DELETED


OFFERED = {
    "reboot": "rebooted",
    "power_off": "powered_off",
    "power_on": "powered_on",
    "create_image": "imaged",
}


class KeyTests(CastTestCase):
    def test_a_key_is_kept_with_its_fingerprint(self):
        key = SSHKeyFactory.create(account=self.beta, public_key=f" {ED25519}\n")

        assert key.public_key == ED25519
        assert key.fingerprint.startswith("SHA256:")
        assert key.kind == "ssh-ed25519"

    def test_a_name_is_taken_once_in_an_account(self):
        SSHKeyFactory.create(account=self.beta, name="laptop")
        SSHKeyFactory.create(account=self.acme, name="laptop")

        with pytest.raises(SSHKey.Taken):
            SSHKeyFactory.create(account=self.beta, name="laptop")

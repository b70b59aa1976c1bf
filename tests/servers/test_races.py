"""Two at the same moment, in threads, on the real database."""

import threading
import uuid
from dataclasses import replace
from functools import partial
from unittest import mock

from django.db import connection
from django.test import TransactionTestCase

from images.models import Blob, Image
from servers import tasks, withdrawals
from servers.models import Rebuild, Server, ServerEvent
from sharing.models import ImageShare
from tests.factories import (
    AccountFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
)
from tests.limits import limited
from tests.races import at_once
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.servers.fakes import FakeComputeMixin


class SimultaneousTests(FakeComputeMixin, TransactionTestCase):
    def setUp(self):
        super().setUp()
        self.beta = AccountFactory.create(name="Beta")
        self.bob = UserFactory.create(username="bob")
        self.flavor = FlavorFactory.create()
        self.enterContext(mock.patch("servers.withdrawals._LOOK_EVERY", 0.01))

    def order(self, image, token=None):
        Server.objects.order(
            self.beta,
            Image.objects.select_related("region").get(pk=image.pk),
            self.flavor,
            name="web-1",
            password_hash="$6$",
            public_key="",
            token=token or uuid.uuid4(),
            by=self.bob,
        )

    def test_a_form_that_is_sent_eight_times_makes_one_server(self):
        image, token = ImageFactory.create(owner=None), uuid.uuid4()

        outcomes = at_once([partial(self.order, image, token)] * 8)

        assert outcomes == {"done": 1, "conflict": 7}
        assert Server.objects.count() == 1
        assert ServerEvent.objects.count() == 1

    def test_eight_orders_do_not_pass_the_limit(self):
        image = ImageFactory.create(owner=None)
        with limited(servers=3):
            outcomes = at_once([partial(self.order, image)] * 8)

        assert outcomes == {"done": 3, "too many": 5}

    def test_orders_of_many_accounts_do_not_take_the_last_place_twice(self):
        # Each from an image of its own: the lock on one would keep them apart.
        images = ImageFactory.create_batch(6, owner=None)
        deeds = [partial(ServerFactory.create, image=image) for image in images]
        for size in ({"servers": 2}, {"servers": 9, "memory_mb": 1200}):
            Server.objects.all().delete()
            self.compute.size = replace(self.compute.size, **size)
            with self.subTest(size=size):
                assert at_once(deeds) == {"done": 2, "no capacity": 4}
                assert Server.objects.count() == 2

    def test_one_of_eight_power_actions_wins(self):
        server = ServerFactory.create(account=self.beta, active=True)
        copies = [Server.objects.get(pk=server.pk) for _ in range(8)]
        verbs = [Server.power_off, Server.reboot]
        deeds = [
            partial(verbs[n % 2], copy, by=self.bob) for n, copy in enumerate(copies)
        ]

        assert at_once(deeds) == {"done": 1, "conflict": 7}
        done = ServerEvent.objects.filter(what__in=["power_off", "reboot"])
        assert done.count() == 1

    def test_one_of_eight_deletions_wins(self):
        server = ServerFactory.create(account=self.beta, active=True)
        copies = [Server.objects.get(pk=server.pk) for _ in range(8)]

        outcomes = at_once([partial(c.delete_later, by=self.bob) for c in copies])

        assert outcomes == {"done": 1, "conflict": 7}

    def test_an_order_and_a_withdrawal_leave_no_half(self):
        for _ in range(4):
            share = ImageShareFactory.create(consumer=self.beta, accepted=True)
            alice = UserFactory.create()
            at_once([partial(self.order, share.image), partial(share.revoke, by=alice)])
            assert not ImageShare.objects.exists()
            for server in Server.objects.all():
                tasks.build(server_id=str(server.pk))
                server.refresh_from_db()
                assert server.status == "ERROR"
                server.forget()

    def test_an_order_and_a_deletion_of_the_image_keep_the_data_of_a_server(self):
        for _ in range(4):
            image = ImageFactory.create(owner=self.beta)
            at_once(
                [
                    partial(self.order, image),
                    partial(image.delete_with_shares, by=self.bob),
                ]
            )
            server = Server.objects.first()
            assert Blob.objects.filter(pk=image.blob.pk).exists() == bool(server)
            if server:
                server.forget()

    def test_one_of_eight_clicks_makes_an_image(self):
        server = ServerFactory.create(account=self.beta, active=True)

        def create_image():
            copy = Server.objects.get(pk=server.pk)
            copy.create_image(name="golden", by=self.bob)

        assert at_once([create_image] * 8) == {"done": 1, "conflict": 7}
        assert Image.objects.filter(origin="server").count() == 1
        assert ServerEvent.objects.filter(what="create_image").count() == 1

    def test_an_image_and_a_deletion_at_once_leave_nothing_half_done(self):
        for _ in range(5):
            server = ServerFactory.create(account=self.beta, active=True)

            def create_image(server=server):
                copy = Server.objects.get(pk=server.pk)
                copy.create_image(name="golden", by=self.bob)

            def delete(server=server):
                Server.objects.get(pk=server.pk).delete_later(by=self.bob)

            assert at_once([create_image, delete])["done"] >= 1
            tasks.snapshot(server_id=str(server.pk))
            tasks.delete(server_id=str(server.pk))
            assert not Server.objects.filter(pk=server.pk).exists()
            assert not Image.objects.filter(status="saving").exists()

    def test_images_of_many_servers_at_once_do_not_pass_the_quota(self):
        servers = [
            ServerFactory.create(account=self.beta, active=True) for _ in range(4)
        ]
        deeds = [
            partial(server.create_image, name="golden", by=self.bob)
            for server in servers
        ]
        with limited(images=2):
            assert at_once(deeds) == {"done": 2, "too many": 2}

        assert Image.objects.filter(origin="server").count() == 2
        assert Server.objects.filter(task="image_snapshot").count() == 2

    def test_a_withdrawal_waits_while_a_disk_is_being_made(self):
        share = ImageShareFactory.create(consumer=self.beta, accepted=True)
        server = ServerFactory.create(account=self.beta, image=share.image)
        alice = UserFactory.create()
        self.compute.may_spawn.clear()
        revoked = threading.Event()

        def build():
            try:
                tasks.build(server_id=str(server.pk))
            finally:
                connection.close()

        def revoke():
            try:
                share.revoke(by=alice)
                revoked.set()
            finally:
                connection.close()

        builder = threading.Thread(target=build)
        revoker = threading.Thread(target=revoke)
        builder.start()
        assert self.compute.at_spawn.wait(60)
        revoker.start()
        assert not revoked.wait(0.5)
        self.compute.may_spawn.set()
        builder.join()
        revoker.join()

        assert revoked.is_set()
        server.refresh_from_db()
        assert server.status == "ACTIVE"
        # Built just in time, it is detached afterwards like any other.
        withdrawals.look(timestamp=0)
        withdrawals.detach()
        server.refresh_from_db()
        assert server.is_detached

    def test_rebuilding_and_a_deletion_of_the_image_do_not_wait_for_each_other(self):
        image = ImageFactory.create(owner=self.beta)
        server = ServerFactory.create(account=self.beta, active=True)
        Rebuild.order(server, image, password_hash="$6$", by=self.bob)
        self.compute.at_spawn.clear()
        self.compute.may_spawn.clear()

        def delete():
            """While the disk is being made, and not done before that is."""
            assert self.compute.at_spawn.wait(60)
            threading.Timer(0.5, self.compute.may_spawn.set).start()
            image.delete_with_shares(by=self.bob)

        at_once([partial(tasks.rebuild, server_id=str(server.pk)), delete])
        server.refresh_from_db()
        assert (server.status, server.task, server.image) == ("ACTIVE", "", None)
        assert server.blob == image.blob

    def test_a_server_and_its_image_deleted_at_once_both_go(self):
        for _ in range(6):
            server = ServerFactory.create(account=self.beta, active=True)
            image = ImageFactory.create(owner=self.beta, source_server_id=server.pk)
            Server.objects.filter(pk=server.pk).update(image=image)
            server.delete_later(by=self.bob)
            at_once(
                [
                    partial(tasks.delete, server_id=str(server.pk)),
                    partial(image.delete_with_shares, by=self.bob),
                ]
            )
            assert not Server.objects.exists()
            assert not Image.objects.filter(pk=image.pk).exists()

    def test_building_and_a_withdrawal_at_once_leave_nothing_half_done(self):
        for _ in range(4):
            share = ImageShareFactory.create(consumer=self.beta, accepted=True)
            server = ServerFactory.create(account=self.beta, image=share.image)
            digest = share.image.blob.digest
            at_once(
                [
                    partial(tasks.build, server_id=str(server.pk)),
                    partial(share.image.delete_with_shares, by=self.bob),
                ]
            )
            withdrawals.look(timestamp=0)
            withdrawals.detach()
            server.refresh_from_db()
            assert (
                server.status == "ACTIVE"
                or "no longer" in server.reason
                or ("deleted" in server.reason)
            )
            assert server.is_detached
            assert not Blob.objects.filter(digest=digest).exists()
            server.forget()

    def test_a_deed_and_a_detachment_at_once_end_well(self):
        verbs = [
            (Server.power_off, tasks.power_off),
            (Server.reboot, tasks.reboot),
            (Server.delete_later, tasks.delete),
        ]
        for verb, job in verbs:
            image = ImageFactory.create(owner=self.beta)
            server = ServerFactory.create(account=self.beta, image=image, active=True)
            image.delete_with_shares(by=self.bob)
            at_once([withdrawals.detach, partial(verb, server, by=self.bob)])
            job(server_id=str(server.pk))
            withdrawals.detach()

            left = Server.objects.filter(pk=server.pk).first()
            assert left is None or (left.task, left.blob) == ("", None)
            assert not Blob.objects.exists()
            if left:
                left.forget()

    def test_two_who_detach_at_once_let_go_once(self):
        image = ImageFactory.create(owner=self.beta)
        server = ServerFactory.create(account=self.beta, image=image, active=True)
        image.delete_with_shares(by=self.bob)

        at_once([withdrawals.detach] * 2)

        events = ServerEvent.objects.filter(server_id=server.pk, what="detached")
        assert events.count() == 1
        assert not Blob.objects.exists()

"""Each job done by two workers at the same moment has its effect once."""

from functools import partial
from pathlib import Path
from unittest import mock

from django.test import TransactionTestCase

from images.models import Blob, Image
from images.stores import store_for
from servers import reconciling, snapshots, tasks
from servers.compute import handover
from servers.compute.base import ComputeUnavailable
from servers.models import Server, ServerEvent
from tests.factories import AccountFactory, UserFactory
from tests.images.case import StoreMixin, work
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu
from tests.races import at_once
from tests.servers.factories import ServerFactory
from tests.servers.fakes import FakeComputeMixin

WORKERS = 4


class DoubledTests(StoreMixin, FakeComputeMixin, TransactionTestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch("servers.snapshots.store_for", store_for))
        self.beta = AccountFactory.create(name="Beta")
        self.bob = UserFactory.create(username="bob")

    def server(self, **given):
        return ServerFactory.create(account=self.beta, by=self.bob, **given)

    def do(self, job, *given):
        assert at_once([partial(job, *given)] * WORKERS) == {"done": WORKERS}

    def count(self, what):
        return ServerEvent.objects.filter(what=what).count()

    def test_a_build(self):
        server = self.server()

        self.do(tasks.build, str(server.pk))

        server.refresh_from_db()
        assert (server.status, server.task) == ("ACTIVE", "")
        assert self.count("started") == 1
        assert "destroy" not in self.compute.deeds

    def test_a_build_that_fails(self):
        server = self.server()
        self.compute.spawn = mock.Mock(side_effect=ComputeUnavailable("No QEMU."))

        self.do(tasks.build, str(server.pk))

        server.refresh_from_db()
        assert (server.status, server.reason) == ("ERROR", "No QEMU.")
        assert self.count("failed") == 1
        assert self.compute.deeds == ["destroy"]

    def test_power_actions(self):
        server = self.server(active=True)
        for verb, status in [("power_off", "SHUTOFF"), ("power_on", "ACTIVE")]:
            getattr(server, verb)(by=self.bob)
            self.do(getattr(tasks, verb), str(server.pk))
            server.refresh_from_db()
            assert (server.status, server.task) == (status, "")

        assert (self.count("stopped"), self.count("started")) == (1, 2)

    def test_a_deletion(self):
        server = self.server(active=True)
        image = server.image
        image.delete_with_shares(by=self.bob)
        server.delete_later(by=self.bob)

        self.do(tasks.delete, str(server.pk))

        assert not Server.objects.exists()
        assert not Blob.objects.exists()
        assert self.count("deleted") == 1

    @needs_qemu
    def test_an_image_of_a_server_and_the_deletion_of_its_file(self):
        self.compute.disk = self.disk()
        server = self.server(active=True)
        image = server.create_image(name="golden", by=self.bob)

        self.do(tasks.snapshot, str(server.pk))
        server.refresh_from_db()
        assert (server.status, server.task) == ("ACTIVE", "")
        self.do(snapshots.save, context(), str(image.pk))

        image.refresh_from_db()
        assert (image.status, image.status_reason) == ("active", "")
        assert self.count("image_created") == 1
        assert Blob.objects.filter(digest=image.blob.digest).count() == 1
        assert len(self.files()) == 1
        assert not list(handover.waiting())

        digest = image.blob.digest
        self.do(reconciling.remove_file, "local", digest)
        assert len(self.files()) == 1
        Image.objects.get(pk=image.pk).delete_with_shares(by=self.bob)
        self.do(reconciling.remove_file, "local", digest)
        assert self.files() == []
        work()
        assert self.files() == []

    def disk(self):
        path = corpus.converted(Path(self.folder, "disk"), "qcow2")
        return path.read_bytes()


def context():
    return mock.Mock(job=mock.Mock(attempts=0))

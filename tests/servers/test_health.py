from datetime import timedelta
from unittest import mock

from django.db import OperationalError, connection
from django.test import Client, SimpleTestCase
from django.utils import timezone

from accounts.models import Region
from tests.cast import CastTestCase
from tests.images.case import StoreMixin
from tests.servers.fakes import FakeComputeMixin

ALL_WELL = {"database": True, "worker": True, "store": True, "region": True}


def beat(ago=timedelta()):
    """Let a worker have said that it is there."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_workers")
        cursor.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (%s)",
            [timezone.now() - ago],
        )


class AliveTests(SimpleTestCase):
    def test_it_asks_neither_who_is_there_nor_the_database(self):
        # A SimpleTestCase forbids queries.
        response = Client().get("/healthz")
        assert (response.status_code, response.content) == (200, b"ok\n")
        assert "no-store" in response["Cache-Control"]

    def test_it_is_only_read(self):
        assert Client().post("/healthz").status_code == 405


class ReadyTests(StoreMixin, FakeComputeMixin, CastTestCase):
    def assert_not_ready(self, *missing):
        response = self.client.get("/readyz")
        assert response.status_code == 503
        assert response.json() == ALL_WELL | dict.fromkeys(missing, False)

    def test_all_is_well(self):
        beat()
        with self.assertNumQueries(2):
            response = self.client.get("/readyz")
        assert (response.status_code, response.json()) == (200, ALL_WELL)
        assert "no-store" in response["Cache-Control"]

    def test_a_worker_that_has_fallen_silent_is_missed(self):
        self.assert_not_ready("worker")
        beat(timedelta(minutes=1))
        self.assert_not_ready("worker")

    def test_a_region_that_can_run_nothing_is_told_without_its_reason(self):
        beat()
        self.compute.unavailable = "The region has no program \u201cqemu\u201d."
        self.assert_not_ready("region")
        assert b"qemu" not in self.client.get("/readyz").content

    def test_a_store_that_can_take_nothing_is_told(self):
        beat()
        (self.folder / "images").touch()
        self.assert_not_ready("store")

    def test_a_region_with_an_unknown_backend_is_told(self):
        beat()
        Region.objects.filter(pk="IAD").update(backend="moon")
        self.assert_not_ready("store")

    def test_a_panel_without_a_region_is_not_ready(self):
        beat()
        with mock.patch("servers.health._backends", return_value=[]):
            self.assert_not_ready("store", "region")

    def test_without_a_database_nothing_is_known(self):
        with mock.patch("servers.health._backends", side_effect=OperationalError):
            self.assert_not_ready(*ALL_WELL)

from unittest import mock

import psycopg
from django.db import OperationalError, connection
from django.test import SimpleTestCase, TestCase
from procrastinate.contrib.django import app as jobs
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job

from controlpanel.jobs import IMAGES, SERVERS, SLOTS, Again, defer_for
from controlpanel.leases import Leased
from tests.jobs.case import empty_queues

ACME, BETA = "82000118", "82000217"


def order(account, *servers, task="servers.tasks.build"):
    for server in servers:
        defer_for(account, task, SERVERS, server_id=server)


def take():
    """What the next free slot is given: the number of the job, and its server."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, args->>'server_id' FROM procrastinate_fetch_job_v2(%s, NULL)",
            [[SERVERS]],
        )
        return cursor.fetchone()


def finish(number):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT procrastinate_finish_job_v1(%s, 'succeeded', true)", [number]
        )


def do_one():
    number, server = take()
    finish(number)
    return server


class QueueTestCase(TestCase):
    def setUp(self):
        empty_queues()


class TurnTests(QueueTestCase):
    def test_one_deed_does_not_wait_for_the_twenty_of_another_account(self):
        order(ACME, *(f"a{n}" for n in range(20)))
        order(BETA, "b0")

        assert [do_one() for _ in range(3)] == ["a0", "a1", "b0"]

    def test_accounts_take_turns(self):
        order(ACME, "a0", "a1", "a2")
        order(BETA, "b0", "b1")

        done = [do_one() for _ in range(5)]

        assert done == ["a0", "a1", "b0", "a2", "b1"]

    def test_who_comes_while_others_are_served_is_in_the_next_round(self):
        order(ACME, *(f"a{n}" for n in range(4)))
        for _ in range(2):
            do_one()
        number, server = take()
        order(BETA, "b0", "b1")
        finish(number)

        assert server == "a2"
        assert [do_one() for _ in range(3)] == ["a3", "b0", "b1"]

    def test_a_flow_of_newcomers_starves_nobody(self):
        order(ACME, "a0", "a1", "a2")
        done = []
        for n in range(6):
            order(f"9000000{n}", f"new{n}")
            number, server = take()
            done.append(server)
            finish(number)

        assert {"a0", "a1", "a2"} <= set(done)

    def test_the_jobs_of_an_account_keep_their_order(self):
        order(ACME, "a0", "a1", "a2", "a3")
        do_one()
        order(ACME, "a4")

        assert [do_one() for _ in range(4)] == ["a1", "a2", "a3", "a4"]

    def test_queues_have_turns_of_their_own(self):
        order(ACME, *(f"a{n}" for n in range(5)))
        defer_for(ACME, "images.tasks.admit", IMAGES, image_id="i")

        assert ProcrastinateJob.objects.get(queue_name=IMAGES).priority == 0


class LaneTests(QueueTestCase):
    def test_an_account_occupies_half_of_the_slots_at_most(self):
        order(ACME, *(f"a{n}" for n in range(10)))

        taken = [take() for _ in range(SLOTS[SERVERS])]

        assert [server for _, server in taken if server] == ["a0", "a1"]
        order(BETA, "b0")
        assert take()[1] == "b0"
        finish(taken[0][0])
        assert take()[1] == "a2"

    def test_in_a_queue_of_one_slot_an_account_has_that(self):
        with mock.patch.dict(SLOTS, {SERVERS: 1}):
            order(ACME, "a0", "a1")

        assert take()[1] == "a0"
        assert take()[1] is None

    def test_what_is_ordered_for_one_server_is_done_one_after_the_other(self):
        order(ACME, "a0")
        order(ACME, "a0", task="servers.tasks.delete")

        number, _ = take()
        assert take()[1] is None
        finish(number)
        assert take()[1] == "a0"

    def test_what_is_asked_for_twice_is_one_job(self):
        order(ACME, "a0", "a0")

        assert ProcrastinateJob.objects.filter(queue_name=SERVERS).count() == 1

    def test_a_job_can_be_asked_for_again_while_it_is_being_done(self):
        order(ACME, "a0")
        take()
        order(ACME, "a0")

        assert ProcrastinateJob.objects.filter(queue_name=SERVERS).count() == 2


class TaskTests(SimpleTestCase):
    def test_every_job_waits_in_a_queue_that_is_served_and_outlives_its_worker(self):
        ours = {
            name: task for name, task in jobs.tasks.items() if "builtin" not in name
        }
        assert len(ours) > 15
        for name, task in ours.items():
            with self.subTest(name):
                assert task.queue in SLOTS
                assert isinstance(task.retry_strategy, Again)


class AgainTests(SimpleTestCase):
    def wait(self, error, attempts=0, strategy=None):
        strategy = strategy or Again(ValueError, waits=[3, 9])
        job = mock.Mock(spec=Job, attempts=attempts)
        return strategy.get_retry_decision(exception=error, job=job)

    def test_what_may_pass_is_tried_as_often_as_there_are_waits(self):
        assert self.wait(ValueError())
        assert self.wait(ValueError(), attempts=1)
        assert self.wait(ValueError(), attempts=2) is None

    def test_a_fault_is_not_tried_again(self):
        assert self.wait(TypeError()) is None

    def test_a_database_that_was_away_is_tried_again(self):
        for lost in (
            psycopg.OperationalError("gone"),
            psycopg.InterfaceError("closed"),
        ):
            for around in (OperationalError(), ConnectorException()):
                around.__cause__ = lost
                with self.subTest(lost=lost, around=around):
                    assert self.wait(around, attempts=5)
                    assert self.wait(around, attempts=1000) is None

    def test_a_job_that_another_worker_does_is_asked_for_again(self):
        assert self.wait(Leased(), attempts=1000)

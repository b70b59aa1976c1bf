"""Real workers that are killed, stopped, doubled, and cut off from the database."""

import asyncio
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import psycopg
import pytest
from django.db import connection
from django.test import SimpleTestCase, TransactionTestCase
from procrastinate.contrib.django import app as jobs
from procrastinate.contrib.django.models import ProcrastinateJob

from controlpanel.jobs import HOUSEKEEPING, IMAGES, MAIL, defer_for
from controlpanel.worker import watch_clock
from sharing.models import ImageReport
from tests.factories import AccountFactory
from tests.jobs.case import MailServer, WorkersMixin, database_url, wait_until


class ClockTests(SimpleTestCase):
    def test_a_clock_that_is_set_ends_the_worker(self):
        for seconds in (7200, -7200):
            times = [1000.0, 1001.0, 1002.0 + seconds]
            with (
                self.subTest(seconds),
                mock.patch("controlpanel.worker.time.time", side_effect=times),
                mock.patch("asyncio.sleep"),
                pytest.raises(RuntimeError, match="clock was set"),
                ThreadPoolExecutor() as worker,
            ):
                # In a thread, since a browser's tests leave a loop in this one.
                worker.submit(asyncio.run, watch_clock()).result()


class WorkerTests(WorkersMixin, TransactionTestCase):
    def setUp(self):
        super().setUp()
        self.mail_server = MailServer()
        self.addCleanup(self.mail_server.close)
        account = AccountFactory.create()
        self.report = ImageReport.objects.create(
            image_id=uuid.uuid4(), producer=account, reporter=account
        )

    def start(self):
        port = str(self.mail_server.port)
        return self.start_worker(EMAIL_HOST="127.0.0.1", EMAIL_PORT=port)

    def order_a_mail(self, **locks):
        task = "sharing.tasks.mail_report"
        jobs.configure_task(task, queue=MAIL, **locks).defer(report_id=self.report.pk)

    def mails_waiting(self):
        return ProcrastinateJob.objects.filter(queue_name=MAIL)

    def wait_for_callers(self, count):
        wait_until(lambda: self.mail_server.callers >= count)

    def wait_for_the_mail(self):
        self.mail_server.may_answer.set()
        wait_until(lambda: not self.mails_waiting().exists())
        assert self.mail_server.mails == 1

    def test_a_job_of_a_killed_worker_is_taken_up_as_soon_as_another_starts(self):
        self.order_a_mail()
        self.start_and_kill()
        assert self.mails_waiting().get().status == "doing"

        self.start()
        self.wait_for_callers(2)
        assert self.mails_waiting().get().attempts == 1
        self.wait_for_the_mail()

    def test_a_job_that_was_asked_for_again_meanwhile_is_done_once(self):
        self.order_a_mail(queueing_lock="mail", lock="lane")
        self.start_and_kill()
        self.order_a_mail(queueing_lock="mail", lock="lane")
        assert self.mails_waiting().count() == 2

        self.start()
        self.wait_for_callers(2)
        assert self.mails_waiting().count() == 1
        self.wait_for_the_mail()

    def start_and_kill(self):
        """A worker in the midst of its first mail."""
        worker = self.start()
        self.wait_for_callers(1)
        worker.kill()
        worker.wait()

    def test_a_job_of_a_stopped_worker_is_not_done_by_another(self):
        self.order_a_mail()
        first = self.start()
        self.wait_for_callers(1)
        first.send_signal(signal.SIGSTOP)
        self.start()
        # It looks for jobs that nobody does before it does this one.
        other = ImageReport.objects.create(
            image_id=uuid.uuid4(),
            producer=self.report.producer,
            reporter=self.report.reporter,
        )
        jobs.configure_task("sharing.tasks.mail_report", queue=MAIL).defer(
            report_id=other.pk
        )
        self.wait_for_callers(2)

        jobs_there = {job.args["report_id"]: job for job in self.mails_waiting()}
        assert jobs_there[self.report.pk].status == "doing"
        assert jobs_there[self.report.pk].attempts == 0
        first.send_signal(signal.SIGCONT)
        self.mail_server.may_answer.set()
        wait_until(lambda: not self.mails_waiting().exists())
        assert self.mail_server.mails == 2

    def test_it_ends_when_asked_and_leaves_a_job_that_hangs_to_the_next(self):
        self.order_a_mail()
        first = self.start()
        self.wait_for_callers(1)
        first.terminate()

        first.wait(20)
        self.start()
        self.wait_for_callers(2)
        self.wait_for_the_mail()

    def test_it_waits_for_a_database_that_is_away(self):
        self.order_a_mail()
        worker = self.start()
        self.wait_for_callers(1)
        allow = f'ALTER DATABASE "{connection.settings_dict["NAME"]}" ALLOW_CONNECTIONS'
        # From another database: one does not refuse itself.
        with psycopg.connect(database_url("postgres"), autocommit=True) as other:
            other.execute(f"{allow} false")
            try:
                wait_until(lambda: not self.cut_off())
            finally:
                other.execute(f"{allow} true")
        self.wait_for_the_mail()
        self.order_a_mail()

        wait_until(lambda: self.mail_server.mails == 2)
        assert worker.poll() is None

    def test_mails_that_nobody_takes_hold_up_no_other_queue(self):
        for _ in range(8):
            self.order_a_mail()
        jobs.configure_task("accounts.tasks.prune", queue=HOUSEKEEPING).defer(
            timestamp=0
        )
        defer_for("82000118", "images.tasks.admit", IMAGES, image_id=str(uuid.uuid4()))
        self.start()
        self.wait_for_callers(1)

        others = ProcrastinateJob.objects.filter(queue_name__in=[HOUSEKEEPING, IMAGES])
        wait_until(lambda: not others.exists())
        assert self.mails_waiting().count() == 8
        assert self.mails_waiting().filter(status="doing").count() == 1

    def test_a_job_that_gets_no_lock_in_time_is_tried_again(self):
        with psycopg.connect(database_url()) as other:
            other.execute("LOCK TABLE accounts_session IN ACCESS EXCLUSIVE MODE")
            jobs.configure_task("accounts.tasks.prune", queue=HOUSEKEEPING).defer(
                timestamp=0
            )
            self.start_worker(options="-c lock_timeout=100ms")
            prunings = ProcrastinateJob.objects.filter(task_name="accounts.tasks.prune")
            wait_until(lambda: prunings.get().attempts)

        wait_until(lambda: not prunings.exists())

    def test_a_job_whose_connection_is_cut_is_tried_again(self):
        with psycopg.connect(database_url()) as other:
            other.execute("LOCK TABLE accounts_session IN ACCESS EXCLUSIVE MODE")
            jobs.configure_task("accounts.tasks.prune", queue=HOUSEKEEPING).defer(
                timestamp=0
            )
            self.start_worker()
            wait_until(
                lambda: self.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )
            prunings = ProcrastinateJob.objects.filter(task_name="accounts.tasks.prune")
            wait_until(lambda: prunings.get().attempts)

        wait_until(lambda: not prunings.exists())

    def cut_off(self):
        return self.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def ask(self, query):
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

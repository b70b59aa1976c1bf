from contextlib import suppress
from datetime import timedelta
from unittest import mock

import pytest
from croniter import croniter
from django.core.management import call_command
from django.utils import timezone
from procrastinate.contrib.django import app as jobs

from servers import tasks, watching
from servers.compute.base import (
    ComputeError,
    ComputeUnavailable,
    Observed,
    PowerState,
    ServerBusy,
)
from servers.models import Server, ServerEvent, What
from tests.cast import CastTestCase
from tests.factories import ImageFactory, ImageShareFactory
from tests.images.case import lose_jobs
from tests.servers.factories import ED25519, ServerFactory
from tests.servers.fakes import FakeComputeMixin


class TaskTestCase(FakeComputeMixin, CastTestCase):
    def run_job(self, job, server):
        job(server_id=str(server.pk))
        server.refresh_from_db()
        return server.status, server.task

    def active(self, **changes):
        return ServerFactory.create(account=self.beta, by=self.bob, active=True)

    def events(self, server):
        events = ServerEvent.objects.filter(server_id=server.pk).order_by("pk")
        return list(events.values_list("what", flat=True))


class BuildTests(TaskTestCase):
    def test_a_built_server_runs_and_has_an_address(self):
        server = ServerFactory.create(account=self.beta, public_key=ED25519)

        assert self.run_job(tasks.build, server) == ("ACTIVE", "")
        assert (server.ssh_host, server.ssh_port) == ("127.0.0.1", 22022)
        assert self.events(server) == [What.CREATE, What.STARTED]
        spec = self.compute.specs[server.pk]
        assert spec.public_keys == (ED25519,)
        assert spec.image.format == "qcow2"

    def test_one_that_has_ended_before_the_first_look_can_be_started(self):
        server = ServerFactory.create(account=self.beta)
        ended = Observed(power_state=PowerState.SHUTDOWN, reason="x" * 600)
        with mock.patch.object(self.compute, "spawn", return_value=ended):
            assert self.run_job(tasks.build, server) == ("SHUTOFF", "")
        assert server.reason == "x" * 500
        self.compute.power[server.pk] = PowerState.SHUTDOWN
        server.power_on(by=self.bob)
        assert self.run_job(tasks.power_on, server) == ("ACTIVE", "")

    def test_a_job_that_runs_again_changes_nothing(self):
        server = self.active()

        assert self.run_job(tasks.build, server) == ("ACTIVE", "")
        assert self.compute.deeds == ["spawn"]

    def test_a_worker_killed_after_the_start_is_taken_up_where_it_was(self):
        server = ServerFactory.create(account=self.beta)
        self.compute.power[server.pk] = PowerState.RUNNING

        assert self.run_job(tasks.build, server) == ("ACTIVE", "")
        assert self.events(server) == [What.CREATE, What.STARTED]

    def test_what_was_started_just_before_its_image_was_withdrawn_is_ended(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        server = ServerFactory.create(account=self.beta, image=self.image)
        self.compute.power[server.pk] = PowerState.RUNNING
        share.revoke(by=self.alice)

        assert self.run_job(tasks.build, server) == ("ERROR", "")
        assert self.compute.deeds == ["destroy"]

    def test_the_rest_of_a_build_that_fails_is_cleared_away_once_it_is_free(self):
        server = ServerFactory.create(account=self.beta)
        for rest, state in [
            (ServerBusy("It is being looked at."), ("BUILD", "spawning")),
            (ComputeError("It cannot be ended."), ("ERROR", "")),
        ]:

            def fail(compute, server, rest=rest):
                compute.trouble = rest
                raise ComputeError("It did not start in time.")

            with (
                self.subTest(rest),
                mock.patch.object(tasks, "_spawn", fail),
                suppress(ServerBusy),
            ):
                self.run_job(tasks.build, server)
            server.refresh_from_db()
            assert (server.status, server.task) == state

    def test_a_build_that_fails_late_leaves_alone_what_another_run_has_built(self):
        server = ServerFactory.create(account=self.beta)
        spawn = tasks._spawn

        def hang_and_fail(compute, server):
            with mock.patch.object(tasks, "_spawn", spawn):
                tasks.build(server_id=str(server.pk))
            raise ComputeError("It did not start in time.")

        with mock.patch.object(tasks, "_spawn", hang_and_fail):
            assert self.run_job(tasks.build, server) == ("ACTIVE", "")
        assert self.compute.deeds == ["spawn"]
        assert self.events(server) == [What.CREATE, What.STARTED]

    def test_a_build_that_fails_leaves_a_server_that_is_being_deleted_to_that(self):
        server = ServerFactory.create(account=self.beta)

        def fail(compute, server):
            Server.objects.get(pk=server.pk).delete_later(by=self.bob)
            raise ComputeError("It did not start in time.")

        with mock.patch.object(tasks, "_spawn", fail):
            assert self.run_job(tasks.build, server) == ("BUILD", "deleting")
        assert self.compute.deeds == []

    def test_a_share_withdrawn_since_the_order_stops_the_build(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        server = ServerFactory.create(account=self.beta, image=self.image)
        share.revoke(by=self.alice)

        assert self.run_job(tasks.build, server) == ("ERROR", "")
        assert "no longer shared with this account" in server.reason
        assert "spawn" not in self.compute.deeds

    def test_an_image_deleted_since_the_order_stops_the_build(self):
        image = ImageFactory.create(owner=self.beta)
        server = ServerFactory.create(account=self.beta, image=image)
        image.delete_with_shares(by=self.bob)

        assert self.run_job(tasks.build, server) == ("ERROR", "")
        assert server.reason == "The image has been deleted."

    def test_a_failed_start_shows_the_real_reason_and_gives_the_place_back(self):
        server = ServerFactory.create(account=self.beta)
        self.compute.trouble = ComputeUnavailable("QEMU is missing.")

        assert self.run_job(tasks.build, server) == ("ERROR", "")
        assert server.reason == "QEMU is missing."
        assert self.compute.deeds == ["spawn", "destroy"]
        assert not server.can_be_powered_on

    def test_a_busy_server_is_tried_again(self):
        server = ServerFactory.create(account=self.beta)
        self.compute.trouble = ServerBusy("busy")

        with pytest.raises(ServerBusy):
            tasks.build(server_id=str(server.pk))
        server.refresh_from_db()
        assert server.task == "spawning"

    def test_a_server_deleted_while_it_waits_is_not_built(self):
        server = ServerFactory.create(account=self.beta)
        server.delete_later(by=self.bob)

        tasks.build(server_id=str(server.pk))
        assert self.compute.deeds == []


class DeedTests(TaskTestCase):
    def test_reboot_soft_and_hard(self):
        for hard, deed in [(False, "reboot"), (True, "reboot hard")]:
            server = self.active()
            server.reboot(by=self.bob, hard=hard)
            assert self.run_job(tasks.reboot, server) == ("ACTIVE", "")
            assert self.compute.deeds[-1] == deed

    def test_rebooting_what_has_stopped_shows_it_as_shut_off(self):
        server = self.active()
        server.reboot(by=self.bob)
        self.compute.power[server.pk] = PowerState.SHUTDOWN

        assert self.run_job(tasks.reboot, server) == ("SHUTOFF", "")
        assert "not running" in server.reason

    def test_power_off_and_on(self):
        server = self.active()
        server.power_off(by=self.bob)
        assert self.run_job(tasks.power_off, server) == ("SHUTOFF", "")
        server.power_on(by=self.bob)
        assert self.run_job(tasks.power_on, server) == ("ACTIVE", "")
        assert self.events(server)[2:] == [
            What.POWER_OFF,
            What.STOPPED,
            What.POWER_ON,
            What.STARTED,
        ]

    def test_a_deed_that_fails_is_an_error_with_its_reason(self):
        for verb in ["reboot", "power_off", "power_on"]:
            with self.subTest(verb=verb):
                server = self.active()
                if verb == "power_on":
                    Server.objects.filter(pk=server.pk).update(status="SHUTOFF")
                    server.refresh_from_db()
                getattr(server, verb)(by=self.bob)
                self.compute.trouble = ComputeError("The disk is missing.")
                assert self.run_job(getattr(tasks, verb), server) == ("ERROR", "")
                assert server.reason == "The disk is missing."
                assert server.can_be_powered_on

    def test_a_busy_server_is_tried_again(self):
        for verb in ["reboot", "power_off", "delete_later"]:
            server = self.active()
            getattr(server, verb)(by=self.bob)
            self.compute.trouble = ServerBusy("busy")
            with self.subTest(verb=verb), pytest.raises(ServerBusy):
                getattr(tasks, verb.removesuffix("_later"))(server_id=str(server.pk))

    def test_a_job_without_its_task_does_nothing(self):
        server = self.active()
        for job in [tasks.reboot, tasks.power_off, tasks.power_on, tasks.delete]:
            assert self.run_job(job, server) == ("ACTIVE", "")
        assert self.compute.deeds == ["spawn"]

    def test_an_account_keeps_its_server_when_the_image_is_withdrawn(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        server = ServerFactory.create(account=self.beta, image=self.image, active=True)
        share.revoke(by=self.alice)
        self.image.delete_with_shares(by=self.alice)
        server.refresh_from_db()

        server.power_off(by=self.bob)
        self.run_job(tasks.power_off, server)
        server.power_on(by=self.bob)
        assert self.run_job(tasks.power_on, server) == ("ACTIVE", "")
        assert server.image is None
        assert self.compute.specs[server.pk].image.path.name == server.blob.digest

    def test_deletion_leaves_nothing(self):
        server = self.active()
        server.delete_later(by=self.bob)
        tasks.delete(server_id=str(server.pk))

        assert not Server.objects.exists()
        assert self.compute.server_ids() == set()
        tasks.delete(server_id=str(server.pk))

    def test_a_deletion_that_fails_can_be_tried_again(self):
        server = self.active()
        server.delete_later(by=self.bob)
        self.compute.trouble = ComputeError("The disk is busy.")

        assert self.run_job(tasks.delete, server) == ("ERROR", "")
        assert "could not be deleted" in server.reason
        assert server.can_be_deleted

    def test_a_deletion_overtakes_a_deed_that_is_under_way(self):
        server = self.active()
        server.power_off(by=self.bob)
        # The worker has read the row when the user deletes the server.
        read = Server.objects.select_related("region").get(pk=server.pk)
        server.delete_later(by=self.bob)
        with mock.patch("servers.tasks._with_task", return_value=read):
            tasks.power_off(server_id=str(server.pk))

        server.refresh_from_db()
        assert server.task == "deleting"

    def test_only_a_running_server_is_photographed(self):
        server = self.active()
        tasks.screenshot(server_id=str(server.pk))
        Server.objects.update(status="SHUTOFF")
        tasks.screenshot(server_id=str(server.pk))

        assert self.compute.deeds.count("screenshot") == 1


class ReconcileTests(TaskTestCase):
    def reconcile(self, server):
        tasks.reconcile(0)
        server.refresh_from_db()
        return server.status, server.reason

    def test_what_is_found_is_written_down(self):
        found = {
            PowerState.SHUTDOWN: "SHUTOFF",
            PowerState.CRASHED: "ERROR",
            PowerState.PAUSED: "ERROR",
            PowerState.NOSTATE: "ERROR",
        }
        for power, status in found.items():
            with self.subTest(power=power):
                server = self.active()
                self.compute.power[server.pk] = power
                self.compute.reasons[server.pk] = "A reason."
                assert self.reconcile(server) == (status, "A reason.")
                events = len(self.events(server))
                assert self.reconcile(server) == (status, "A reason.")
                assert len(self.events(server)) == events
                server.forget()

    def test_a_server_that_runs_again_is_adopted(self):
        server = self.active()
        Server.objects.update(status="ERROR", reason="crashed")

        assert self.reconcile(server) == ("ACTIVE", "")

    def test_a_new_port_is_noticed(self):
        server = self.active()
        self.compute.port = 22099

        self.reconcile(server)
        assert server.ssh_port == 22099

    def test_nothing_is_said_of_a_server_with_which_something_is_being_done(self):
        server = self.active()
        server.power_off(by=self.bob)
        self.compute.power[server.pk] = PowerState.CRASHED

        assert self.reconcile(server)[0] == "ACTIVE"

    def test_the_login_prompt_is_noticed_once(self):
        server = self.active()
        Server.objects.update(started_at=timezone.now() - timedelta(seconds=8))
        self.compute.consoles[server.pk] = "Tiny Linux\n\nweb-1 login: "

        self.reconcile(server)
        self.reconcile(server)
        assert server.prompt_at
        assert self.events(server).count(What.PROMPT) == 1

    def test_a_prompt_of_before_the_reboot_does_not_count(self):
        server = self.active()
        Server.objects.update(started_at=timezone.now() + timedelta(minutes=1))
        self.compute.consoles[server.pk] = "web-1 login: "

        self.reconcile(server)
        assert server.prompt_at is None

    def test_one_server_that_cannot_be_observed_does_not_hide_the_others(self):
        first, second = self.active(), self.active()
        self.compute.power[second.pk] = PowerState.SHUTDOWN
        observe = self.compute.observe

        def fail(server_id):
            if server_id == first.pk:
                raise ComputeError("broken")
            return observe(server_id)

        with mock.patch.object(self.compute, "observe", fail):
            tasks.reconcile(0)
        second.refresh_from_db()
        assert second.status == "SHUTOFF"

    def test_a_lost_job_is_handed_out_again_once(self):
        ServerFactory.create(account=self.beta)
        with mock.patch.object(Server, "defer") as defer:
            tasks.reconcile(0)
            Server.objects.update(changed_at=timezone.now() - timedelta(minutes=5))
            tasks.reconcile(0)
            assert not defer.called
            lose_jobs()
            tasks.reconcile(0)
        defer.assert_called_once_with("build")

    def test_a_picture_that_is_asked_for_is_no_job_of_the_deed(self):
        server = self.active()
        server.power_off(by=self.bob)
        lose_jobs()
        server.defer("screenshot")
        [finding] = watching.servers_without_job(stale=timezone.now())
        assert finding.subject == str(server.pk)

    def test_the_region_is_stopped_in_order(self):
        server, busy = self.active(), self.active()
        busy.reboot(by=self.bob)

        call_command("stop_servers", verbosity=0)

        server.refresh_from_db()
        assert server.status == "SHUTOFF"
        assert server.reason == "Shut off by a restart of the region."
        assert self.compute.power[busy.pk] is PowerState.SHUTDOWN

    def test_a_server_that_cannot_be_stopped_keeps_its_state(self):
        server = self.active()
        self.compute.trouble = ComputeError("stuck")

        assert watching.stop_all(patience=0) == 0
        server.refresh_from_db()
        assert server.status == "ACTIVE"

    def test_it_runs_every_five_seconds(self):
        periodic = jobs.periodic_registry.periodic_tasks.values()
        (cron,) = [each.cron for each in periodic if each.task == tasks.reconcile]
        times = croniter(cron, 1_795_485_000)
        assert [times.get_next(float) % 60 for _ in range(3)] == [5, 10, 15]

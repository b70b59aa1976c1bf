"""What the worker does with servers, one job at a time for each server.

A job may be cut short and run again: each reads the row, does what the row's task
says, by verbs of the backend that may be repeated, and settles the row.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from procrastinate.contrib.django import app as jobs

from controlpanel.jobs import ONLY_IF_INTERRUPTED, SERVERS, WATCH, Again
from images.reconciling import mend
from images.stores import StoreError
from servers import changes, snapshots, watching
from servers.compute.backends import compute_for
from servers.compute.base import (
    Compute,
    ComputeError,
    NotRunning,
    Observed,
    PowerOff,
    ServerBusy,
)
from servers.models import NotBootable, Server, lock_bootable
from servers.settling import fail, settle_started, settle_stopped, spec_of, start

log = logging.getLogger("panel.servers")

_AGAIN = Again(ServerBusy, waits=[5] * 10)
STUCK_AFTER = timedelta(minutes=2)
_ENDED = {
    PowerOff.ALREADY_OFF: "",
    PowerOff.IN_ORDER: "",
    PowerOff.FORCED: "It did not shut down by itself in time, so its power was cut.",
    PowerOff.KILLED: "It did not answer any more and was ended by force.",
}


@jobs.task(queue=SERVERS, retry=_AGAIN)
def build(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.SPAWNING)
    if server is None:
        return
    try:
        # Also when an earlier run of this job was cut short after it: the image may
        # have been withdrawn in the meantime.
        found = _spawn(compute_for(server.region.backend), server)
    except ServerBusy:
        raise
    except (ComputeError, StoreError, NotBootable) as error:
        log.warning("server %s was not built: %s", server.pk, error)
        _clear_away(server, str(error))
    else:
        settle_started(server, found, launched_at=timezone.now())


@jobs.task(queue=SERVERS, retry=_AGAIN)
def reboot(server_id: str) -> None:
    hard = Server.Task.REBOOTING_HARD
    server = _with_task(server_id, Server.Task.REBOOTING, hard)
    if server is None:
        return
    try:
        compute = compute_for(server.region.backend)
        found = compute.reboot(server.pk, hard=server.task == hard)
    except ServerBusy:
        raise
    except NotRunning as error:
        settle_stopped(server, str(error))
    except ComputeError as error:
        fail(server, str(error))
    else:
        settle_started(server, found)


@jobs.task(queue=SERVERS, retry=_AGAIN)
def power_off(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.POWERING_OFF)
    if server is None:
        return
    try:
        how = compute_for(server.region.backend).power_off(server.pk)
    except ServerBusy:
        raise
    except ComputeError as error:
        fail(server, str(error))
    else:
        settle_stopped(server, _ENDED[how])


@jobs.task(queue=SERVERS, retry=_AGAIN)
def power_on(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.POWERING_ON)
    if server is not None:
        start(server)


@jobs.task(queue=SERVERS, retry=_AGAIN)
def snapshot(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.IMAGING)
    if server is None:
        return
    image = server.images_being_made().first()
    if image is None:  # deleted before this began
        snapshots.give_up(server, None, "")
        return
    try:
        compute = compute_for(server.region.backend)
        snapshots.write(compute, spec_of(server), image)
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:
        snapshots.give_up(server, image, str(error))
    else:
        snapshots.hand_over(server, image)


@jobs.task(queue=SERVERS, retry=_AGAIN)
def rebuild(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.REBUILDING)
    if server is not None:
        changes.rebuild(server)


@jobs.task(queue=SERVERS, retry=_AGAIN)
def resize(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.RESIZING)
    if server is not None:
        changes.resize(server)


@jobs.task(queue=SERVERS, retry=_AGAIN)
def delete(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.DELETING)
    if server is None:
        return
    snapshots.end_for(server)
    try:
        compute_for(server.region.backend).destroy(server.pk)
    except ServerBusy:
        raise
    except ComputeError as error:
        changes.keep(server, f"It could not be deleted: {error}")
    else:
        server.forget()


@jobs.task(queue=SERVERS, retry=ONLY_IF_INTERRUPTED)
def screenshot(server_id: str) -> None:
    server = (
        Server.objects.with_parts()
        .filter(pk=server_id, status=Server.Status.ACTIVE)
        .first()
    )
    if server:
        with contextlib.suppress(ComputeError):
            compute_for(server.region.backend).screenshot(server.pk)


# The sixth field of this cron are seconds.
@jobs.periodic(cron="* * * * * */5")
@jobs.task(
    queue=WATCH, lock="reconcile", queueing_lock="reconcile", retry=ONLY_IF_INTERRUPTED
)
def reconcile(timestamp: int) -> None:
    """Compare what runs with what the rows say; a worker that starts does it first."""
    for server in Server.objects.with_parts().settled():
        try:
            watching.put_right(server)
        except ServerBusy:
            pass  # with what comes first; it is looked at again in a moment
        except ComputeError as error:
            log.warning("server %s cannot be observed: %s", server.pk, error)
    for finding in watching.servers_without_job(stale=timezone.now() - STUCK_AFTER):
        mend(finding)


def _with_task(server_id: str, *tasks: Server.Task) -> Server | None:
    """The server if this is still to be done; otherwise it is done, or overtaken."""
    return (
        Server.objects.with_parts().filter(pk=UUID(server_id), task__in=tasks).first()
    )


def _spawn(compute: Compute, server: Server) -> Observed:
    """Make the disk and start the server, while the image cannot be withdrawn."""
    with transaction.atomic():
        if server.image_id is None:
            raise NotBootable("The image has been deleted.")
        lock_bootable(server.image_id, server.account)
        return compute.spawn(spec_of(server))


@transaction.atomic
def _clear_away(server: Server, reason: str) -> None:
    """Nothing is left of a build that failed, unless another run of it has succeeded
    or the server is being deleted: that is settled before, or waits for this."""
    spawning = Server.objects.filter(pk=server.pk, task=Server.Task.SPAWNING)
    if spawning.select_for_update(no_key=True).first():
        try:
            compute_for(server.region.backend).destroy(server.pk)
        except ServerBusy:
            raise
        except ComputeError as error:  # its deletion tries that again
            log.warning("server %s was not cleared away: %s", server.pk, error)
        fail(server, reason)

"""What the worker does with servers, one job at a time for each server.

A job may be cut short and run again: each reads the row, does what the row's task
says, by verbs of the backend that may be repeated, and settles the row.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from procrastinate.contrib.django import app as jobs

from controlpanel.jobs import ONLY_IF_INTERRUPTED, SERVERS, WATCH, Again
from images.models import Blob
from images.reconciling import Finding, has_job, mend
from images.stores import BlobGone, StoreError, store_for
from servers import snapshots
from servers.compute.backends import compute_for
from servers.compute.base import (
    Compute,
    ComputeError,
    ImageFile,
    NotRunning,
    Observed,
    PowerOff,
    PowerState,
    ServerBusy,
    ServerSpec,
)
from servers.models import (
    JOBS,
    NotBootable,
    Rebuild,
    Resize,
    Server,
    ServerQuerySet,
    What,
    lock_bootable,
)

log = logging.getLogger("panel.servers")

_AGAIN = Again(ServerBusy, waits=[5] * 10)
STUCK_AFTER = timedelta(minutes=2)
_ENDED = {
    PowerOff.ALREADY_OFF: "",
    PowerOff.IN_ORDER: "",
    PowerOff.FORCED: "It did not shut down by itself in time, so its power was cut.",
    PowerOff.KILLED: "It did not answer any more and was ended by force.",
}
_PROMPT = re.compile(r"login: *$", re.MULTILINE)
_LOST = "The region does not know this server any more."
_IMAGE_GONE = (
    "The file of the image that this server was made from is missing, so it cannot be "
    "started. The operator of the region can restore it."
)
_IMAGE_GONE_WHILE_IT_RUNS = (
    "It runs on, but the file of the image that it was made from is missing: once it "
    "is shut off, it cannot be started. Copy what matters, and tell the operator."
)


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
        _settle_started(server, found, launched_at=timezone.now())


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
        _settle_stopped(server, str(error))
    except ComputeError as error:
        _fail(server, str(error))
    else:
        _settle_started(server, found)


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
        _fail(server, str(error))
    else:
        _settle_stopped(server, _ENDED[how])


@jobs.task(queue=SERVERS, retry=_AGAIN)
def power_on(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.POWERING_ON)
    if server is None:
        return
    try:
        compute = compute_for(server.region.backend)
        found = compute.power_on(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:
        _fail(server, str(error))
    else:
        _settle_started(server, found)


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
    if server is None:
        return
    order = Rebuild.objects.select_related("blob").filter(server=server).first()
    if order is None:  # the disk is exchanged
        _start_again(server)
        return
    order.server = server
    try:
        _exchange(compute_for(server.region.backend), order)
    except ServerBusy:
        raise
    except (ComputeError, StoreError, NotBootable) as error:
        log.warning("server %s was not rebuilt: %s", server.pk, error)
        _keep_running(server)
        order.give_up(str(error))
    else:
        if order.finish():
            _start_again(_known().get(pk=server.pk))


@jobs.task(queue=SERVERS, retry=_AGAIN)
def resize(server_id: str) -> None:
    server = _with_task(server_id, Server.Task.RESIZING)
    if server is None:
        return
    order = Resize.objects.select_related("before").filter(server=server).first()
    if order is None:  # it has its new size
        _start_again(server)
        return
    order.server = server
    try:
        compute_for(server.region.backend).resize(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:
        log.warning("server %s was not resized: %s", server.pk, error)
        server.flavor = order.before
        _keep_running(server)
        order.give_up(str(error))
    else:
        if order.finish():
            _start_again(server)


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
        _fail(server, f"It could not be deleted: {error}")
    else:
        server.forget()


@jobs.task(queue=SERVERS, retry=ONLY_IF_INTERRUPTED)
def screenshot(server_id: str) -> None:
    server = _known().filter(pk=server_id, status=Server.Status.ACTIVE).first()
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
    for server in _known().settled():
        try:
            _reconcile(server)
        except ServerBusy:
            pass  # with what comes first; it is looked at again in a moment
        except ComputeError as error:
            log.warning("server %s cannot be observed: %s", server.pk, error)
    for finding in servers_without_job(stale=timezone.now() - STUCK_AFTER):
        mend(finding)


def _reconcile(server: Server) -> None:
    compute = compute_for(server.region.backend)
    found = look(compute, server)
    if settle := difference(server, found):
        settle()
    elif found.power_state is PowerState.RUNNING:
        _look_closer(compute, server, found)


def servers_that_differ() -> Iterator[Finding]:
    """Servers of which the region finds another state than their rows say."""
    for server in _known().settled().iterator(chunk_size=500):
        try:
            found = look(compute_for(server.region.backend), server)
        except ComputeError:
            continue  # nothing can be said of it just now
        if settle := difference(server, found):
            state = found.power_state.name.lower()
            yield Finding(
                kind="server in another state",
                subject=str(server.pk),
                sentence=f"{server}: {server.status}, found {state}. {found.reason}",
                mend=settle,
            )


def servers_without_job(*, stale: datetime) -> Iterator[Finding]:
    """Deeds of which the job failed by a fault of ours, or was lost."""
    for server in _known().exclude(task="").filter(changed_at__lt=stale):
        if not has_job(server_id=server.pk):
            job = JOBS[Server.Task(server.task)]
            yield Finding(
                kind="server without a job",
                subject=str(server.pk),
                sentence=f"{server}: {server.state}, but no job does it.",
                mend=partial(server.defer, job),
            )


def look(compute: Compute, server: Server) -> Observed:
    """How the server is; one whose image's file is missing cannot be started."""
    found = compute.observe(server.pk)
    if found.is_detached or server.blob is None:
        return found
    try:
        store_for(server.region.backend).path(server.blob.digest)
    except BlobGone:
        if found.power_state is PowerState.RUNNING:
            return replace(found, reason=found.reason or _IMAGE_GONE_WHILE_IT_RUNS)
        if found.power_state is PowerState.SHUTDOWN:
            crashed = PowerState.CRASHED
            return replace(found, power_state=crashed, reason=_IMAGE_GONE)
    return found


def difference(server: Server, found: Observed) -> Callable[[], object] | None:
    """What settles a server that is not as its row says; None if it is as it says."""
    match found.power_state:
        case PowerState.RUNNING if not server.is_active:
            return partial(_settle_started, server, found)
        case PowerState.SHUTDOWN if server.is_active:
            return partial(_settle_stopped, server, found.reason)
        case PowerState.CRASHED | PowerState.PAUSED if not server.is_broken:
            return partial(_fail, server, found.reason or "It has crashed.")
        case PowerState.NOSTATE if not server.is_broken:
            return partial(_fail, server, found.reason or _LOST)
    return None


def _look_closer(compute: Compute, server: Server, found: Observed) -> None:
    """A server that runs as it should: its address, and whether it asks for a login."""
    seen = (server.ssh_host, server.ssh_port, server.reason)
    if seen != (found.ssh_host, found.ssh_port, found.reason):
        server.settle(
            None,
            ssh_host=found.ssh_host,
            ssh_port=found.ssh_port,
            reason=found.reason,
        )
    now, started = timezone.now(), server.started_at
    # The console still shows the prompt of before for a moment after a reboot.
    if server.prompt_at or not started or now - started < timedelta(seconds=3):
        return
    lines = compute.console_log(server.pk, max_bytes=2000).rstrip().splitlines()
    if _PROMPT.search("\n".join(lines[-3:])):
        seconds = round((now - started).total_seconds())
        note = f"About {seconds} s after the start"
        server.settle(What.PROMPT, note=note, prompt_at=now)


def stop_all(*, patience: float) -> int:
    """Shut off every server of this panel, because its region is about to stop."""
    servers = list(_known().filter(status=Server.Status.ACTIVE))

    def stop(server: Server) -> bool:
        """In a thread of its own, so without the database."""
        try:
            compute_for(server.region.backend).power_off(server.pk, patience=patience)
        except ComputeError as error:
            log.warning("server %s was not shut off: %s", server.pk, error)
            return False
        return True

    # All at once, for the region has little time.
    with ThreadPoolExecutor(max_workers=16) as pool:
        stopped = list(pool.map(stop, servers))
    for server, is_off in zip(servers, stopped, strict=True):
        if is_off and not server.task:
            _settle_stopped(server, "Shut off by a restart of the region.")
    return sum(stopped)


def _known() -> ServerQuerySet:
    return Server.objects.select_related("account", "region", "flavor", "blob")


def _with_task(server_id: str, *tasks: Server.Task) -> Server | None:
    """The server if this is still to be done; otherwise it is done, or overtaken."""
    return _known().filter(pk=UUID(server_id), task__in=tasks).first()


def _spawn(compute: Compute, server: Server) -> Observed:
    """Make the disk and start the server, while the image cannot be withdrawn."""
    with transaction.atomic():
        if server.image_id is None:
            raise NotBootable("The image has been deleted.")
        lock_bootable(server.image_id, server.account)
        return compute.spawn(spec_of(server))


def _exchange(compute: Compute, order: Rebuild) -> None:
    """Give the server its new disk, while the image cannot be withdrawn; nothing if an
    earlier run of the job has, for then the image is not asked for any more.
    """
    server = order.server
    if compute.observe(server.pk).rebuilt_by == order.pk:
        return
    with transaction.atomic():
        order.insist_on_image()
        spec = replace(
            spec_of(server),
            image=_file_of(server, order.blob),
            password_hash=order.password_hash,
        )
        compute.rebuild(spec, order=order.pk)


def _keep_running(server: Server) -> None:
    """Start what ran before a change that comes to nothing, should this run of the job
    or one that was cut short have shut it down for it.
    """
    if server.status != Server.Status.ACTIVE:
        return
    compute = compute_for(server.region.backend)
    try:
        if compute.observe(server.pk).power_state is PowerState.SHUTDOWN:
            compute.power_on(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:  # the next look tells of it
        log.warning("server %s was not started again: %s", server.pk, error)


def _start_again(server: Server) -> None:
    """After a change of disk or size, which has shut it down: as it was before."""
    if server.status == Server.Status.SHUTOFF:
        server.settle(None, task="", reason="")
        return
    try:
        found = compute_for(server.region.backend).power_on(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:
        _fail(server, str(error))
    else:
        _settle_started(server, found)


@transaction.atomic
def _clear_away(server: Server, reason: str) -> None:
    """Nothing is left of a build that failed, unless another run of it has succeeded
    or the server is being deleted: that is settled before, or waits for this."""
    spawning = Server.objects.filter(pk=server.pk, task=Server.Task.SPAWNING)
    if spawning.select_for_update(no_key=True).first():
        with contextlib.suppress(ComputeError):
            compute_for(server.region.backend).destroy(server.pk)
        _fail(server, reason)


def spec_of(server: Server) -> ServerSpec:
    return ServerSpec(
        id=server.pk,
        hostname=server.hostname,
        memory_mb=server.flavor.ram_mb,
        vcpus=server.flavor.vcpus,
        disk_gb=server.flavor.disk_gb,
        image=_file_of(server, server.blob),
        password_hash=server.password_hash,
        public_keys=(server.public_key,) if server.public_key else (),
    )


def _file_of(server: Server, blob: Blob | None) -> ImageFile | None:
    if blob is None:
        return None
    path = store_for(server.region.backend).path(blob.digest)
    raw = blob.disk_format == "raw"
    return ImageFile(path=path, format="raw" if raw else "qcow2")


def _settle_started(server: Server, found: Observed, **changes: Any) -> None:
    if found.power_state is not PowerState.RUNNING:
        _settle_stopped(server, found.reason)
        return
    server.settle(
        What.STARTED,
        status=Server.Status.ACTIVE,
        task="",
        reason=found.reason,
        ssh_host=found.ssh_host,
        ssh_port=found.ssh_port,
        started_at=timezone.now(),
        prompt_at=None,
        **changes,
    )


def _settle_stopped(server: Server, reason: str) -> None:
    server.settle(
        What.STOPPED,
        note=reason,
        status=Server.Status.SHUTOFF,
        task="",
        reason=reason,
    )


def _fail(server: Server, reason: str) -> None:
    server.settle(
        What.FAILED,
        note=reason,
        status=Server.Status.ERROR,
        task="",
        reason=reason[:500],
    )

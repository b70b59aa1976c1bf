"""What runs, compared with what the rows say."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from django.utils import timezone

from controlpanel.jobs import has_job
from images.reconciling import Finding
from images.stores import BlobGone, StoreError, store_for
from servers.compute.backends import compute_for
from servers.compute.base import Compute, ComputeError, Observed, PowerState
from servers.models import JOBS, Server, What
from servers.settling import fail, settle_started, settle_stopped

log = logging.getLogger("panel.servers")

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


def put_right(server: Server) -> None:
    """Settle its row, should it be in another state; raises ComputeError."""
    compute = compute_for(server.region.backend)
    found = look(compute, server)
    if settle := difference(server, found):
        settle()
    elif server.is_active:
        _look_closer(compute, server, found)


def servers_that_differ() -> Iterator[Finding]:
    """Servers of which the region finds another state than their rows say."""
    for server in Server.objects.with_parts().settled().iterator(chunk_size=500):
        try:
            found = look(compute_for(server.region.backend), server)
        except ComputeError:
            continue  # nothing can be said of it just now
        if difference(server, found):
            state = found.power_state.name.lower()
            yield Finding(
                kind="server in another state",
                subject=str(server.pk),
                sentence=f"{server}: {server.status}, found {state}. {found.reason}",
                mend=partial(put_right, server),
            )


def servers_without_job(*, stale: datetime) -> Iterator[Finding]:
    """Deeds of which the job failed by a fault of ours, or was lost."""
    for server in (
        Server.objects.with_parts().exclude(task="").filter(changed_at__lt=stale)
    ):
        job = JOBS[Server.Task(server.task)]
        if not has_job(f"servers.tasks.{job}", server_id=server.pk):
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
    except StoreError as problem:  # nothing can be said of the file just now
        log.warning("the image of %s was not found: %s", server.pk, problem.detail)
    return found


def difference(server: Server, found: Observed) -> Callable[[], object] | None:
    """What settles a server that is not as its row says; None if it is as it says."""
    match found.power_state:
        case PowerState.RUNNING if server.is_broken and found.at_a_glance:
            return None
        case PowerState.RUNNING if not server.is_active:
            return partial(settle_started, server, found)
        case PowerState.SHUTDOWN if server.is_active:
            return partial(settle_stopped, server, found.reason)
        case PowerState.CRASHED | PowerState.PAUSED if not server.is_broken:
            return partial(fail, server, found.reason or "It has crashed.")
        case PowerState.NOSTATE if not server.is_broken:
            return partial(fail, server, found.reason or _LOST)
    return None


def _look_closer(compute: Compute, server: Server, found: Observed) -> None:
    """A server that runs as it should: its address, and whether it asks for a login."""
    reason = server.reason if found.at_a_glance else found.reason
    seen = (server.ssh_host, server.ssh_port, server.reason)
    if seen != (found.ssh_host, found.ssh_port, reason):
        server.settle(
            None, ssh_host=found.ssh_host, ssh_port=found.ssh_port, reason=reason
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
    servers = list(Server.objects.with_parts().filter(status=Server.Status.ACTIVE))

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
            settle_stopped(server, "Shut off by a restart of the region.")
    return sum(stopped)

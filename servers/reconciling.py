"""Everything in which the database, the files and the processes differ, found together
and mended: every hour by the worker, and by `manage.py reconcile`.

Each difference has one home, beside what mends it by itself every few seconds or
minutes: here they come together, with what belongs to no server and no image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from procrastinate.contrib.django import app as jobs
from procrastinate.contrib.django.models import ProcrastinateJob

from accounts.models import Region
from controlpanel.jobs import HOUSEKEEPING, ONLY_IF_INTERRUPTED, Again
from images import reconciling as images
from images.models import Image
from images.reconciling import ORPHANED_AFTER, STALE_AFTER, Finding, mend
from images.stores import StoreError
from servers.compute.backends import compute_for
from servers.compute.base import Compute, ComputeError, PowerState, ServerBusy
from servers.models import (
    Reconciliation,
    Server,
    ServerConflict,
    ServerEvent,
    What,
)
from servers.snapshots import disks_nobody_awaits, images_without_job
from servers.watching import servers_that_differ, servers_without_job

log = logging.getLogger("panel.servers")


@dataclass(frozen=True)
class Outcome:
    finding: Finding
    is_left: bool

    def as_dict(self) -> dict[str, str | bool]:
        return {
            "kind": self.finding.kind,
            "subject": self.finding.subject,
            "sentence": self.finding.sentence,
            "needs_consent": self.finding.needs_consent,
            "left": self.is_left,
        }


@jobs.periodic(cron="17 * * * *")
@jobs.task(
    queue=HOUSEKEEPING,
    lock="reconcile-all",
    queueing_lock="reconcile-all",
    retry=ONLY_IF_INTERRUPTED,
)
def reconcile_all(timestamp: int) -> None:
    """Mend what is safe to mend, and keep what was found for the cloud's staff."""
    for outcome in repair(older_than=ORPHANED_AFTER, with_consent=False):
        if outcome.is_left:
            log.error("left: %s", outcome.finding.sentence)


@jobs.task(queue=HOUSEKEEPING, retry=Again(StoreError, waits=[10] * 5))
def remove_file(backend: str, digest: str) -> None:
    """Delete an image's file that has no row any more. It stays where a disk rests on
    it, of a server that the database does not know: it may be an old backup.
    """
    if digest in _images_needed(backend):
        log.error("the file %s stays, since some server's disk rests on it", digest)
        return
    images.remove_file(backend, digest)


def find(*, older_than: timedelta, deep: bool = False) -> list[Finding]:
    """All that differs, and changes nothing. Files that are younger are left out."""
    now = timezone.now()
    before, stale = now - older_than, now - min(older_than, STALE_AFTER)
    return list(_all_findings(before=before, stale=stale, deep=deep))


def repair(
    *, older_than: timedelta, with_consent: bool, deep: bool = False
) -> list[Outcome]:
    """Mend what was found, look again, and keep what became of it for the admin."""
    started_at = timezone.now()
    found = find(older_than=older_than, deep=deep)
    failed = {
        finding
        for finding in found
        if (finding.needs_consent and not with_consent) or not mend(finding)
    }
    # What is mended may show something else that was hidden by it.
    after = set(find(older_than=older_than)) if found else set()
    left = after | failed
    every = [*found, *sorted(after - set(found), key=lambda finding: finding.kind)]
    outcomes = [Outcome(finding, finding in left) for finding in every]
    Reconciliation.objects.create(
        started_at=started_at,
        found=len(outcomes),
        left=len(left),
        findings=[outcome.as_dict() for outcome in outcomes],
    )
    Reconciliation.forget_old()
    return outcomes


def _all_findings(
    *, before: datetime, stale: datetime, deep: bool
) -> Iterator[Finding]:
    yield from images.all_findings(
        needed=_images_needed, before=before, stale=stale, deep=deep
    )
    yield from images_without_job(stale=stale)
    yield from disks_nobody_awaits(before=before)
    yield from servers_that_differ()
    yield from servers_without_job(stale=stale)
    for backend in Region.objects.values_list("backend", flat=True).distinct():
        try:
            compute = compute_for(backend)
            yield from servers_nobody_knows(compute)
            yield from processes_out_of_reach(compute)
        except ComputeError as error:
            yield Finding(
                kind="region unavailable", subject=backend, sentence=str(error)
            )
    yield from jobs_about_nothing(before=before)


def _images_needed(backend: str) -> set[str]:
    """Digests; raises StoreError where the disks cannot be looked at."""
    try:
        return compute_for(backend).images_needed()
    except ComputeError as error:
        raise StoreError(str(error)) from error


def servers_nobody_knows(compute: Compute) -> Iterator[Finding]:
    """Folders and processes of servers that have no row. A server's row is committed
    before anything of it is made, and goes after all of it.
    """
    found = compute.server_ids()
    known = set(Server.objects.filter(pk__in=found).values_list("pk", flat=True))
    for server_id in sorted(found - known):
        of_it = ServerEvent.objects.filter(server_id=server_id)
        was_deleted = of_it.filter(what=What.DELETED).exists()
        if was_deleted:
            sentence = "Something of a server that was deleted is still there."
        else:
            sentence = (
                "A server that the database knows nothing of. Is that an old backup? "
                "Its disk is deleted only by a repair that a person starts."
            )
        yield Finding(
            kind="server without a row",
            subject=str(server_id),
            sentence=sentence,
            mend=partial(compute.destroy, server_id),
            needs_consent=not was_deleted,
        )


def processes_out_of_reach(compute: Compute) -> Iterator[Finding]:
    """Servers in error that the region does not know, though something of them runs."""
    broken = Server.objects.settled().filter(status=Server.Status.ERROR)
    for server in broken.filter(pk__in=compute.server_ids()):
        try:
            found = compute.observe(server.pk)
        except ServerBusy:  # with a deed, or a look at it: it can be managed
            continue
        if found.power_state is PowerState.NOSTATE and not found.reason:
            yield Finding(
                kind="process out of reach",
                subject=str(server.pk),
                sentence=(
                    f"{server} runs on without its folder, so nobody can manage it, "
                    "and its disk goes with it. Copy what matters; a repair ends it."
                ),
                mend=partial(_end_out_of_reach, compute, server.pk),
                needs_consent=True,
            )


@transaction.atomic
def _end_out_of_reach(compute: Compute, server_id: UUID) -> None:
    # Locked, so that nothing is begun with it in the meantime.
    broken = Server.objects.settled().filter(status=Server.Status.ERROR)
    server = broken.select_for_update(no_key=True).filter(pk=server_id).first()
    found = compute.observe(server_id)
    if server is None or found.reason or found.power_state is not PowerState.NOSTATE:
        raise ServerConflict("It has been mended or deleted in the meantime.")
    compute.destroy(server_id)


def jobs_about_nothing(*, before: datetime) -> Iterator[Finding]:
    """Jobs that wait although what they are about is gone: they would do nothing."""
    waiting = ProcrastinateJob.objects.filter(
        Q(args__has_key="server_id") | Q(args__has_key="image_id"),
        status="todo",
        procrastinateevent__type="deferred",
        procrastinateevent__at__lt=before,
    )
    for job in waiting.distinct():
        model, key = (
            (Server, job.args["server_id"])
            if "server_id" in job.args
            else (Image, job.args["image_id"])
        )
        if not model._default_manager.filter(pk=UUID(key)).exists():
            yield Finding(
                kind="job about nothing",
                subject=str(job.pk),
                sentence=f"{job.task_name} waits, and {key} is gone.",
                mend=partial(jobs.job_manager.cancel_job_by_id, job.pk),
            )

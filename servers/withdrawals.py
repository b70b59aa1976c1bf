"""Servers of images that their accounts have lost: sharing was stopped, or the image
was removed or deleted.

Such a server runs on, and the store keeps the image's file for its disk. `look` tells
its account what happened; `detach` copies into the disk what is missing, one server
after the other, until no server needs the file and the store deletes it. Both can be
cut short at any line, for the rows and the disks tell how far they came. A server with
which something else is being done comes later.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from procrastinate.contrib.django import app as jobs
from procrastinate.exceptions import AlreadyEnqueued

from controlpanel.jobs import HOUSEKEEPING, LONG, ONLY_IF_INTERRUPTED
from images.stores import StoreError
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError, ServerBusy
from servers.models import Server
from servers.settling import spec_of
from sharing.models import ShareEvent

log = logging.getLogger("panel.servers")

# In seconds: how often it is looked whether a disk is done, and after which time
# another server's turn comes, though a running one goes on copying.
_LOOK_EVERY = 1.0
_LONGEST = 1800.0


@jobs.periodic(cron="* * * * *")
@jobs.task(queue=HOUSEKEEPING, queueing_lock="withdrawals", retry=ONLY_IF_INTERRUPTED)
def look(timestamp: int) -> None:
    """Write on servers that their account has lost the image, or has it back."""
    withdrawn = Server.objects.withdrawn()
    unaware = withdrawn.filter(withdrawn_at=None, launched_at__isnull=False)
    for server in unaware.select_related("account", "image_owner"):
        server.withdraw(*_what_happened(server))
    aware = Server.objects.filter(withdrawn_at__isnull=False, blob__isnull=False)
    for server in aware.exclude(pk__in=withdrawn.values("pk")):
        server.give_back()
    if withdrawn.to_detach().exists():
        _defer_detach()


@jobs.task(queue=LONG, lock="detach", queueing_lock="detach", retry=ONLY_IF_INTERRUPTED)
def detach() -> None:
    """Detach all disks that have to be, one at a time for the host's disks' sake."""
    tried: set[UUID] = set()
    while (
        server := Server.objects.with_parts().to_detach().exclude(pk__in=tried).first()
    ):
        tried.add(server.pk)
        Server.objects.filter(pk=server.pk).update(detach_tried_at=timezone.now())
        _detach(server)


def _detach(server: Server) -> None:
    """Until it is done, has failed, or somebody wants something else of the server."""
    until = time.monotonic() + _LONGEST
    now: Server | None = server
    while now and time.monotonic() < until:
        try:
            if _is_done(now) and now.let_go_of_image():
                return
        except ServerBusy:
            pass
        except (ComputeError, StoreError) as error:
            _note_problem(now, str(error))
            return
        time.sleep(_LOOK_EVERY)
        now = Server.objects.with_parts().to_detach().filter(pk=server.pk).first()


def _is_done(server: Server) -> bool:
    if server.launched_at is None:  # it could not be built, so it has no disk
        return True
    return compute_for(server.region.backend).detach(spec_of(server))


def _note_problem(server: Server, problem: str) -> None:
    """It is tried again every minute, and told when the problem is another one."""
    told = Server.objects.filter(pk=server.pk, detach_problem=problem[:500])
    if not told.exists():
        log.warning("server %s is not detached: %s", server.pk, problem)
        Server.objects.filter(pk=server.pk).update(
            detach_problem=problem[:500], changed_at=timezone.now()
        )


def _what_happened(server: Server) -> tuple[str, datetime]:
    """How the account lost the image, as a sentence, and when."""
    image, owner = server.image_name, server.image_owner
    if owner is None:
        return f"The cloud has withdrawn the base image {image}.", timezone.now()
    if owner == server.account:
        return f"{image} was deleted.", timezone.now()
    events = ShareEvent.objects.received_by(server.account)
    event = events.filter(image_id=server.image_uuid).first()
    producer = f"{owner.name} ({owner.pk})"
    if event is None or event.to_status == "accepted":
        return f"{producer} no longer shares {image}.", timezone.now()
    if event.to_status:
        return f"This account removed {image} from its images.", event.created_at
    did = "deleted" if event.is_with_image else "stopped sharing"
    return f"{producer} {did} {image}.", event.created_at


def _defer_detach() -> None:
    try:
        with transaction.atomic():
            detach.defer()
    except AlreadyEnqueued:
        pass

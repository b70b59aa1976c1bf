"""The clock of the scheduled images: what the worker does with them every minute."""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime, timedelta

from django.utils import timezone
from procrastinate.contrib.django import app as jobs

from controlpanel.jobs import HOUSEKEEPING, ONLY_IF_INTERRUPTED
from images.stores import StoreError
from servers.compute.base import ComputeError
from servers.models import ImageSchedule, ServerConflict
from servers.snapshots import check_room

log = logging.getLogger("panel.servers")

# How long a store that takes no image is asked again for the same one.
PATIENCE = timedelta(hours=1)


@jobs.periodic(cron="* * * * *")
@jobs.task(queue=HOUSEKEEPING, queueing_lock="schedules", retry=ONLY_IF_INTERRUPTED)
def make_images(timestamp: int) -> None:
    """Make the images that are due by now; what was missed is made once."""
    make_due(timezone.now())


def make_due(now: datetime) -> None:
    schedules = ImageSchedule.objects.select_related("server__region")
    for schedule in [*schedules.astray(now), *schedules.due(now)]:
        # Busy, or about to be deleted: it comes up again in a minute, or never.
        with contextlib.suppress(ServerConflict):
            _go_on(schedule, now)


def _go_on(schedule: ImageSchedule, now: datetime) -> None:
    if schedule.next_at > now:
        schedule.put_right(now=now)
        return
    try:
        check_room(schedule.server.region)
    except (StoreError, ComputeError) as full:
        log.warning("schedule %s: %s", schedule.pk, full)
        if now - schedule.next_at >= PATIENCE:
            schedule.skip(str(full), now=now)
    else:
        schedule.forget_failed()
        schedule.run(now=now)

"""From a server's disk to an image: what comes before the store, and after it.

1. The job `servers.tasks.snapshot` has the region write the disk into one file, which
   lies in `handover` once it is whole. The server is free again from then on.
2. The job `save` takes the file into the store, as if it had been uploaded, and the
   image becomes active. It needs the server no more.

Each can be cut short at any line: the rows and the file tell how far it came.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from procrastinate import JobContext
from procrastinate.contrib.django import app as jobs

from accounts.models import Quota, QuotaReached, Region
from controlpanel.jobs import (
    HOUSEKEEPING,
    IMAGES,
    ONLY_IF_INTERRUPTED,
    defer_for,
    has_job,
)
from images.models import Image, ImageConflict, ImageQuerySet
from images.reconciling import (
    ORPHANED_AFTER,
    STALE_AFTER,
    Finding,
    discard_everywhere,
    mend,
)
from images.stores import (
    ImageStore,
    StoreFull,
    Unavailable,
    store_for,
)
from images.tasks import MOST_ATTEMPTS, TAKE_IN_AGAIN, settle
from servers.compute import handover
from servers.compute.backends import compute_for
from servers.compute.base import Compute, Progress, ServerSpec, SnapshotFailed
from servers.models import ImageSchedule, Server, ServerEvent, ServerQuerySet, What

log = logging.getLogger("panel.servers")

# Per cent of the whole that are done when the disk is written, and how often (in
# seconds) a row is written to say so.
_WRITTEN = 70
_TELL_EVERY = 1.0
_SERVER_GONE = "The server was deleted before its disk had been read."
_IMAGE_GONE = "The image was deleted while it was being made."
_LOST = "The work on it was interrupted. Create the image again."


def check_room(region: Region) -> None:
    """Raise StoreError if no image can be taken in there at present."""
    store = store_for(region.backend)
    if reason := store.unavailable_reason():
        raise Unavailable(reason)
    if not (store.free_bytes() and compute_for(region.backend).capacity().free_bytes):
        raise StoreFull("There is no room left for images at the moment.")


def write(compute: Compute, spec: ServerSpec, image: Image) -> None:
    """Have the region write the disk; raises ComputeError. Once it is written, no
    other moment of the disk takes its place.
    """
    if not handover.is_there(image.pk):
        target = handover.path_of(image.pk)
        compute.snapshot(spec, target, _telling(image))


@transaction.atomic
def hand_over(server: Server, image: Image) -> None:
    """The disk is written: free the server, and have the file saved."""
    server.settle(None, task="")  # unless it is being deleted
    defer_save(image)


@transaction.atomic
def give_up(server: Server, image: Image | None, reason: str) -> None:
    """No image comes of it, and the server goes on. Nothing is changed when another
    run of this job has handed the disk over, or the server is about to be deleted.
    """
    if image:  # locked before the server, as everywhere
        Image.objects.select_for_update(no_key=True).filter(pk=image.pk).first()
    if server.settle(None, task="") and image:
        log.warning("server %s, image %s: %s", server.pk, image.pk, reason)
        _fail(image, reason)


def end_for(server: Server) -> None:
    """The server is about to go. What of its disk is written becomes an image."""
    for image in server.images_being_made():
        if handover.is_there(image.pk):
            defer_save(image)
        else:
            _fail(image, _SERVER_GONE)


def defer_save(image: Image) -> None:
    """Have the file saved, once, however often this is asked for."""
    if image.owner_id:  # as each has that is made of a server
        task, image_id = "servers.snapshots.save", str(image.pk)
        defer_for(image.owner_id, task, IMAGES, image_id=image_id)


@jobs.task(queue=IMAGES, retry=TAKE_IN_AGAIN, pass_context=True)
def save(context: JobContext, image_id: str) -> None:
    """Take a server's disk into the store, and make the image active."""
    images = Image.objects.select_related("region", "owner")
    image = images.filter(pk=image_id).first()
    if image is None:
        discard_everywhere(UUID(image_id))
        handover.discard(UUID(image_id))
        return
    store = store_for(image.region.backend)
    if image.is_changing:
        _save(image, store, context.job.attempts + 1 >= MOST_ATTEMPTS)
    _tell(image)
    ImageSchedule.objects.keep_newest(image)
    store.discard(image.pk)
    # It goes last: while it is there, all this can be done again.
    handover.discard(image.pk)


def _save(image: Image, store: ImageStore, is_last_try: bool) -> None:
    try:
        _make_room(image)
    except (QuotaReached, SnapshotFailed) as reason:
        _fail(image, str(reason))
        return
    take_in = partial(store.take_over, handover.path_of(image.pk), upload_id=image.pk)
    settle(image, store, take_in, is_last_try=is_last_try, first_progress=_WRITTEN)


@transaction.atomic
def _make_room(image: Image) -> None:
    """Hold the quota for the file's true size, which is known only now."""
    try:
        size = handover.path_of(image.pk).stat().st_size
    except FileNotFoundError:
        raise SnapshotFailed(_LOST) from None
    if image.owner:
        # The image itself is counted already.
        image.owner.make_room({Quota.IMAGE_BYTES: size - image.size})
    saving = Image.objects.filter(pk=image.pk, status=Image.Status.SAVING)
    saving.update(size=size, updated_at=timezone.now())


@jobs.periodic(cron="*/5 * * * *")
@jobs.task(
    queue=HOUSEKEEPING, queueing_lock="snapshots-resume", retry=ONLY_IF_INTERRUPTED
)
def resume(timestamp: int) -> None:
    """Take up images that no job has moved on for a while, and files nobody awaits."""
    now = timezone.now()
    for finding in images_without_job(stale=now - STALE_AFTER):
        mend(finding)
    for finding in disks_nobody_awaits(before=now - ORPHANED_AFTER):
        mend(finding)


def images_without_job(*, stale: datetime) -> Iterator[Finding]:
    """Images of servers that no job has moved on for a while."""
    for image in _saving().filter(updated_at__lt=stale):
        is_written = handover.is_there(image.pk)
        if is_written and has_job(image_id=image.pk):
            continue
        # Else the server's own job comes again, as all of its jobs do.
        if is_written or not _imaged(image).exists():
            yield Finding(
                kind="image without a job",
                subject=str(image.pk),
                sentence=f"{image} is being made, but no job does it.",
                mend=partial(defer_save, image)
                if is_written
                else partial(_fail, image, _LOST),
            )


def disks_nobody_awaits(*, before: datetime) -> Iterator[Finding]:
    for image_id, changed_at in handover.waiting():
        if changed_at < before and not _saving().filter(pk=image_id).exists():
            yield Finding(
                kind="disk nobody awaits",
                subject=str(image_id),
                sentence="A server's disk, written for an image that is not made.",
                mend=partial(handover.discard, image_id),
            )


def _saving() -> ImageQuerySet:
    return Image.objects.filter(origin=Image.Origin.SERVER, status=Image.Status.SAVING)


def _imaged(image: Image) -> ServerQuerySet:
    """The server, while its disk is being written."""
    servers = Server.objects.filter(task=Server.Task.IMAGING)
    return servers.filter(pk=image.source_server_id or UUID(int=0))


def _telling(image: Image) -> Progress:
    """Show how far it is, and end it when nobody waits for it any more."""
    told_at = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at < _TELL_EVERY:
            return
        told_at = time.monotonic()
        if not image.show_progress(_WRITTEN * done // max(total, 1)):
            raise SnapshotFailed(_IMAGE_GONE)
        # The server's own page follows it, too.
        if not _imaged(image).update(changed_at=timezone.now()):
            raise SnapshotFailed(_SERVER_GONE)

    return progress


@transaction.atomic
def _fail(image: Image, reason: str) -> None:
    with contextlib.suppress(ImageConflict):  # deleted, or done after all
        image.fail(reason)
        _tell(image)


def _tell(image: Image) -> None:
    """Write what became of the image on its server, once, if the server is there."""
    if image.source_server_id is None or image.is_changing:
        return
    server = Server.objects.filter(pk=image.source_server_id).first()
    if server is None:
        return
    failed = image.status == Image.Status.ERROR
    what = What.IMAGE_FAILED if failed else What.IMAGE_CREATED
    note = f"{image}: {image.status_reason}" if failed else image.name
    told = ServerEvent.objects.filter(image_id=image.pk, what=what)
    if not told.exists():
        server.record(what, note=note, image=image)
        Server.objects.filter(pk=server.pk).update(changed_at=timezone.now())

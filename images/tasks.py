"""What the worker does with images.

A job may be cut short at any point and run again: the rows tell how far it came, and
every step of the store may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from uuid import UUID

from django.utils import timezone
from procrastinate import JobContext
from procrastinate.contrib.django import app as jobs

from accounts.models import QuotaReached
from controlpanel.jobs import HOUSEKEEPING, IMAGES, LONG, ONLY_IF_INTERRUPTED, Again
from images.models import GREW, Blob, Image, ImageConflict
from images.reconciling import (
    STALE_AFTER,
    discard_everywhere,
    images_cut_off,
    images_with_damaged_file,
    images_with_file_again,
    images_without_job,
    mend,
    stores,
)
from images.stores import (
    BlobGone,
    ImageStore,
    Refused,
    Stored,
    StoreError,
    store_for,
)

log = logging.getLogger("panel.images")

# Five minutes. A try counts also when the worker or the database went away in the
# midst of it, so there are many: those alone must not use them up.
TAKE_IN_AGAIN = Again(StoreError, waits=[2, 4, 8, 16, 32, 60, 60, 60, 60])
MOST_ATTEMPTS = len(TAKE_IN_AGAIN.waits) + 1


@jobs.task(queue=IMAGES, retry=TAKE_IN_AGAIN, pass_context=True)
def admit(context: JobContext, image_id: str) -> None:
    """Check an uploaded file and make the image active, or say what is wrong."""
    image = Image.objects.select_related("region").filter(pk=image_id).first()
    if image is None:
        discard_everywhere(UUID(image_id))
        return
    if image.is_awaiting_data or image.is_being_sent:
        return  # what has been staged stays, and what comes is its sender's
    store = store_for(image.region.backend)
    if image.is_changing:
        is_last = context.job.attempts + 1 >= MOST_ATTEMPTS
        # What was seen to be of no use to a server was taken all the same.
        any_data = bool(image.unbootable_reason)
        take = partial(store.admit, image.pk, any_data=any_data)
        settle(image, store, take, is_last_try=is_last)
    store.discard(image.pk)


def settle(
    image: Image,
    store: ImageStore,
    admit: Callable[..., Stored],
    *,
    is_last_try: bool,
    first_progress: int = 0,
) -> None:
    """Make the image active, or say what is wrong; raises what may go well later.

    `admit` is the verb of the store that takes in the file, under the image's ID.
    """
    try:
        _admit(image, store, admit, first_progress)
    except (Refused, BlobGone) as problem:
        _fail(image, problem)
    except StoreError as problem:
        if not is_last_try:
            raise
        _fail(image, problem)


def _admit(
    image: Image, store: ImageStore, admit: Callable[..., Stored], first_progress: int
) -> None:
    stored = admit(progress=_in_steps(image.show_progress, first_progress))
    try:
        image.activate(image.region.backend, stored)
    except (ImageConflict, QuotaReached) as problem:
        # Deleted meanwhile, or too large. The upload protects the file until it is
        # discarded.
        store.discard(image.pk)
        Blob.objects.remove_file_later(image.region.backend, stored.digest)
        if isinstance(problem, QuotaReached):
            raise Refused(f"{GREW} {problem}") from None


def _in_steps(show: Callable[[int], object], first: int) -> Callable[[int], None]:
    """Pass on every tenth per cent only, since each is a write."""
    shown = first

    def progress(per_cent: int) -> None:
        nonlocal shown
        per_cent = first + (100 - first) * per_cent // 100
        if per_cent >= shown + 10:
            shown = per_cent
            show(per_cent)

    return progress


def _fail(image: Image, problem: StoreError) -> None:
    log.warning("image %s: %s %s", image.pk, problem, problem.detail)
    try:
        image.fail(str(problem))
    except ImageConflict:
        log.info("image %s was deleted while it was being checked", image.pk)


@jobs.periodic(cron="*/5 * * * *")
@jobs.task(queue=HOUSEKEEPING, queueing_lock="images-resume", retry=ONLY_IF_INTERRUPTED)
def resume_stale(timestamp: int) -> None:
    """Take up uploads that no process and no job has moved on for a while."""
    stale = timezone.now() - STALE_AFTER
    for finding in (*images_without_job(stale=stale), *images_cut_off(stale=stale)):
        mend(finding)


@jobs.periodic(cron="40 3 * * *")
@jobs.task(
    queue=LONG,
    lock="images-verify",
    queueing_lock="images-verify",
    retry=ONLY_IF_INTERRUPTED,
)
def verify(timestamp: int) -> None:
    """Read every blob again: what has changed boots no server until it is restored."""
    for backend, store in stores().items():
        for finding in images_with_damaged_file(backend, store):
            mend(finding)
        for finding in images_with_file_again(backend, store, deep=True):
            mend(finding)

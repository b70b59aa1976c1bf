"""Data that a client of the API sends to an image: received, looked at, handed over.

    PUT file:      start_saving, receive, check
    stage, import: start_staging, receive, note_staged; start_saving, check

Whatever goes wrong before the hand-over leaves the image waiting for data again, and
no file. After a kill the worker sees to that (images.reconciling). What has been staged
stays, save where it is of no use, and only its import has to be asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore

from django.conf import settings
from django.db import transaction

from accounts.models import Account, Quota
from images.models import Image, ImageConflict
from images.reconciling import defer_admit
from images.stores import (
    BlobGone,
    ImageStore,
    Inspection,
    Received,
    Refused,
    store_for,
)

# What the panel converts from, or keeps. Other formats are only kept.
DISKS = {"raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi"}
KEPT_AS_IT_IS = "Servers start from bare disk images; this was sent as {}."
# How often an image whose data is arriving says that somebody is at work on it.
BEAT = 30.0
# Of the four threads that a web process has, this many may wait for the worker at once.
_WAITING = BoundedSemaphore(2)


class Gone(Exception):
    """The image was deleted while its data came."""


def store_of(image: Image) -> ImageStore:
    return store_for(image.region.backend)


@contextmanager
def or_await_data_again(image: Image) -> Iterator[None]:
    """Undo what was begun if it is not brought to an end."""
    try:
        yield
    except BaseException:
        forget_data(image)
        raise


@contextmanager
def or_await_import_again(image: Image) -> Iterator[None]:
    """Give up what was staged only where it is of no use."""
    try:
        yield
    except (Refused, BlobGone):
        forget_data(image)
        raise
    except BaseException:
        try:
            image.await_import_again()
        except ImageConflict:
            forget_data(image)  # it was deleted meanwhile
        raise


@transaction.atomic
def forget_data(image: Image) -> None:
    # Locked, so that other data comes only when this is gone.
    locked = Image.objects.select_for_update().filter(pk=image.pk).first()
    if locked is None:
        defer_admit(image)  # this job finds no image, and forgets the data
    elif locked.created_at == image.created_at:  # else it was made anew, with data
        store_of(image).discard(image.pk)
        with suppress(ImageConflict):  # it was taken in after all
            image.await_data_again()


def receive(image: Image, pieces: Iterable[bytes], *, limit: int) -> Received:
    """Write the data into the store, under the image's ID."""
    beaten = time.monotonic()
    with store_of(image).receive(image.pk, limit=limit) as receiver:
        for piece in pieces:
            receiver.write(piece)
            if time.monotonic() - beaten > BEAT:
                beaten = time.monotonic()
                _insist_on(image)
        _insist_on(image)  # what is finished takes the place of what was sent before
        return receiver.finish()


def _insist_on(image: Image) -> None:
    """Say that somebody is at work on it; raises Gone if it was deleted."""
    if not image.beat():
        raise Gone


def check(image: Image, account: Account, *, size: int) -> None:
    """Look at the data, and have the worker read all of it.

    Raises Refused, or QuotaReached.
    """
    found = store_of(image).inspect(image.pk, any_data=True)
    unbootable = why_unbootable(image, found)
    with transaction.atomic():
        account.make_room({Quota.IMAGE_BYTES: size - image.size})
        image.note_received(size, found, unbootable)
        defer_admit(image)


def why_unbootable(image: Image, found: Inspection) -> str:
    """Why no server can start from the data; raises Refused if it is none of what the
    image is declared to be.
    """
    declared = image.disk_format
    is_bare_disk = image.container_format == "bare" and declared in DISKS
    if is_bare_disk:
        fits = declared in {"raw", found.format}
        # Raw data that is no disk is nothing but raw.
        fits = fits and (
            declared == "raw" or not found.unbootable or found.format != "raw"
        )
    else:
        fits = found.format in {"raw", declared}
    if not fits:
        raise Refused(
            f"Image disk_format {declared} does not match stream data {found.format}."
        )
    if not is_bare_disk:
        kind = f"{image.container_format}, {declared}"
        return found.unbootable or KEPT_AS_IT_IS.format(kind)
    return found.unbootable


def wait_for_check(image: Image) -> None:
    """Until the worker has checked the data, as clients expect of an upload, but not
    for longer than the settings have it, and only while threads are left for others.
    Raises Gone.
    """
    if not _WAITING.acquire(blocking=False):
        return
    try:
        _wait_for_check(image, settings.API["upload_wait_seconds"])
    finally:
        _WAITING.release()


def _wait_for_check(image: Image, seconds: float) -> None:
    end = time.monotonic() + seconds
    pause = 0.05
    try:
        image.refresh_from_db()
        while image.status == Image.Status.SAVING and time.monotonic() < end:
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            image.refresh_from_db()
    except Image.DoesNotExist:
        raise Gone from None

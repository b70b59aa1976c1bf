"""Where rows and files of images differ, and how each such difference is mended.

Files are made before their row and deleted after it, so while the panel works there is
a moment at which a file has no row yet. What is younger than `before` is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.db import transaction

from accounts.models import Region
from controlpanel.http import Conflict
from controlpanel.jobs import IMAGES, defer_for, has_job
from images.models import Blob, Image, ImageConflict
from images.stores import BlobGone, ImageStore, StoreError, store_for

log = logging.getLogger("panel.images")

# How old a file without a row is before the panel itself clears it away, and for how
# long no job has moved an image on before it is handed out again.
ORPHANED_AFTER = timedelta(days=1)
STALE_AFTER = timedelta(minutes=10)
DAMAGED = "The image's data in the store is damaged, so nothing boots from it any more."
GONE = "The image's data is missing in the store, so nothing boots from it any more."
_UNKNOWN = "No image file is deleted, since the disks cannot be looked at."
# More files without a row than that, and than with one: is it the right database?
_FEW = 10


# Tells the digests on which disks of a backend's servers rest; raises StoreError while
# that is unknown.
Needed = Callable[[str], Collection[str]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is one way in the database and another way on the disk.

    `mend` brings both together; it looks again itself, and may be called twice.
    Without one, the sentence says what a person can do. What would lose data that
    nobody has asked to delete is mended only when somebody says so.
    """

    kind: str
    subject: str
    sentence: str
    mend: Callable[[], object] | None = field(default=None, compare=False)
    needs_consent: bool = False


def all_findings(
    *,
    needed: Needed,
    before: datetime,
    stale: datetime,
    deep: bool = False,
) -> Iterator[Finding]:
    """Everything about images; `deep` reads all of their data, too."""
    for backend, store in stores().items():
        if reason := _trouble_of(store):
            yield Finding(kind="store unavailable", subject=backend, sentence=reason)
            continue
        yield from uploads_nobody_awaits(store, before=before)
        try:
            digests = needed(backend)
        except StoreError as problem:
            told = f"{_UNKNOWN} {problem}"
            yield Finding(kind="disks unknown", subject=backend, sentence=told)
        else:
            yield from files_without_row(backend, store, digests, before=before)
        yield from images_without_file(backend, store)
        yield from images_with_file_again(backend, store, deep=deep)
        if deep:
            yield from images_with_damaged_file(backend, store)
    yield from blobs_nobody_uses(needed, before=before)
    yield from images_without_job(stale=stale)
    yield from images_cut_off(stale=stale)


def mend(finding: Finding) -> bool:
    """Mend it and log it; False if it is left as it is."""
    if finding.mend is None:
        return False
    try:
        finding.mend()
    except Conflict:
        return True  # it has changed meanwhile, so there is nothing to mend
    except Exception:  # one that fails must not keep the others from being mended
        log.exception("%s %s was not mended", finding.kind, finding.subject)
        return False
    log.warning("mended: %s %s", finding.kind, finding.subject)
    return True


def uploads_nobody_awaits(store: ImageStore, *, before: datetime) -> Iterator[Finding]:
    for upload in store.uploads():
        awaited = Image.objects.awaiting_upload().filter(pk=upload.upload_id)
        if upload.changed_at < before and not awaited.exists():
            yield Finding(
                kind="upload nobody awaits",
                subject=str(upload.upload_id),
                sentence="An uploaded file that no image waits for.",
                mend=partial(_discard_unawaited, store, upload.upload_id),
            )


def files_without_row(
    backend: str, store: ImageStore, needed: Collection[str], *, before: datetime
) -> Iterator[Finding]:
    # The files first: a row is committed only when its file is there. An upload that
    # is being admitted right now has its claim on the file.
    old = [
        file.digest
        for file in store.files()
        if file.changed_at < before and not file.is_claimed
    ]
    known = set(Blob.objects.filter(backend=backend).values_list("digest", flat=True))
    unknown = [digest for digest in old if digest not in known]
    for digest in unknown:
        if digest in needed:
            yield Finding(
                kind="file without a row",
                subject=digest,
                sentence=(
                    "A file in the store that no image refers to, and on which the "
                    "disk of a server rests. Is the database an old backup?"
                ),
            )
            continue
        yield Finding(
            kind="file without a row",
            subject=digest,
            sentence="A file in the store that no image and no server refers to.",
            mend=partial(remove_file, backend, digest),
            needs_consent=len(unknown) > max(_FEW, len(known)),
        )


def blobs_nobody_uses(needed: Needed, *, before: datetime) -> Iterator[Finding]:
    for blob in Blob.objects.filter(created_at__lt=before).iterator(chunk_size=500):
        if not blob.is_used:
            yield Finding(
                kind="row nobody uses",
                subject=blob.digest,
                sentence="Neither an image nor a server refers to this file.",
                mend=partial(_release, blob, needed),
            )


def images_without_file(backend: str, store: ImageStore) -> Iterator[Finding]:
    for blob in Blob.objects.filter(backend=backend).iterator(chunk_size=500):
        if _is_there(store, blob):
            continue
        # Asked for now, for a file goes after its images.
        for image in blob.images.filter(status=Image.Status.ACTIVE):
            yield Finding(
                kind="image without its file",
                subject=str(image.pk),
                sentence=f"{image}: {GONE}",
                mend=partial(image.deactivate, GONE),
            )


def images_with_damaged_file(backend: str, store: ImageStore) -> Iterator[Finding]:
    """Reads every blob again, which takes its time."""
    for blob in Blob.objects.filter(backend=backend).order_by("pk").iterator(100):
        if _is_sound(store, blob) is not False or not _is_there(store, blob):
            continue
        for image in blob.images.filter(status=Image.Status.ACTIVE):
            yield Finding(
                kind="image with damaged data",
                subject=str(image.pk),
                sentence=f"{image}: {DAMAGED}",
                mend=partial(image.deactivate, DAMAGED),
            )


def images_with_file_again(
    backend: str, store: ImageStore, *, deep: bool
) -> Iterator[Finding]:
    """Images that were deactivated for want of a file which somebody brought back."""
    deactivated = Image.objects.filter(
        status=Image.Status.DEACTIVATED,
        status_reason__in=[GONE, DAMAGED] if deep else [GONE],
        blob__backend=backend,
    )
    for image in deactivated.select_related("blob"):
        if image.blob and _is_sound(store, image.blob):
            yield Finding(
                kind="image with its file again",
                subject=str(image.pk),
                sentence=f"{image}: its data is there again, and sound.",
                mend=image.reactivate,
            )


def _is_sound(store: ImageStore, blob: Blob) -> bool | None:
    """Reads all of it. None if that did not come to an end, which tells nothing."""
    try:
        return store.verify(blob.digest)
    except StoreError as problem:
        log.warning("blob %s was not verified: %s", blob.digest, problem)
        return None


def images_without_job(*, stale: datetime) -> Iterator[Finding]:
    """Uploads that no job has moved on for a while."""
    # A queued one waits for its owner, who sends the data.
    waiting = Image.objects.filter(
        status=Image.Status.SAVING,
        origin=Image.Origin.UPLOAD,
        updated_at__lt=stale,
    ).exclude(uploaded_format="")
    for image in waiting:
        if not has_job(image_id=image.pk):
            yield Finding(
                kind="image without a job",
                subject=str(image.pk),
                sentence=f"{image} is being checked, but no job does it.",
                mend=partial(defer_admit, image),
            )


def images_cut_off(*, stale: datetime) -> Iterator[Finding]:
    """Images whose data does not come any more: the web process that took it was
    killed (images.intake)."""
    for image in Image.objects.cut_off(since=stale):
        yield Finding(
            kind="data that was cut off",
            subject=str(image.pk),
            sentence=f"{image}: its data was cut off, and does not come any more.",
            mend=partial(_begin_anew, image.pk, stale),
        )


@transaction.atomic
def _begin_anew(image_id: UUID, stale: datetime) -> None:
    """Have the image wait for its data, or for the import, as before."""
    # Locked, so that other data comes only when this is gone.
    locked = Image.objects.cut_off(since=stale).select_for_update()
    image = locked.filter(pk=image_id).first()
    if image is None:
        raise ImageConflict("It has changed or was deleted in the meantime.")
    if image.size:  # known, so all of it has been staged
        image.await_import_again()
    else:
        discard_everywhere(image.pk)
        image.await_data_again()


@transaction.atomic
def _discard_unawaited(store: ImageStore, upload_id: UUID) -> None:
    # Locked, so that nothing new comes for it meanwhile.
    image = Image.objects.select_for_update().filter(pk=upload_id).first()
    if image and Image.objects.awaiting_upload().filter(pk=image.pk).exists():
        raise ImageConflict(f"The data of {image} is awaited in the meantime.")
    store.discard(upload_id)


def defer_admit(image: Image) -> None:
    """Have the file checked, once, however often this is asked for."""
    if image.owner_id:  # base images are checked as they are added
        task, image_id = "images.tasks.admit", str(image.pk)
        defer_for(image.owner_id, task, IMAGES, image_id=image_id)


def remove_file(backend: str, digest: str) -> None:
    """Delete a blob's file, unless there is a row for it again. Raises StoreError while
    an upload of the same data claims it.
    """
    rows = Blob.objects.filter(backend=backend, digest=digest)
    is_gone = store_for(backend).delete(digest, in_use=rows.exists)
    if not is_gone and not rows.exists():
        raise StoreError("An upload of the same data claims the file.")


def discard_everywhere(upload_id: UUID) -> None:
    for store in stores().values():
        store.discard(upload_id)


def stores() -> dict[str, ImageStore]:
    backends = Region.objects.order_by("backend").values_list("backend", flat=True)
    return {backend: store_for(backend) for backend in backends.distinct()}


def _trouble_of(store: ImageStore) -> str:
    """Why nothing can be said of the store: then nothing is mended, either."""
    try:
        return store.unavailable_reason()
    except (StoreError, OSError) as error:
        return f"The folder for images cannot be read: {error}"


def _is_there(store: ImageStore, blob: Blob) -> bool:
    """As far as it is known: what the disk cannot tell just now counts as there."""
    try:
        store.path(blob.digest)
    except BlobGone:
        return False
    except StoreError as problem:
        log.warning("blob %s was not found: %s", blob.digest, problem.detail)
    return True


def _release(blob: Blob, needed: Needed) -> None:
    blob.release()
    with suppress(StoreError):  # else its job tries for longer
        if blob.digest not in needed(blob.backend):
            remove_file(blob.backend, blob.digest)

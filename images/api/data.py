"""The data of an image: sent, staged, fetched."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.models import Quota
from accounts.models import QuotaReached as AccountFull
from accounts.permissions import Capability
from controlpanel.api.describe import OCTETS, Parameters, describe
from controlpanel.api.faults import BadRequest, Fault, Forbidden, NotFound, QuotaReached
from images.api.images import NOT_THEIRS
from images.api.rows import get_own
from images.downloads import answer_with_data
from images.intake import (
    Gone,
    check,
    forget_data,
    or_await_data_again,
    receive,
    store_of,
    wait_for_check,
)
from images.models import GREW, Image, ImageConflict
from images.stores import (
    BlobGone,
    Received,
    Refused,
    StoreError,
    StoreFull,
    TooLarge,
)

router = Router(tags=["Image data"])

CHUNK = 1 << 18
DATA = {"type": "string", "format": "binary"}
SIZE: Parameters = {
    "X-OpenStack-Image-Size": (
        "Bytes of the data; other data is refused",
        {"type": "integer", "minimum": 0},
    )
}
MET_DATA = (
    "Image {} could not be found after upload. The image may have been deleted during "
    "the upload."
)


@router.put(
    "/{region}/v2/images/{uuid:image_id}/file",
    summary="Send the data of an image",
    response={204: None},
    openapi_extra=describe(
        *(409, 410, 411, 413, 415, 503), body=DATA, body_type=OCTETS, headers=SIZE
    ),
)
@requires(Capability.EDIT_IMAGES)
def upload(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """The answer waits until the data has been checked, for a minute at most; then the
    image goes on `saving`. Data that is no disk image is kept as raw data, and no
    server can start from it. No data at all changes nothing: `openstack image create`
    sends that where it has neither a file nor a terminal.
    """
    refusal = f"Not allowed to upload image data for image {image_id}"
    image = get_own(request.account, region, image_id, refusal=refusal)
    _insist_on_octets(request)
    if image.status != Image.Status.QUEUED or image.staged:
        raise _not_from(image, "saving")
    insist_on_formats(image)
    with saying_no(image):
        size = _insist_on_room(request, image)
        with _alone(image, "saving"):
            image.start_saving()
        with or_await_data_again(image):
            received = _take(request, image, size)
            if received.size:
                check(image, request.account, size=received.size)
            else:
                forget_data(image)
        wait_for_check(image)
    if image.status == Image.Status.ERROR:
        is_too_large = image.status_reason.startswith(GREW)
        raise Fault(413 if is_too_large else 415, image.status_reason)
    return HttpResponse(status=204)


@router.put(
    "/{region}/v2/images/{uuid:image_id}/stage",
    summary="Send data that is imported afterwards",
    response={204: None},
    openapi_extra=describe(
        *(409, 410, 411, 413, 415, 503), body=DATA, body_type=OCTETS, headers=SIZE
    ),
)
@requires(Capability.EDIT_IMAGES)
def stage(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    refusal = NOT_THEIRS.format("modify_image")
    image = get_own(request.account, region, image_id, refusal=refusal)
    _insist_on_octets(request)
    if image.status != Image.Status.QUEUED or image.staged:
        raise _not_from(image, "uploading")
    with saying_no(image):
        size = _insist_on_room(request, image)
        with _alone(image, "uploading"):
            image.start_staging()
        with or_await_data_again(image):
            received = _take(request, image, size)
            if not received.size:
                raise BadRequest("There is no data in the request.")
            image.note_staged(received.size, request.account)
    return HttpResponse(status=204)


@router.get(
    "/{region}/v2/images/{uuid:image_id}/file",
    summary="Fetch the data of an own image, or a part of it (Range)",
    response={200: None, 204: None},
    openapi_extra=describe(
        416,
        503,
        headers={"Range": "A part of the data"},
        answer=DATA,
        answer_type=OCTETS,
    ),
)
@requires(Capability.EDIT_IMAGES)
def download(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    """Without data yet 204. A consumer boots from an image, and does not fetch it."""
    refusal = NOT_THEIRS.format("download_image")
    image = get_own(request.account, region, image_id, refusal=refusal)
    if image.status == Image.Status.DEACTIVATED:
        raise Forbidden(
            "The requested image has been deactivated. Image data download is "
            "forbidden."
        )
    if image.blob is None:
        return HttpResponse(status=204)
    try:
        return answer_with_data(request, image, image.blob)
    except BlobGone as gone:
        raise NotFound(str(gone)) from None
    except StoreError as problem:
        raise Fault(503, str(problem), Retry_After="60") from None


def insist_on_formats(image: Image) -> None:
    names = ("disk_format", "container_format")
    if missing := [name for name in names if not getattr(image, name)]:
        what = "Property" if len(missing) == 1 else "Properties"
        raise BadRequest(
            f"{what} {', '.join(missing)} must be set prior to saving data."
        )


@contextmanager
def saying_no(image: Image) -> Iterator[None]:
    """Tell what the store or the quota refuses as the Image API tells it."""
    try:
        yield
    except Gone:
        raise _gone(image) from None
    except ImageConflict:
        if Image.objects.filter(pk=image.pk).exists():
            raise
        raise _gone(image) from None
    except AccountFull as limit:
        raise QuotaReached(f"Image exceeds the storage quota: {limit}") from None
    except TooLarge as problem:
        raise QuotaReached(f"The incoming image is too large: {problem}") from None
    except StoreFull as problem:
        raise QuotaReached(f"Image storage media is full: {problem}") from None
    except Refused as problem:
        raise Fault(415, str(problem)) from None
    except StoreError as problem:
        raise Fault(503, str(problem), Retry_After="60") from None


@contextmanager
def _alone(image: Image, status: str) -> Iterator[None]:
    """Of two who send at once, tell the one who comes too late what has happened."""
    try:
        yield
    except ImageConflict:
        now = Image.objects.filter(pk=image.pk).first()
        raise (_not_from(now, status) if now else _gone(image)) from None


def _gone(image: Image) -> Fault:
    return Fault(410, MET_DATA.format(image.pk))


def _not_from(image: Image, status: str) -> Fault:
    now = "uploading" if image.staged else image.status
    return Fault(409, f"Image status transition from {now} to {status} is not allowed")


def _insist_on_octets(request: HttpRequest) -> None:
    if request.content_type != OCTETS:
        kind = (request.content_type or "")[:100]
        raise Fault(415, f"Invalid content type {kind}")


def _insist_on_room(request: ApiRequest, image: Image) -> int | None:
    """Refuse what can be refused before the data is read; its size, if it is told."""
    size = _size_of(request)
    store = store_of(image)
    if reason := store.unavailable_reason():
        raise Fault(503, reason, Retry_After="60")
    if size is None:
        return None
    if size > settings.IMAGES["max_upload_bytes"]:
        raise QuotaReached(f"The incoming image is too large: {size} bytes")
    if size > store.free_bytes():
        raise QuotaReached("Image storage media is full.")
    if size > _bytes_left(request):
        raise QuotaReached("Image exceeds the storage quota.")
    return size


def _bytes_left(request: ApiRequest) -> int:
    """How large the data may be as it looks now; what holds is asked afterwards."""
    (use,) = request.account.quota_uses(Quota.IMAGE_BYTES)
    return use.left


def _size_of(request: HttpRequest) -> int | None:
    """As the headers tell it, which must not contradict each other."""
    told = {
        text.strip()
        for name in ("X-OpenStack-Image-Size", "Content-Length")
        if (text := request.headers.get(name, "")) and not _is_chunked(request, name)
    }
    sizes = {int(text) if _is_number(text) else -1 for text in told}
    if len(sizes) > 1 or -1 in sizes:
        raise BadRequest("Invalid or missing image size in request headers.")
    if not sizes and not _is_chunked(request):
        return 0
    return sizes.pop() if sizes else None


def _is_number(text: str) -> bool:
    # Of more digits than any size has, Python refuses to make one.
    return text.isascii() and text.isdigit() and len(text) < 20


def _take(request: ApiRequest, image: Image, size: int | None) -> Received:
    received = receive(image, _pieces(request), limit=_bytes_left(request))
    if size is not None and received.size != size:
        raise BadRequest(
            f"The data has {received.size} bytes, and {size} were announced."
        )
    return received


def _pieces(request: HttpRequest) -> Iterator[bytes]:
    try:
        yield from _stream(request)
    except OSError as error:  # of which UnreadablePostError is one
        raise UnreadablePostError(*error.args) from error


def _stream(request: HttpRequest) -> Iterator[bytes]:
    stream: Any = request
    if _is_chunked(request):
        # Django reads as far as Content-Length has it, which there is none of.
        environ = request.environ if isinstance(request, WSGIRequest) else {}
        if not environ.get("wsgi.input_terminated"):
            raise Fault(411, "The length of the data has to be told.")
        stream = environ["wsgi.input"]
    while piece := _read(stream):
        yield piece


def _read(stream: Any) -> bytes:
    try:
        return bytes(stream.read(CHUNK))
    except OSError:
        raise
    except Exception as broken:  # for chunks that are none the server has its own
        raise OSError(str(broken)) from broken


def _is_chunked(request: HttpRequest, header: str = "Content-Length") -> bool:
    """Whether the length is not told beforehand; then only that header counts for
    nothing.
    """
    encoding = request.headers.get("Transfer-Encoding", "")
    return header == "Content-Length" and encoding.lower() == "chunked"

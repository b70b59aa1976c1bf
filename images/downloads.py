"""The bytes of an own image, whole or in part, as RFC 9110 has it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import BinaryIO, cast
from uuid import UUID

from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from accounts.access import AccountRequest, link, requires
from accounts.permissions import Capability
from images.models import Blob, Image
from images.stores import StoreError, store_for

CHUNK = 1 << 18
RANGE = re.compile(r"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})")


@require_safe
@requires(Capability.EDIT_IMAGES)
def download(request: AccountRequest, image_id: UUID) -> HttpResponse:
    images = Image.objects.owned_by(request.account).select_related("blob")
    image = get_object_or_404(images, pk=image_id)
    if not image.is_active or image.blob is None:
        return _refuse(request, f"{image} is {image.get_status_display()}, not Active.")
    try:
        return answer_with_data(request, image, image.blob)
    except StoreError as problem:
        return _refuse(request, str(problem))


def answer_with_data(request: HttpRequest, image: Image, blob: Blob) -> HttpResponse:
    """The blob's bytes, or the part of them that is asked for; raises BlobGone, or
    Unavailable.
    """
    file = store_for(blob.backend).open(blob.digest)
    part = _asked_part(request, blob)
    # For the type checker an answer that streams is of another kind.
    return cast(HttpResponse, _answer(image, blob, file, part))


def _refuse(request: AccountRequest, problem: str) -> HttpResponse:
    context = {"message": problem, "back": link(request, "images:list")}
    return render(request, "409.html", context, status=409)


def _asked_part(request: HttpRequest, blob: Blob) -> range | None:
    """The bytes asked for; None for all; an empty range for what there is not."""
    condition = request.headers.get("If-Range")
    match = RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if match is None or (condition and condition != _etag(blob)):
        return None  # several parts, another unit or another file: all of it is sent
    first, last = match["first"], match["last"]
    if first:
        end = min(int(last) + 1, blob.size) if last else blob.size
        if last and int(last) < int(first):
            return None
        return range(int(first), end)
    if last:
        return (
            range(max(0, blob.size - int(last)), blob.size) if int(last) else range(0)
        )
    return None


def _answer(
    image: Image, blob: Blob, file: BinaryIO, part: range | None
) -> HttpResponseBase:
    response: HttpResponseBase
    if part is None:
        response = FileResponse(file, content_type="application/octet-stream")
    elif part:
        file.seek(part.start)
        response = StreamingHttpResponse(
            _Pieces(file, len(part)),
            status=206,
            content_type="application/octet-stream",
        )
        response["Content-Range"] = f"bytes {part.start}-{part[-1]}/{blob.size}"
        response["Content-Length"] = str(len(part))
    else:
        file.close()
        response = HttpResponse(status=416)
        response["Content-Range"] = f"bytes */{blob.size}"
        return response
    name = f"{image.name}.{blob.disk_format}"
    response["Content-Disposition"] = content_disposition_header(
        as_attachment=True, filename=name.replace("/", "_").replace("\\", "_")
    )
    if part is None:
        response["Content-Length"] = str(blob.size)
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = _etag(blob)
    response["Repr-Digest"] = f"sha-256=:{_base64(blob.digest)}:"
    response["Cache-Control"] = "private, no-transform"
    return response


class _Pieces:
    """So many bytes of a file, which is closed with the answer."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._left = file, length

    def __iter__(self) -> Iterator[bytes]:
        while self._left and (piece := self._file.read(min(CHUNK, self._left))):
            self._left -= len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()


def _etag(blob: Blob) -> str:
    return f'"{blob.digest}"'


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()

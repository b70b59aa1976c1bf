"""A file on its way from a browser's form into a store, in pieces of constant size."""

from __future__ import annotations

from io import BytesIO
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, SkipFile
from django.http import HttpRequest

from images.stores import ImageStore, Received, Receiver, StoreError


class StoreUploadHandler(FileUploadHandler):
    """Writes the form's one file into the store, under an upload's ID.

    As a context manager it leaves nothing behind, unless `keep` is called.
    """

    chunk_size = 1 << 18

    def __init__(
        self, request: HttpRequest, store: ImageStore, upload_id: UUID, *, limit: int
    ) -> None:
        super().__init__(request)
        self.problem: StoreError | None = None
        self.received: Received | None = None
        self._store, self._upload_id, self._limit = store, upload_id, limit
        self._receiver: Receiver | None = None
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        if not self._kept:
            self._store.discard(self._upload_id)

    def keep(self) -> None:
        """The file is somebody's now: a row knows its ID."""
        self._kept = True

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        if self.field_name != "file" or self._receiver or self.received or self.problem:
            raise SkipFile
        try:
            receiver = self._store.receive(self._upload_id, limit=self._limit)
            self._receiver = receiver.__enter__()
        except StoreError as problem:
            self._give_up(problem)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        try:
            if self._receiver:
                self._receiver.write(raw_data)
        except StoreError as problem:
            self._give_up(problem)

    def file_complete(self, file_size: int) -> UploadedFile[bytes] | None:
        """Only now is it known that the whole file has come: a boundary follows it."""
        if self._receiver is None:
            return None
        try:
            self.received = self._receiver.finish()
        except StoreError as problem:
            self.problem = problem
            return None
        finally:
            self._leave()
        # Without a file of its own it could not be closed.
        return UploadedFile(BytesIO(), name=self.file_name, size=file_size)

    def upload_interrupted(self) -> None:
        self._leave()

    def _give_up(self, problem: StoreError) -> None:
        self.problem = problem
        self._leave()
        # The rest of it is read and forgotten, so that the browser hears why.
        raise SkipFile

    def _leave(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver:
            receiver.__exit__(None, None, None)

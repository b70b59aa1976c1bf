"""Nothing that an image waits for may keep the worker for ever."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from unittest import mock
from uuid import UUID

import pytest

from images.stores import StoreError, local
from images.stores.children import Limits, run_limited
from tests.images.stores import corpus
from tests.images.stores.case import StoreCase, needs_qemu


@needs_qemu
class LimitTests(StoreCase):
    def received(self) -> tuple[UUID, str]:
        disk = corpus.raw_mbr(self.folder / "disk")
        return self.upload(disk), hashlib.sha256(disk.read_bytes()).hexdigest()

    def hold(self, path: Path) -> None:
        """As somebody does who hangs."""
        handle = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX)

    def test_an_upload_that_somebody_holds_is_not_waited_for_for_ever(self):
        upload_id, _ = self.received()
        self.hold(self.uploads / f"{upload_id}.data")
        with (
            mock.patch.object(local, "_PATIENCE", 0.1),
            pytest.raises(StoreError, match="worked on already"),
        ):
            self.store.admit(upload_id)

    def test_a_deletion_does_not_wait_for_ever(self):
        upload_id, digest = self.received()
        self.store.admit(upload_id)
        self.store.discard(upload_id)
        self.hold(self.store.path(digest).parent)
        with (
            mock.patch.object(local, "_PATIENCE", 0.1),
            pytest.raises(StoreError, match="worked on already"),
        ):
            self.store.delete(digest, in_use=lambda: False)

        assert self.store.path(digest).exists()

    def test_a_disk_that_is_far_too_slow_is_given_up(self):
        upload_id, digest = self.received()
        with (
            mock.patch.object(local, "_LEAST_SECONDS", 0),
            mock.patch.object(local, "_SLOWEST", 1 << 40),
            pytest.raises(StoreError, match="took too long"),
        ):
            self.store.admit(upload_id)
        # It is as it was: the next try may do better.
        assert self.store.admit(upload_id).digest == digest

    def test_a_child_that_closes_its_output_and_goes_on_is_ended(self):
        script = "exec >&- 2>&-; exec sleep 60"
        ended = run_limited(["sh", "-c", script], Limits(seconds=0.5))

        assert ended.timed_out

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.test import SimpleTestCase

from images.stores.checking import missing_program
from images.stores.local import LocalStore

needs_qemu = pytest.mark.skipif(bool(missing_program()), reason=missing_program())
GIB = 1 << 30


class StoreCase(SimpleTestCase):
    """A store in a folder of its own, and a folder beside it to make files in."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.store = self.store_with()
        self.uploads = self.folder / "store" / "uploads"

    def store_with(self, **settings: int) -> LocalStore:
        usual = {
            "max_upload_bytes": GIB,
            "max_virtual_bytes": 64 * GIB,
            "min_free_bytes": 0,
        }
        return LocalStore(self.folder / "store", **(usual | settings))

    def upload(self, path: Path) -> UUID:
        upload_id = uuid4()
        with self.store.receive(upload_id, limit=GIB) as receiver:
            receiver.write(path.read_bytes())
            receiver.finish()
        return upload_id

    def left_over(self) -> list[str]:
        return sorted(path.name for path in self.uploads.iterdir())

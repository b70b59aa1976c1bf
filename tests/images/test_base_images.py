"""Base images, taken in by command."""

from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import TestCase

from images.models import Blob, Image
from tests.factories import RegionFactory
from tests.images.case import StoreMixin, work
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu


@needs_qemu
class AddBaseImageTests(StoreMixin, TestCase):
    def setUp(self):
        super().setUp()
        for code in ("IAD", "LON"):
            RegionFactory.create(code=code)
        self.disk = corpus.raw_mbr(self.folder / "tiny.img")

    def add(self, path=None, region="all", **given):
        out = StringIO()
        options = {"name": "Tiny", "os": "Tiny Linux", "region": region} | given
        call_command("add_base_image", str(path or self.disk), stdout=out, **options)
        return out.getvalue()

    def test_every_region_gets_the_image_and_the_store_one_file(self):
        said = self.add(min_ram=96)

        assert "IAD" in said
        assert "LON" in said
        images = Image.objects.base()
        assert {image.region_id for image in images} == {"IAD", "LON"}
        assert {image.status for image in images} == {"active"}
        assert {image.min_ram_mb for image in images} == {96}
        assert {image.os for image in images} == {"Tiny Linux"}
        assert len(self.files()) == 1

    def test_the_same_again_changes_nothing_but_the_labels(self):
        self.add()
        before = set(Image.objects.values_list("pk", "blob"))
        self.add(os="Tiny Linux 2")
        work()

        assert set(Image.objects.values_list("pk", "blob")) == before
        assert set(Image.objects.values_list("os", flat=True)) == {"Tiny Linux 2"}
        assert len(self.files()) == 1

    def test_another_file_takes_the_place_of_the_old_one(self):
        self.add()
        before = set(Image.objects.values_list("pk", flat=True))
        other = corpus.raw_mbr(self.folder / "other.img", 16 * corpus.MIB)
        self.add(other)
        work()

        assert set(Image.objects.values_list("pk", flat=True)) == before
        assert Blob.objects.get().virtual_size == 16 * corpus.MIB
        assert len(self.files()) == 1

    def test_another_region_keeps_the_old_file(self):
        self.add()
        other = corpus.raw_mbr(self.folder / "other.img", 16 * corpus.MIB)
        self.add(other, region="LON")
        work()

        assert Blob.objects.count() == 2
        assert len(self.files()) == 2

    def test_what_cannot_be_done_is_said(self):
        bad = self.folder / "notes.txt"
        bad.write_text("Dear diary" * 100)
        for path, region, said in (
            (bad, "all", "not a disk image"),
            (self.folder / str(uuid4()), "all", "There is no file"),
            (None, "MARS", "There is no region MARS"),
        ):
            with self.subTest(said=said), pytest.raises(CommandError, match=said):
                self.add(path, region)
        assert not Image.objects.exists()
        assert self.files() == []

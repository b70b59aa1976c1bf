from __future__ import annotations

import hashlib
import time
from unittest.mock import patch

import pytest

from images.stores import Refused, Stored, StoreError, TooLarge
from images.stores.checking import Checker
from images.stores.children import Limits
from tests.images.stores import corpus
from tests.images.stores.case import GIB, StoreCase, needs_qemu

KEPT = {
    "raw": ("raw",),
    "qcow2 of version 2": ("qcow2", "compat=0.10"),
    "qcow2 of version 3": ("qcow2", "compat=1.1"),
    "qcow2 with zstd": ("qcow2", "compression_type=zstd"),
    "qcow2 with small clusters": ("qcow2", "cluster_size=4k"),
}
CONVERTED = {
    "VMDK": ("vmdk", "subformat=monolithicSparse"),
    "VMDK for streaming": ("vmdk", "subformat=streamOptimized"),
    "VDI": ("vdi",),
    "VDI, all of it there": ("vdi", "static=on"),
    "VHD": ("vpc", "force_size=on"),
    "VHD of fixed size": ("vpc", "subformat=fixed", "force_size=on"),
    "VHDX": ("vhdx",),
}

NO_USE_TO_A_SERVER = {
    corpus.text: ("raw", "not a disk image"),
    corpus.gzipped: ("raw", "compressed with gzip"),
    corpus.iso: ("raw", "installation disc"),
    corpus.bare_ext4: ("raw", "bare ext file system"),
    corpus.blank_qcow2: ("qcow2", "no boot sector"),
}


@needs_qemu
class AnyDataTests(StoreCase):
    def test_what_no_server_starts_from_is_kept_byte_for_byte_and_says_why(self):
        for make, (form, words) in NO_USE_TO_A_SERVER.items():
            with self.subTest(make.__name__):
                path = make(self.folder / "image")
                upload_id = self.upload(path)
                found = self.store.inspect(upload_id, any_data=True)
                assert (found.format, found.will_convert) == (form, False)
                assert words in found.unbootable
                stored = self.store.admit(upload_id, any_data=True)
                assert stored.disk_format == form
                sent = hashlib.sha256(path.read_bytes()).hexdigest()
                assert stored.digest == sent

    def test_what_is_damaged_or_misleads_is_refused_all_the_same(self):
        for make in (corpus.empty, corpus.backing_file, corpus.cut_off_gpt):
            with self.subTest(make.__name__):
                upload_id = self.upload(make(self.folder / "image"))
                with pytest.raises(Refused):
                    self.store.inspect(upload_id, any_data=True)


@needs_qemu
class BadImageTests(StoreCase):
    def test_a_bad_header_is_refused_while_the_form_waits(self):
        for make, words in corpus.BAD_HEADERS.items():
            with self.subTest(make.__name__):
                upload_id = self.upload(make(self.folder / "image"))
                began = time.monotonic()
                with pytest.raises(Refused) as refusal:
                    self.store.inspect(upload_id)
                assert words in str(refusal.value)
                assert time.monotonic() - began < 20

    def test_damage_behind_a_good_header_is_refused_by_the_worker(self):
        for make, words in corpus.BAD_BODIES.items():
            with self.subTest(make.__name__):
                upload_id = self.upload(make(self.folder / "image"))
                self.store.inspect(upload_id)
                with pytest.raises(Refused, match=words) as refusal:
                    self.store.admit(upload_id)
                assert str(self.folder) not in str(refusal.value)
                assert refusal.value.detail
                self.store.discard(upload_id)
        assert self.left_over() == []
        assert list(self.store.files()) == []

    def test_the_worker_looks_at_the_header_again(self):
        upload_id = self.upload(corpus.backing_file(self.folder / "image"))
        with pytest.raises(Refused, match="backing file"):
            self.store.admit(upload_id)

    def test_a_disk_larger_than_allowed_is_refused_in_every_format(self):
        small = self.store_with(max_virtual_bytes=corpus.DISK - 512)
        for form in ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"):
            with self.subTest(form):
                image = corpus.converted(self.folder / "image", form)
                with pytest.raises(TooLarge, match="at most"):
                    small.inspect(self.upload(image))

    def test_a_file_that_eats_up_its_time_is_refused(self):
        upload_id = self.upload(corpus.converted(self.folder / "image", "qcow2"))
        for limits, error in (
            (Limits(cpu_seconds=0, seconds=60), Refused),
            (Limits(seconds=0), StoreError),
        ):
            with (
                patch.object(Checker, "_limits_for", return_value=limits),
                pytest.raises(error, match=r"too (much|long)") as raised,
            ):
                self.store.admit(upload_id)
            assert type(raised.value) is error
        self.store.admit(upload_id)

    def test_an_image_is_not_written_to_by_its_check(self):
        upload_id = self.upload(corpus.corrupt_qcow2(self.folder / "image"))
        before = (self.uploads / f"{upload_id}.data").read_bytes()
        with pytest.raises(Refused):
            self.store.admit(upload_id)
        assert (self.uploads / f"{upload_id}.data").read_bytes() == before


@needs_qemu
class GoodImageTests(StoreCase):
    def test_raw_and_qcow2_are_kept_byte_for_byte(self):
        for name, (form, *options) in KEPT.items():
            with self.subTest(name):
                image = corpus.converted(self.folder / "image", form, *options)
                self._expect_kept(image, form)

    def test_a_disk_with_gpt_is_kept_byte_for_byte(self):
        self._expect_kept(corpus.raw_gpt(self.folder / "image"), "raw")

    def test_a_gpt_of_larger_sectors_is_not_taken_for_cut_off(self):
        image = corpus.raw_mbr(self.folder / "image")
        corpus.patched(image, 446, corpus.PROTECTIVE + b"\xff\xff\xff\xff")
        self._expect_kept(image, "raw")

    def test_a_boot_sector_of_fat_is_not_taken_for_partitions(self):
        image = corpus.raw_mbr(self.folder / "image")
        corpus.patched(image, 16, b"\x02")
        corpus.patched(image, 21, b"\xf8")
        corpus.patched(image, 446, b"\xff" * 64)
        self._expect_kept(image, "raw")

    def test_other_formats_become_qcow2_with_the_same_disk(self):
        disk = corpus.raw_mbr(self.folder / "disk")
        for name, (form, *options) in CONVERTED.items():
            with self.subTest(name):
                image = corpus.converted(self.folder / "image", form, *options)
                upload_id = self.upload(image)
                found = self.store.inspect(upload_id)
                assert found.will_convert
                assert found.virtual_size == corpus.DISK
                stored = self.store.admit(upload_id)
                assert stored.disk_format == "qcow2"
                assert stored.virtual_size == corpus.DISK
                blob = self.store.path(stored.digest)
                assert hashlib.sha256(blob.read_bytes()).hexdigest() == stored.digest
                corpus.qemu_img("compare", "-f", "raw", "-F", "qcow2", disk, blob)

    def test_a_sparse_disk_of_many_gigabytes_takes_no_time(self):
        image = corpus.converted(self.folder / "image", "qcow2")
        corpus.qemu_img("resize", "-f", "qcow2", image, "60G")
        stored = self.store.admit(self.upload(image))
        assert stored.virtual_size == 60 * GIB

    def test_a_raw_disk_of_odd_length_counts_whole_sectors(self):
        image = corpus.raw_mbr(self.folder / "image")
        image.write_bytes(image.read_bytes() + b"x")
        stored = self.store.admit(self.upload(image))
        assert (stored.size, stored.virtual_size) == (
            corpus.DISK + 1,
            corpus.DISK + 512,
        )

    def test_progress_rises_to_a_hundred(self):
        for form in ("raw", "qcow2", "vdi"):
            with self.subTest(form):
                image = corpus.converted(self.folder / "image", form)
                told = []
                self.store.admit(self.upload(image), progress=told.append)
                assert told == sorted(set(told))
                assert told[-1] == 100

    def _expect_kept(self, image, form):
        content = image.read_bytes()
        upload_id = self.upload(image)
        assert not self.store.inspect(upload_id).will_convert
        stored = self.store.admit(upload_id)
        digest = hashlib.sha256(content).hexdigest()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert stored == Stored(digest, len(content), corpus.DISK, form, md5)
        with self.store.open(digest) as stream:
            assert stream.read() == content

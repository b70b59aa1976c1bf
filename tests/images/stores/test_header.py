from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from unittest.mock import patch

import pytest

from images.stores import header
from tests.images.stores import corpus
from tests.images.stores.case import StoreCase, needs_qemu

FORMATS = {
    "raw": ("raw",),
    "qcow2": ("qcow2",),
    "vmdk": ("vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi",),
    "vhd": ("vpc", "force_size=on"),
    "vhdx": ("vhdx",),
}
# What the header alone cannot tell.
LATER = {
    corpus.half_a_petabyte,
    corpus.blank_qcow2,
    corpus.cut_off_vhdx,
    corpus.text_with_accents_later,
}


@needs_qemu
class HeaderTests(StoreCase):
    def test_a_good_header_tells_format_and_size(self):
        for form, (driver, *options) in FORMATS.items():
            with self.subTest(form):
                image = corpus.converted(self.folder / "image", driver, *options)
                wanted = {"format": form, "virtual_size": corpus.DISK}
                assert header.examine(image) == wanted

    def test_a_bad_header_is_told_in_a_sentence(self):
        for make, words in corpus.BAD_HEADERS.items():
            if make in LATER:
                continue
            with self.subTest(make.__name__):
                image = make(self.folder / "image")
                with pytest.raises(header.NotAccepted) as refusal:
                    header.examine(image)
                assert words in str(refusal.value)
                assert str(refusal.value).endswith(".")

    def test_every_format_cut_off_within_its_header_is_refused(self):
        for form, (driver, *options) in FORMATS.items():
            for size in (100, 511):
                with self.subTest(form, size=size):
                    image = corpus.converted(self.folder / "image", driver, *options)
                    with pytest.raises(header.NotAccepted):
                        header.examine(corpus.cut(image, size))

    def test_the_child_answers_with_json_either_way(self):
        good = corpus.raw_mbr(self.folder / "good")
        bad = corpus.empty(self.folder / "bad")
        assert _said_of(good)["format"] == "raw"
        assert _said_of(bad) == {"refused": "The file is empty.", "is_disk": True}

    def test_garbled_headers_never_name_an_unknown_format(self):
        chance = random.Random(3)  # noqa: S311
        for form, (driver, *options) in FORMATS.items():
            image = corpus.converted(self.folder / "image", driver, *options)
            whole = image.read_bytes()
            with self.subTest(form):
                for _ in range(40):
                    garbled = bytearray(whole)
                    for _ in range(chance.randrange(1, 20)):
                        garbled[chance.randrange(600)] = chance.randrange(256)
                    image.write_bytes(garbled)
                    # Outside of this test, a parser that falls over is a refusal.
                    with contextlib.suppress(Exception):
                        assert header.examine(image)["format"] in FORMATS


def _said_of(image):
    told = io.StringIO()
    with (
        patch.object(sys, "argv", ["header", image]),
        patch.object(sys, "stdout", told),
    ):
        header.main()
    return json.loads(told.getvalue())

"""What an image goes through, and which images an account sees and boots."""

import pytest

from accounts.models import Account
from images.models import Blob, Image, ImageConflict
from images.stores import Stored
from tests.cast import CastTestCase
from tests.factories import BlobFactory, ImageFactory, ImageShareFactory
from tests.images.case import waiting

STORED = Stored("ab" * 32, 10, 20, "raw", "cd" * 16)
VERBS = {
    "start_saving": lambda image: image.start_saving(),
    "activate": lambda image: image.activate("local", STORED),
    "fail": lambda image: image.fail("It is of no use."),
    "deactivate": lambda image: image.deactivate("It is damaged."),
}
# From each status by each verb; what is not named is a conflict and changes nothing.
LEADS_TO = {
    ("queued", "start_saving"): "saving",
    ("queued", "activate"): "active",
    ("queued", "fail"): "error",
    ("saving", "activate"): "active",
    ("saving", "fail"): "error",
    ("active", "deactivate"): "deactivated",
}


class StateTests(CastTestCase):
    def test_every_verb_in_every_status(self):
        for status in Image.Status:
            for name, verb in VERBS.items():
                with self.subTest(status=status, verb=name):
                    has_data = status in {"active", "deactivated"}
                    blob = BlobFactory.create() if has_data else None
                    image = ImageFactory.create(status=status, blob=blob)
                    wanted = LEADS_TO.get((status.value, name))
                    if wanted:
                        verb(image)
                    else:
                        with pytest.raises(ImageConflict):
                            verb(image)
                    image.refresh_from_db()
                    assert image.status == (wanted or status)

    def test_an_active_image_has_the_figures_of_its_blob(self):
        image = ImageFactory.create(status="saving", blob=None)
        image.activate("local", STORED)

        assert (image.size, image.virtual_size, image.progress) == (10, 20, 100)
        assert image.blob.digest == STORED.digest

    def test_a_failed_image_takes_no_room(self):
        image = ImageFactory.create(status="saving", blob=None, size=10)
        image.fail("x" * 600)

        assert (image.size, len(image.status_reason)) == (0, 500)

    def test_editing_an_image_that_is_gone_is_a_conflict(self):
        copy = Image.objects.get(pk=self.image.pk)
        self.image.delete_with_shares(by=self.alice)

        with pytest.raises(ImageConflict, match="in the meantime"):
            copy.edit(
                name="web",
                description="",
                os="",
                tags=[],
                protected=False,
                min_disk_gb=0,
                min_ram_mb=0,
            )

    def test_progress_is_shown_of_a_saving_image_alone(self):
        saving = ImageFactory.create(status="saving", blob=None)
        for image in (saving, self.image):
            image.show_progress(40)
            image.refresh_from_db()

        assert (saving.progress, self.image.progress) == (40, 0)


class BlobTests(CastTestCase):
    def test_the_last_image_takes_the_blob_with_it(self):
        other = ImageFactory.create(owner=self.beta, blob=self.image.blob)

        self.image.delete_with_shares(by=self.alice)
        assert Blob.objects.filter(pk=other.blob.pk).exists()
        assert waiting("remove_file") == []

        other.delete_with_shares(by=self.bob)
        assert not Blob.objects.filter(pk=other.blob.pk).exists()
        (job,) = waiting("remove_file")
        assert job.args == {"backend": "local", "digest": other.blob.digest}

    def test_a_protected_image_keeps_everything(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        Image.objects.filter(pk=self.image.pk).update(protected=True)

        with pytest.raises(ImageConflict, match="protected"):
            self.image.delete_with_shares(by=self.alice)

        assert self.image.shares.count() == 1


class ScopeTests(CastTestCase):
    """Base images, own ones, and one of each answer to an offer."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.base = ImageFactory.create(owner=None)
        cls.shared = {}
        for answer in ("pending", "accepted", "rejected"):
            image = ImageFactory.create(owner=cls.acme, name=answer)
            given = {} if answer == "pending" else {answer: True}
            ImageShareFactory.create(image=image, consumer=cls.beta, **given)
            cls.shared[answer] = image
        cls.own = ImageFactory.create(owner=cls.beta)

    def test_what_bob_lists_sees_and_boots(self):
        accepted = self.shared["accepted"]
        images = Image.objects
        assert set(images.usable_by(self.beta)) == {self.own, accepted}
        assert set(images.accepted_by(self.beta)) == {accepted}
        assert set(images.bootable_by(self.beta)) == {self.base, self.own, accepted}
        assert set(images.visible_to(self.beta)) == {
            self.base,
            self.own,
            *self.shared.values(),
        }

    def test_what_carol_sees(self):
        assert set(Image.objects.usable_by(self.corp)) == set()
        assert set(Image.objects.visible_to(self.corp)) == {self.base}
        assert set(Image.objects.bootable_by(self.corp)) == {self.base}

    def test_nothing_boots_from_an_inactive_image_or_a_suspended_producer(self):
        Image.objects.filter(pk=self.own.pk).update(status="deactivated")
        assert self.own not in Image.objects.bootable_by(self.beta)

        Account.objects.filter(pk=self.acme.pk).update(status="suspended")
        assert set(Image.objects.bootable_by(self.beta)) == {self.base}

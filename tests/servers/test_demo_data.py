from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import Client, TestCase
from django.urls import reverse

from accounts.models import Account, Region, User
from images.models import Image
from servers.management.commands import demo_data
from servers.models import Flavor
from sharing.models import ImageShare
from tests.factories import AccountFactory
from tests.images.case import StoreMixin
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu


def run(**options):
    out = StringIO()
    call_command("demo_data", stdout=out, **options)
    return out.getvalue()


class DemoDataTests(TestCase):
    def test_it_prints_who_can_sign_in(self):
        text = run()

        for line in text.splitlines()[1:]:
            username, *_ = line.split()
            assert User.objects.filter(username=username, is_active=True).exists()
            assert demo_data.PASSPHRASE in line
        assert "identity:user-admin" in text
        response = Client().post(
            reverse("login"),
            {"username": "alice", "password": demo_data.PASSPHRASE},
        )
        assert response.status_code == 302

    def test_a_second_run_changes_nothing(self):
        first = run()
        Account.objects.get_queryset().filter(name="Corp").update(name="Core")

        assert run() == first.replace("Corp (", "Core (")
        assert Region.objects.count() == 6
        assert Flavor.objects.count() == 4
        assert User.objects.count() == 11

    def test_a_real_panel_is_left_alone(self):
        AccountFactory.create()
        with pytest.raises(CommandError, match="not the demo's"):
            run()
        with (
            self.settings(SECURE_SSL_REDIRECT=True),
            pytest.raises(CommandError, match="everybody knows"),
        ):
            run()
        assert not User.objects.exists()

    def test_a_missing_base_image_is_told(self):
        with pytest.raises(CommandError):
            run(base_image=Path("no-such-file"))


@needs_qemu
class SharedDiskTests(StoreMixin, TestCase):
    def test_acme_shares_a_disk_that_lies_in_the_store_once_beside_the_base_image(self):
        base_image = corpus.converted(self.folder / "tiny.qcow2", "qcow2")

        run(base_image=base_image)
        run(base_image=base_image)

        beta = Account.objects.get(name="Beta Productions")
        statuses = ImageShare.objects.received_by(beta).order_by("status")
        assert list(statuses.values_list("status", flat=True)) == [
            "accepted",
            "pending",
        ]
        base = Image.objects.base()
        saved = Image.objects.exclude(pk__in=base)
        assert (base.count(), saved.count()) == (6, 4)
        assert base.values("blob").distinct().count() == 1
        (blob,) = {image.blob for image in saved}
        assert blob != base.first().blob
        shared = self.store.path(blob.digest)
        corpus.qemu_img("check", shared)
        corpus.qemu_img("compare", shared, base_image)
        assert len(self.files()) == 2

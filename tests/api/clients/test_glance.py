"""python-glanceclient: the library, and its program `glance`."""

import re
from io import BytesIO

import pytest
from glanceclient import Client
from glanceclient.exc import HTTPForbidden, HTTPNotFound

from images.models import Image
from tests.api.clients.case import LiveTestCase
from tests.factories import ImageFactory
from tests.servers.compute import guest
from tests.servers.compute.region import needs_qemu

# What the library warns of in itself is no fault of ours.
pytestmark = [pytest.mark.qemu, needs_qemu, pytest.mark.filterwarnings("default")]
TEXT = b"no disk at all\n" * 100


class GlanceTests(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.start_panel()
        self.source = guest.write_image(self.folder / "guest.raw")
        self.data = self.source.read_bytes()
        self.producer, self.consumer = self.client_of("alice"), self.client_of("bob")

    def client_of(self, who):
        cloud = self.cloud_of(who)
        session = cloud.get_session()
        self.addCleanup(session.session.close)
        return Client("2", session=session, region_name=cloud.region_name)

    def queued(self, **about):
        about = {"disk_format": "raw", "container_format": "bare"} | about
        return self.producer.images.create(**about).id

    def sent(self, data, **about):
        image = self.queued(**about)
        self.producer.images.upload(image, BytesIO(data))
        return image

    def fetched(self, image):
        return b"".join(self.producer.images.data(image))

    def test_the_library_does_with_images_what_it_does_elsewhere(self):
        image = self.sent(self.data, name="golden", team="web", tags=["golden"])
        self.change(image)
        self.share(image)
        self.deactivate_and_delete(image)
        self.stage_and_import()
        self.send_what_is_no_disk()
        self.list_page_by_page()

    def change(self, image):
        images, tags = self.producer.images, self.producer.image_tags
        assert self.fetched(image) == self.data
        images.update(image, remove_props=["team"], os_distro="debian", min_ram=64)
        tags.update(image, "second")
        tags.delete(image, "golden")
        changed = images.get(image)
        assert "team" not in changed
        assert (changed.os_distro, changed.min_ram) == ("debian", 64)
        assert changed.tags == ["second"]

    def share(self, image):
        members, theirs = self.producer.image_members, self.consumer.image_members
        number = self.beta.pk
        assert members.create(image, number).status == "pending"
        with pytest.raises(HTTPForbidden):
            members.update(image, number, "accepted")
        for status in ("accepted", "rejected", "pending", "accepted"):
            assert theirs.update(image, number, status).status == status
            filters = {"visibility": "shared", "member_status": status}
            found = self.consumer.images.list(filters=filters)
            assert [each.id for each in found] == [image]
        assert [each.member_id for each in theirs.list(image)] == [number]
        members.delete(image, number)
        assert list(members.list(image)) == []
        with pytest.raises(HTTPNotFound):
            self.consumer.images.get(image)

    def deactivate_and_delete(self, image):
        images = self.producer.images
        images.deactivate(image)
        with pytest.raises(HTTPForbidden):
            self.fetched(image)
        images.reactivate(image)
        images.update(image, protected=True)
        with pytest.raises(HTTPForbidden):
            images.delete(image)
        images.update(image, protected=False)
        images.delete(image)
        with pytest.raises(HTTPNotFound):
            images.get(image)

    def stage_and_import(self):
        images = self.producer.images
        methods = images.get_import_info()["import-methods"]["value"]
        assert methods == ["glance-direct"]
        image = self.queued()
        images.stage(image, BytesIO(self.data))
        assert images.get(image).status == "uploading"
        images.image_import(image, "glance-direct")
        self.wait_for(lambda: images.get(image).status == "active", "the import")
        assert self.fetched(image) == self.data

    def send_what_is_no_disk(self):
        image = self.sent(TEXT)
        kept = self.producer.images.get(image)
        assert kept.status == "active"
        assert "not a disk image" in kept.unbootable_reason
        assert self.fetched(image) == TEXT

    def list_page_by_page(self):
        for name in ("b", "a", "c", "d"):
            ImageFactory.create(owner=self.acme, name=name, tags=["letter"])
        images = self.producer.images
        for how, names in (
            ({"sort": "name:desc"}, "dcba"),
            ({"sort_key": ["name"], "sort_dir": ["asc"]}, "abcd"),
            ({"sort": "name:asc", "limit": 3}, "abc"),
        ):
            tagged = {"tag": ["letter"]}
            listed = images.list(page_size=2, filters=tagged, **how)
            assert "".join(each.name for each in listed) == names

    def test_the_program_sends_shows_shares_and_fetches(self):
        formats = ("--disk-format", "raw", "--container-format", "bare")
        how = ("--name", "typed", "--file", self.source, *formats)
        self.glance("image-create-via-import", *how)
        image = Image.objects.get()
        active = Image.objects.filter(status="active")
        self.wait_for(active.exists, "the import")
        assert str(image.pk) in self.glance("image-list")
        added = self.glance("member-create", image.pk, self.beta.pk)
        assert re.search(rf"{image.pk} +\| {self.beta.pk} +\| pending", added)
        saved = self.folder / "saved.raw"
        self.glance("image-download", "--file", saved, image.pk)
        assert saved.read_bytes() == self.data

    def glance(self, *command):
        return self.run_program("alice", "glance", *command)

    def environment_of(self, who):
        """This program reads no clouds.yaml."""
        auth = self.cloud_of(who).config["auth"]
        told = {f"OS_{name.upper()}": text for name, text in auth.items()}
        region = {"OS_REGION_NAME": "IAD", "OS_IDENTITY_API_VERSION": "3"}
        return super().environment_of(who) | told | region

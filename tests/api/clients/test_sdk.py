"""openstacksdk, as a program of both accounts uses it."""

from unittest import mock

import pytest
from openstack.exceptions import SDKException

from images.models import Image
from tests.api.clients.case import LiveTestCase
from tests.factories import ImageFactory, RegionFactory
from tests.servers.compute import guest
from tests.servers.compute.region import needs_qemu
from tests.servers.factories import SSHKeyFactory

# What the library warns of in itself is no fault of ours.
pytestmark = [pytest.mark.qemu, needs_qemu, pytest.mark.filterwarnings("default")]

IMAGES = 1_050


class SdkTests(LiveTestCase):
    def test_an_image_goes_from_alice_to_bob_and_boots(self):
        self.start_panel()
        images, theirs = self.connect("alice").image, self.connect("bob").image
        data = guest.write_image(self.folder / "guest.raw")
        image = images.create_image(
            "sdk golden",
            filename=str(data),
            disk_format="raw",
            container_format="bare",
            wait=True,
            validate_checksum=True,
            team="web",
        )
        assert (image.status, image.properties["team"]) == ("active", "web")
        fetched = self.folder / "fetched"
        images.download_image(image, output=str(fetched))
        assert fetched.read_bytes() == data.read_bytes()

        images.add_member(image, member_id=self.beta.pk)
        (offered,) = theirs.images(visibility="shared", member_status="pending")
        assert (offered.id, offered.owner) == (image.id, self.acme.pk)
        # The library takes the refusal for data, and finds that it is not the image's.
        with pytest.raises(SDKException, match="checksum mismatch"):
            theirs.download_image(offered, output=str(self.folder / "refused"))
        theirs.update_member(self.beta.pk, offered, status="accepted")
        assert [(each.member_id, each.status) for each in images.members(image)] == [
            (self.beta.pk, "accepted")
        ]
        assert theirs.find_image("sdk golden").id == image.id

        self.boot(image)
        images.remove_member(self.beta.pk, image)
        assert theirs.find_image("sdk golden") is None
        images.delete_image(image)
        assert Image.objects.get().owner == self.beta

    def boot(self, image):
        compute = self.connect("bob").compute
        SSHKeyFactory.create(account=self.beta, name="laptop")
        assert compute.get_limits().absolute.instances_used == 0
        server = compute.create_server(
            name="sdk-1",
            image_id=image.id,
            flavor_id=compute.find_flavor("Tiny").id,
            key_name="laptop",
            networks="auto",
        )
        server = compute.wait_for_server(server, interval=0.5)
        assert [(each.id, each.status) for each in compute.servers()] == [
            (server.id, "ACTIVE")
        ]
        greeting = guest.GREETING.decode().strip()
        console = compute.get_server_console_output
        self.wait_for(lambda: greeting in console(server)["output"], "the greeting")

        copy = compute.create_server_image(
            server, "sdk copy", metadata={"image_type": "image"}, wait=True
        )
        assert copy.status == "active"
        assert Image.objects.get(pk=copy.id).properties == {"image_type": "image"}
        compute.stop_server(server)
        server = compute.wait_for_server(server, "SHUTOFF", interval=0.5)
        compute.start_server(server)
        compute.wait_for_server(server, interval=0.5)
        compute.delete_server(server)
        compute.wait_for_delete(server, interval=0.5)

    def test_all_of_a_thousand_images_are_listed(self):
        RegionFactory.create(code="LON")
        self.start_panel(with_worker=False)
        first = ImageFactory.create(owner=self.acme, name="image 0")
        copied = {
            field.attname: getattr(first, field.attname)
            for field in Image._meta.concrete_fields
            if field.attname not in {"id", "name"}
        }
        names = [f"image {number}" for number in range(IMAGES)]
        Image.objects.bulk_create(Image(name=name, **copied) for name in names[1:])
        proxy = self.connect("alice").image
        with mock.patch.object(proxy, "get", wraps=proxy.get) as pages:
            seen = [each.name for each in proxy.images(limit=200)]
        assert len(seen) == IMAGES
        assert set(seen) == set(names)
        assert pages.call_count > 5
        assert list(self.connect("alice", region="LON").image.images()) == []

"""Terraform's and Packer's OpenStack plug-ins by protocol: the requests that they send
through gophercloud, in their order, of an apply, a build and a destroy.
"""

import hashlib

import pytest

from images.models import Image
from tests.api.clients.case import LiveTestCase
from tests.api.clients.gopher import Gopher
from tests.servers.compute import guest
from tests.servers.compute.region import needs_qemu
from tests.servers.factories import ED25519

# What openstacksdk warns of in itself, which reads the file, is no fault of ours.
pytestmark = [pytest.mark.qemu, needs_qemu, pytest.mark.filterwarnings("default")]


class GopherTests(LiveTestCase):
    def setUp(self):
        super().setUp()
        self.start_panel()
        owner = self.file_of_new_credential(self.alice, self.acme)
        self.clouds["alice"] = self.keep_file("alice", owner)
        self.acme_s = Gopher(self.cloud_of("alice").config["auth"], "IAD")
        self.beta_s = Gopher(self.cloud_of("bob").config["auth"], "IAD")
        self.data = guest.write_image(self.folder / "guest.raw").read_bytes()

    def wait_for_status(self, client, url, status):
        self.wait_for(lambda: client.status_of(url) == status, status)

    def test_terraform_applies_and_destroys(self):
        image = self.terraform_image()
        self.terraform_access(image)
        self.terraform_instance(self.terraform_found("golden"))
        self.acme_s.ask("DELETE", f"{self.acme_s.image}images/{image}")

    def terraform_image(self):
        """openstack_images_image_v2"""
        acme = self.acme_s
        wanted = {
            "name": "golden",
            "container_format": "bare",
            "disk_format": "raw",
            "min_disk": 0,
            "min_ram": 0,
            "protected": False,
            "visibility": "shared",
            "tags": ["web"],
            "team": "web",
        }
        made, _ = acme.ask("POST", f"{acme.image}images", wanted, fine={201})
        url = f"{acme.image}images/{made['id']}"
        acme.send_file(f"{url}/file", self.data)
        self.wait_for_status(acme, url, "active")
        shown = acme.get(url)
        assert shown["team"] == "web"
        # It compares the sums, unless it is told not to.
        md5 = hashlib.md5(self.data, usedforsecurity=False).hexdigest()
        assert shown["checksum"] == md5
        changed = acme.patch(
            made["id"],
            {"op": "replace", "path": "/name", "value": "golden"},
            {"op": "replace", "path": "/tags", "value": ["web", "golden"]},
            {"op": "replace", "path": "/team", "value": "core"},
            {"op": "add", "path": "/stage", "value": "test"},
        )
        assert (changed["team"], changed["stage"]) == ("core", "test")
        return made["id"]

    def terraform_access(self, image):
        """openstack_images_image_access_v2; for the other account, _access_accept_v2"""
        acme, beta = self.acme_s, self.beta_s
        members = f"{acme.image}images/{image}/members"
        added, _ = acme.ask("POST", members, {"member": self.beta.pk}, fine={200})
        assert (added["member_id"], added["status"]) == (self.beta.pk, "pending")
        assert acme.get(f"{members}/{self.beta.pk}")["image_id"] == image

        (own,) = beta.get(members)["members"]
        url = f"{members}/{own['member_id']}"
        for status in ("rejected", "accepted"):
            beta.ask("PUT", url, {"status": status}, fine={200})
            assert beta.get(url)["status"] == status

    def terraform_found(self, name):
        """The data source openstack_images_image_v2"""
        query = {"name": name, "status": "active", "sort": "name:asc", "tag": "golden"}
        shared = {"visibility": "shared", "member_status": "accepted"}
        owned = {"owner": self.acme.pk}
        (found,) = self.beta_s.all_images(**query, **shared, **owned)
        assert len(self.beta_s.all_images(limit=1, **query)) == 1
        return found["id"]

    def terraform_instance(self, image):
        """openstack_compute_keypair_v2 and openstack_compute_instance_v2"""
        beta = self.beta_s
        keypair = {"keypair": {"name": "deploy", "public_key": ED25519}}
        keypairs = f"{beta.compute}os-keypairs"
        beta.ask("POST", keypairs, keypair, fine={200, 201})
        server = self.order("terraform", image, key_name="deploy")

        shown = beta.get(server)["server"]
        assert shown["security_groups"] == [{"name": "default"}]
        flavor = beta.get(f"{beta.compute}flavors/{shown['flavor']['id']}")["flavor"]
        assert flavor["name"] == "Tiny"
        assert (
            beta.get(f"{beta.image}images/{shown['image']['id']}")["name"] == "golden"
        )
        # Tags of servers: the provider goes on where there are none.
        newer = {"OpenStack_API_Version": "compute 2.52", "fine": {404}}
        beta.ask("GET", f"{server}/tags", **newer)
        self.destroy(server)
        beta.ask("DELETE", f"{keypairs}/deploy")

    def order(self, name, image, **more):
        """As both do it, which wait for a server that they can name."""
        beta = self.beta_s
        listed = beta.get(f"{beta.compute}flavors/detail")["flavors"]
        (flavor,) = (each["id"] for each in listed if each["name"] == "Tiny")
        wanted = {
            "name": name,
            "imageRef": image,
            "flavorRef": flavor,
            "config_drive": False,
            **more,
        }
        made, _ = beta.ask("POST", f"{beta.compute}servers", {"server": wanted})
        server = f"{beta.compute}servers/{made['server']['id']}"
        assert beta.status_of(server) in {"BUILD", "ACTIVE"}
        self.wait_for_status(beta, server, "ACTIVE")
        return server

    def destroy(self, server):
        self.beta_s.ask("DELETE", server)
        self.wait_for_status(self.beta_s, server, "DELETED")

    def test_packer_builds_an_image_and_shares_it(self):
        beta = self.beta_s
        source = self.source_image()
        # The flavor may be an ID or a name; the key was made by Packer.
        flavors = f"{beta.compute}flavors"
        beta.ask("GET", f"{flavors}/Tiny", fine={404})
        keypair = {"keypair": {"name": "packer_6a3f", "public_key": ED25519}}
        keypairs = f"{beta.compute}os-keypairs"
        beta.ask("POST", keypairs, keypair, fine={200, 201})
        server = self.order("packer", source, key_name="packer_6a3f")
        address = beta.get(server)["server"]["addresses"]["ssh"][0]
        assert (address["addr"], address["version"]) == ("127.0.0.1", 4)

        beta.ask("POST", f"{server}/action", {"os-stop": None})
        self.wait_for_status(beta, server, "SHUTOFF")
        metadata = {"image_type": "image"}
        wanted = {"createImage": {"name": "built", "metadata": metadata}}
        _, headers = beta.ask("POST", f"{server}/action", wanted, fine={202})
        image = headers["Location"].rpartition("/")[2]
        url = f"{beta.image}images/{image}"
        self.wait_for_status(beta, url, "active")
        assert beta.get(url)["image_type"] == "image"
        beta.patch(image, {"op": "replace", "path": "/tags", "value": ["built"]})
        beta.patch(image, {"op": "replace", "path": "/visibility", "value": "shared"})
        member = {"member": self.acme.pk}
        beta.ask("POST", f"{url}/members", member, fine={200})
        beta.patch(image, {"op": "replace", "path": "/min_disk", "value": 1})
        self.destroy(server)
        beta.ask("DELETE", f"{keypairs}/packer_6a3f")
        assert Image.objects.get(pk=image).shares.get().consumer == self.acme

    def source_image(self):
        """One of Beta's own, found by its name."""
        beta = self.beta_s
        formats = {"container_format": "bare", "disk_format": "raw"}
        wanted = {"name": "source", **formats}
        made, _ = beta.ask("POST", f"{beta.image}images", wanted, fine={201})
        beta.send_file(f"{beta.image}images/{made['id']}/file", self.data)
        (found,) = beta.all_images(name="source")
        return found["id"]

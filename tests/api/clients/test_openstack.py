"""python-openstackclient as people use it: a process for each command, and some at the
client's own prompt, since it takes seconds to start.
"""

import json

import pytest

from servers.compute.backends import compute_for
from servers.models import Server
from sharing.models import ImageShare, ShareEvent
from tests.api.clients.case import LiveTestCase
from tests.servers.compute.region import needs_qemu
from tests.servers.factories import ED25519

pytestmark = [pytest.mark.qemu, pytest.mark.no_cover, needs_qemu]


class OpenstackTests(LiveTestCase):
    def openstack(self, who, *command):
        return self.run_program(who, "openstack", *command)

    def read(self, who, *command):
        return json.loads(self.openstack(who, *command, "-f", "json"))

    def at_the_prompt(self, who, *commands):
        """What they print; the client's exit status tells nothing about them."""
        done = self.start(who, "openstack", typed="\n".join([*commands, "quit", ""]))
        assert done.stderr == ""
        return done.stdout

    def test_an_image_goes_from_alice_to_bob_and_boots(self):
        self.start_panel()
        image = self.upload_and_fetch()
        self.share_and_answer(image)
        server = self.boot(image)
        self.make_image(server)
        self.take_back(image)

    def upload_and_fetch(self):
        made = self.read(
            *("alice", "image", "create", "web golden", "--file", self.source),
            *("--disk-format", "qcow2", "--container-format", "bare"),
            *("--property", "team=web", "--tag", "golden"),
        )
        assert (made["status"], made["visibility"]) == ("active", "shared")
        saved = self.folder / "saved.qcow2"
        seen = self.at_the_prompt(
            "alice",
            "token issue -f json",
            "image list --tag golden -f csv",
            f"image show {made['id']} -f json",
            f"image save --file {saved} {made['id']}",
        )
        assert f'"project_id": "{self.acme.pk}"' in seen
        assert f'"{made["id"]}","web golden","active"' in seen
        assert f'"size": {self.source.stat().st_size}' in seen
        assert '"team": "web"' in seen
        assert saved.read_bytes() == self.source.read_bytes()
        return made["id"]

    def share_and_answer(self, image):
        added = self.read("alice", "image", "add", "project", image, self.beta.pk)
        assert (added["member_id"], added["status"]) == (self.beta.pk, "pending")
        seen = self.at_the_prompt(
            "bob",
            f"image set --accept {image}",
            f"image set --reject {image}",
            f"image set --pending {image}",
            f"image set --accept {image}",
            f"image member list {image} -f csv",
        )
        assert f'"{image}","{self.beta.pk}","accepted"' in seen
        events = ShareEvent.objects.order_by("created_at", "id")
        assert [each.to_status for each in events] == [
            *("pending", "accepted", "rejected", "pending", "accepted")
        ]
        assert {(each.actor_name, each.via) for each in events} == {
            ("alice", "API"),
            ("bob", "API, credential deploy"),
        }

    def boot(self, image):
        key = self.folder / "key.pub"
        key.write_text(ED25519)
        create = ("server create --wait", f"--image {image}", "--flavor tiny")
        seen = self.at_the_prompt(
            "bob",
            f"keypair create --public-key {key} laptop",
            f"{' '.join(create)} --key-name laptop web-1",
            "server list -f csv",
        )
        server = Server.objects.get()
        assert f'"{server.pk}","web-1","ACTIVE"' in seen
        assert server.public_key == ED25519
        console = compute_for("local").console_log
        self.wait_for(lambda: "login:" in console(server.pk), "a prompt")
        return server.pk

    def make_image(self, server):
        create = ("server", "image", "create", "--name", "our own", "--wait", server)
        copy = self.read("bob", *create)
        seen = self.at_the_prompt(
            "bob",
            "console log show web-1",
            f"image show {copy['id']} -f json",
            f"server delete --wait {server}",
            "server list -f csv",
        )
        assert "web-1 login:" in seen
        assert f'"id": "{copy["id"]}"' in seen
        assert '"status": "active"' in seen
        assert compute_for("local").server_ids() == set()

    def take_back(self, image):
        self.openstack("alice", "image", "remove", "project", image, self.beta.pk)
        assert not ImageShare.objects.exists()

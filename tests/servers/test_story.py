"""The whole way, with nothing in anything's place: an image is uploaded, shared and
accepted, a server boots from it, and nothing is left of it in the end.
"""

import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import TransactionTestCase, override_settings
from django.urls import reverse

from accounts.permissions import Role
from images.models import Blob, Image
from servers.compute.backends import compute_for
from servers.models import Server, ServerEvent
from sharing.models import ImageShare
from tests.factories import AccountFactory, UserFactory
from tests.servers.compute.region import needs_qemu
from tests.servers.factories import ED25519, FlavorFactory
from tests.worker import work
from tools import tiny_linux

pytestmark = [pytest.mark.qemu, pytest.mark.no_cover, needs_qemu]
PATIENCE = 600  # seconds; usually it takes a fiftieth of it


def tiny_linux_image():
    try:
        return tiny_linux.base_image()
    except tiny_linux.TinyLinuxError as error:
        pytest.skip(f"Tiny Linux cannot be built here: {error}")


class StoryTestCase(TransactionTestCase):
    def setUp(self):
        self.source = tiny_linux_image()
        # Not pytest's folder: servers are run by a user who must reach none of it.
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        changed = override_settings(
            DATA_DIR=self.folder, IMAGES=settings.IMAGES | {"min_free_bytes": 0}
        )
        self.enterContext(changed)
        self.addCleanup(self.destroy_all)
        self.acme = AccountFactory.create(name="Acme")
        self.beta = AccountFactory.create(name="Beta")
        owner = Role.USER_ADMIN
        self.alice = UserFactory.create(username="alice", roles=[(self.acme, owner)])
        self.bob = UserFactory.create(username="bob", roles=[(self.beta, owner)])
        self.flavor = FlavorFactory.create(id="tiny", ram_mb=128, disk_gb=1)

    def destroy_all(self):
        compute = compute_for("local")
        for server_id in compute.server_ids():
            compute.destroy(server_id)

    def wait_for_prompts(self, server, count, host="web-1"):
        deadline = time.monotonic() + PATIENCE
        while (seen := self.console(server)).count(f"{host} login:") < count:
            assert time.monotonic() < deadline, seen
            time.sleep(0.5)

    def order(self, image, name, key=ED25519):
        return self.send(
            "servers:create",
            token=uuid.uuid4(),
            region="IAD",
            name=name,
            image=image.pk,
            flavor="tiny",
            new_key=key,
        )

    def page(self, view, /, *args, account=None, **query):
        url = reverse(view, args=[(account or self.beta).number, *args])
        return self.client.get(url, query)

    def send(self, view, /, *args, account=None, **data):
        url = reverse(view, args=[(account or self.beta).number, *args])
        return self.client.post(url, data)

    def deed(self, name, server, status, **data):
        assert self.send(f"servers:{name}", server.pk, **data).status_code == 302
        work()
        server.refresh_from_db()
        assert (server.status, server.task) == (status, ""), server.reason

    def console(self, server):
        response = self.page("servers:console", server.pk)
        assert response.status_code == 200
        return response.content.decode()

    def new_key(self):
        if not shutil.which("ssh"):
            pytest.skip("there is no SSH client here: apt-get install openssh-client")
        key = self.folder / "key"
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
        subprocess.run(command, check=True, timeout=300)
        return key.with_suffix(".pub").read_text().strip()

    def run_on(self, server, command):
        subprocess.run(
            [
                *("ssh", "-i", self.folder / "key", "-p", str(server.ssh_port)),
                *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
                *("-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
                *("-o", "ConnectTimeout=60", "-F", "none", "root@127.0.0.1", command),
            ],
            check=True,
            timeout=PATIENCE,
        )

    def upload_share_and_accept(self):
        self.client.force_login(self.alice)
        file = SimpleUploadedFile("web.qcow2", self.source.read_bytes())
        uploaded = self.send(
            "images:upload", account=self.acme, name="web golden", file=file
        )
        assert uploaded.status_code == 302
        work()
        image = Image.objects.get()
        assert image.is_active, image.status_reason
        share = ImageShare.objects.offer(image, to=self.beta.number, by=self.alice)

        self.client.force_login(self.bob)
        early = self.order(image, name="too early")
        assert list(early.context["form"].errors) == ["image"]
        self.send("sharing:accept", share.pk)
        return image, share


class StoryTests(StoryTestCase):
    def test_bob_boots_the_image_that_alice_shares(self):
        image, share = self.upload_share_and_accept()
        ordered = self.order(image, name="Web 1")
        assert ordered.status_code == 201
        assert Server.objects.get().status == "BUILD"
        work()
        server = Server.objects.get()
        assert server.status == "ACTIVE", server.reason
        assert server.ssh_port

        # It boots, and knows its name.
        self.wait_for_prompts(server, 1)
        # The worker notices the prompt, and takes a picture when the page asks for it.
        self.page("servers:detail", server.pk)
        work()
        picture = self.page("servers:screen", server.pk)
        assert picture.content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(picture.content) > 500

        # Alice takes the image back: no new server, but this one lives on.
        share.refresh_from_db()
        share.revoke(by=self.alice)
        image.delete_with_shares(by=self.alice)
        work()
        refused = self.order(image, name="web-2")
        assert list(refused.context["form"].errors) == ["image"]
        self.deed("power-off", server, "SHUTOFF")
        assert server.reason == "", "it was not shut down in order"
        self.deed("power-on", server, "ACTIVE")
        assert server.image is None
        self.deed("reboot", server, "ACTIVE", how="hard")

        process = (self.folder / "servers" / str(server.pk) / "pid").read_text()
        self.send("servers:delete", server.pk)
        work()
        assert not Server.objects.exists()
        assert compute_for("local").server_ids() == set()
        assert not Path("/proc", process.strip()).exists()
        assert not list(self.folder.rglob("*.qcow2"))
        assert ServerEvent.objects.filter(what="deleted").count() == 1

    def test_bob_gives_his_server_another_disk_and_another_size(self):
        image, _ = self.upload_share_and_accept()
        FlavorFactory.create(id="larger", ram_mb=192, disk_gb=2)
        self.order(image, name="Web 1", key=self.new_key())
        work()
        server = Server.objects.get()
        self.wait_for_prompts(server, 1)
        self.run_on(server, "touch /old && sync")

        self.deed("resize", server, "ACTIVE", flavor="larger")
        self.wait_for_prompts(server, 2)
        self.run_on(server, "[ -e /old ] && [ $(cat /sys/block/vda/size) = 4194304 ]")
        self.run_on(
            server, "[ $(awk '/MemTotal/ {print $2}' /proc/meminfo) -gt 140000 ]"
        )

        answer = self.send("servers:rebuild", server.pk, image=image.pk, is_sure="on")
        assert answer.status_code == 202
        work()
        server.refresh_from_db()
        assert (server.status, server.task) == ("ACTIVE", ""), server.reason
        self.wait_for_prompts(server, 1)
        self.run_on(server, "[ ! -e /old ]")

    def test_bob_keeps_a_copy_that_needs_alice_no_more(self):
        image, share = self.upload_share_and_accept()
        self.order(image, name="Web 1", key=self.new_key())
        work()
        server = Server.objects.get()
        self.wait_for_prompts(server, 1)
        # A terminal greets with it, so the next server will show it by itself.
        self.run_on(server, "echo 'A copy of Beta' >/etc/issue && sync")

        # The server is running, and goes on.
        created = self.send("servers:create-image", server.pk, name="our own")
        assert created.status_code == 302
        work()
        copy = Image.objects.owned_by(self.beta).get()
        assert copy.is_active, copy.status_reason
        assert copy.blob.digest != image.blob.digest
        assert (copy.min_disk_gb, copy.virtual_size) == (1, 1 << 30)
        server.refresh_from_db()
        assert (server.status, server.task) == ("ACTIVE", "")
        self.run_on(server, "true")

        # Alice takes all back, and Bob deletes the server: the copy stands alone.
        share.refresh_from_db()
        share.revoke(by=self.alice)
        image.delete_with_shares(by=self.alice)
        self.send("servers:delete", server.pk)
        work()
        assert not Blob.objects.exclude(pk=copy.blob_id).exists()
        listed = self.page("images:list").content.decode()
        assert "our own" in listed
        assert "(deleted server)" in listed

        # It boots, with what the first server had written.
        assert self.order(copy, name="Web 2").status_code == 201
        work()
        second = Server.objects.get()
        assert second.status == "ACTIVE", second.reason
        self.wait_for_prompts(second, 1, host="web-2")
        assert "A copy of Beta" in self.console(second)

        # An image of a server that is shut off is made as well.
        self.deed("power-off", second, "SHUTOFF")
        self.deed("create-image", second, "SHUTOFF")
        offline = Image.objects.get(name="Web 2")
        assert offline.is_active, offline.status_reason
        assert offline.source_server_id == second.pk
        self.send("servers:delete", second.pk)
        work()
        assert not list((self.folder / "snapshots").iterdir())
        assert not list((self.folder / "images" / "uploads").iterdir())

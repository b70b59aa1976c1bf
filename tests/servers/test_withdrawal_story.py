"""Sharing stops and the image is deleted while a server runs from it, and workers and
machines are killed on the way: with nothing in anything's place.
"""

import os
import re
import signal

import pytest

from images.models import Blob, Image
from servers.compute import process
from servers.compute.folder import ServerFolder
from servers.compute.qmp import Monitor, MonitorError, MonitorGone
from servers.models import Server, ServerEvent, What
from tests.jobs.case import WorkersMixin
from tests.servers.compute.region import needs_qemu, wait_until
from tests.servers.test_story import PATIENCE, StoryTestCase
from tests.worker import work

pytestmark = [pytest.mark.qemu, pytest.mark.no_cover, needs_qemu]

# It counts on the console and in a file until it is ended.
COUNT = """(
    i=0
    while :; do
        i=$((i + 1)); echo $i >>/count; sync; echo "count $i" >/dev/ttyS0; sleep 1
    done
) </dev/null >/dev/null 2>&1 &"""
SLOWLY = {"DETACH_MIB_PER_SECOND": "1", "MIN_FREE_MIB": "0"}
AT_ONCE = {"DETACH_MIB_PER_SECOND": "0", "MIN_FREE_MIB": "0"}


class WithdrawalStoryTests(WorkersMixin, StoryTestCase):
    def test_bob_s_server_outlives_the_image_and_whatever_is_killed(self):
        image, share = self.upload_share_and_accept()
        self.order(image, name="Web 1", key=self.new_key())
        work()
        server = Server.objects.get()
        self.wait_for_prompts(server, 1)
        self.run_on(server, COUNT)
        self.wait(lambda: self.count(server) >= 2, "the server counts")

        # Alice takes all back. The server's disk keeps the file.
        share.refresh_from_db()
        share.revoke(by=self.alice)
        image.delete_with_shares(by=self.alice)
        worker = self.start_worker(**SLOWLY)
        self.wait(lambda: self.is_copying(server), "its disk is being copied")
        page = self.page("servers:detail", server.pk)
        assert "is being made independent" in page.content.decode()
        assert self.files_of(image)
        seen = self.count(server)

        # The worker is killed: the server copies on, and is at work all the while.
        self.end(worker)
        self.wait(lambda: self.count(server) >= seen + 2, "the server counts on")
        self.wait(lambda: self.is_copying(server), "its disk is being copied on")

        # The machine is killed, too: its disk is what it was.
        folder = ServerFolder(self.folder / "servers", server.pk)
        os.kill(process.find(folder.pid, server.pk).pid, signal.SIGKILL)
        worker = self.start_worker(**SLOWLY)
        self.wait(lambda: self.state(server) == ("ERROR", ""), "the crash is seen")
        seen = self.prompts(server)
        self.send("servers:power-on", server.pk)
        self.wait(lambda: self.state(server) == ("ACTIVE", ""), "the server is back")
        self.wait_for_prompts(server, seen + 1)
        server.refresh_from_db()
        self.run_on(server, "[ $(wc -l </count) -ge 2 ]")
        self.end(worker)

        # In the end nothing needs the file.
        worker = self.start_worker(**AT_ONCE)
        self.wait(lambda: not self.files_of(image), "the file goes")
        self.end(worker)
        assert not Blob.objects.exists()
        server.refresh_from_db()
        assert server.is_detached
        events = ServerEvent.objects.filter(server_id=server.pk)
        for what in (What.WITHDRAWN, What.DETACHED):
            assert events.filter(what=what).count() == 1

        seen = self.prompts(server)
        self.deed("power-off", server, "SHUTOFF")
        self.deed("create-image", server, "SHUTOFF")
        copy = Image.objects.get()
        assert copy.is_active, copy.status_reason
        assert (copy.owner, copy.virtual_size) == (self.beta, 1 << 30)
        self.deed("power-on", server, "ACTIVE")
        self.wait_for_prompts(server, seen + 1)
        self.run_on(server, "[ -s /count ]")

    def wait(self, is_so, what):
        wait_until(is_so, what, seconds=PATIENCE)

    def end(self, worker):
        worker.kill()
        worker.wait()

    def state(self, server):
        server.refresh_from_db()
        return server.status, server.task

    def count(self, server):
        counted = re.findall(r"count (\d+)", self.console(server))
        return int(counted[-1]) if counted else 0

    def prompts(self, server):
        return self.console(server).count("web-1 login:")

    def is_copying(self, server):
        folder = ServerFolder(self.folder / "servers", server.pk)
        try:
            with Monitor(folder.path) as monitor:
                found = monitor.execute("query-jobs")
        except (MonitorError, MonitorGone):  # somebody else asks it right now
            return False
        states = [(job["id"], job["status"]) for job in found]
        # Ready to be concluded, once all is copied: only a worker does that.
        return states in ([("detach", "running")], [("detach", "pending")])

    def files_of(self, image):
        return list((self.folder / "images").rglob(f"*{image.blob.digest}*"))

"""Released clients in front of a live panel: gunicorn, a worker, QEMU.

Each signs in with the file that the page Account > API Access offers.
"""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import openstack
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.test import override_settings
from openstack.config import OpenStackConfig

from tests.factories import PASSWORD
from tests.servers.test_story import PATIENCE, StoryTestCase
from tests.worker import running_web_server, running_worker

CLOUD = "skyhook"
PROGRAMS = Path(sys.prefix, "bin")
ARGON2 = f"{Argon2PasswordHasher.__module__}.{Argon2PasswordHasher.__name__}"


class LiveTestCase(StoryTestCase):
    """Alice of Acme signs in by password, Bob of Beta by application credential."""

    def start_panel(self, *, with_worker=True):
        if with_worker:
            self.enterContext(running_worker(self.folder / "worker.log"))
        web_log = self.folder / "web.log"
        self.address = self.enterContext(running_web_server(web_log))
        # The panel's own process knows no other than its own settings.
        with override_settings(PASSWORD_HASHERS=[ARGON2]):
            self.alice.set_password(PASSWORD)
            self.alice.save()
        self.clouds = {
            "alice": self.keep_file("alice", self.file_for_password()),
            "bob": self.keep_file(
                "bob", self.file_of_new_credential(self.bob, self.beta)
            ),
        }

    def keep_file(self, name, text):
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return path

    def file_for_password(self):
        self.client.force_login(self.alice)
        page = f"/{self.acme.pk}/api-access/clouds.yaml"
        return self.client.get(page, headers={"host": self.address}).text

    def file_of_new_credential(self, user, account):
        self.client.force_login(user)
        form = {"name": "deploy", "roles": ["identity:user-admin"], "days": "30"}
        page = f"/{account.pk}/api-access/"
        made = self.client.post(page, form, headers={"host": self.address})
        return unquote(re.search(r'href="data:[^,]*,([^"]*)"', made.text)[1])

    def environment_of(self, who):
        """What the shell of that person has, and nothing of ours."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "OS_CLIENT_CONFIG_FILE": str(self.clouds[who]),
            "OS_CLOUD": CLOUD,
            **({"OS_PASSWORD": PASSWORD} if who == "alice" else {}),
        }

    def cloud_of(self, who, region=None):
        """Their cloud as the Python libraries read it."""
        files = OpenStackConfig([str(self.clouds[who])], load_envvars=False)
        needs_password = "v3password" in self.clouds[who].read_text()
        password = {"password": PASSWORD} if needs_password else {}
        return files.get_one(CLOUD, region_name=region, auth=password)

    def connect(self, who, region=None):
        cloud = self.cloud_of(who, region)
        connection = openstack.connection.Connection(config=cloud)
        self.addCleanup(connection.close)
        return connection

    def run_program(self, who, *command):
        """Its output; what fails is told with the words of the client."""
        done = self.start(who, *command)
        assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, who, program, *words, typed=None):
        """At a terminal, or with an input, which `glance` takes for data."""
        terminal, inside = pty.openpty()
        self.addCleanup(os.close, terminal)
        self.addCleanup(os.close, inside)
        given = {"stdin": inside} if typed is None else {"input": typed}
        return subprocess.run(
            [PROGRAMS / program, *(str(word) for word in words)],
            env=self.environment_of(who),
            **given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def wait_for(self, is_so, what):
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: not seen in {PATIENCE} s"
            time.sleep(0.5)

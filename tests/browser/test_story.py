"""The article's tip, lived by two people at two browsers, with nothing in anything's
place: Chromium, the web server, a worker in its own process, QEMU.

The test account makes an image of its server and shares it with production; production
boots it and makes its own copy; the test account stops sharing. Production's server and
copy go on.
"""

import re
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.core.management import call_command
from playwright.sync_api import expect

from accounts.permissions import Role
from images.models import Image
from servers.models import Server
from tests.factories import AccountFactory, RegionFactory, UserFactory
from tests.jobs.case import empty_queues
from tests.servers.compute.region import needs_qemu
from tests.servers.factories import FlavorFactory
from tests.servers.test_story import tiny_linux_image
from tests.worker import running_worker

pytestmark = [pytest.mark.qemu, needs_qemu]
# Of a busy machine, in milliseconds: a boot, an image.
PATIENCE = 600_000


@pytest.fixture
def folder(settings):
    # Not pytest's folder: servers are run by a user who must reach none of it.
    folder = Path(tempfile.mkdtemp())
    settings.DATA_DIR = folder
    settings.IMAGES = settings.IMAGES | {"min_free_bytes": 0}
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cast(transactional_db, folder):
    """Tina of the test account, Paul of production, a base image and a worker."""
    source = tiny_linux_image()
    RegionFactory.create(code="IAD")
    test = AccountFactory.create(name="Acme Test")
    production = AccountFactory.create(name="Acme Production")
    owner = Role.USER_ADMIN
    FlavorFactory.create(id="tiny", name="Tiny", ram_mb=128, disk_gb=1)
    call_command("add_base_image", source, name="Tiny Linux", region="IAD")
    empty_queues()
    log = folder / "worker.log"
    with running_worker(log):
        yield SimpleNamespace(
            test=test,
            production=production,
            tina=UserFactory.create(username="tina", roles=[(test, owner)]),
            paul=UserFactory.create(username="paul", roles=[(production, owner)]),
        )
    empty_queues()


def create_server(visitor, name):
    """On the form of a new server, whose image is chosen."""
    page = visitor.page
    visitor.field("Server name").fill(name)
    page.get_by_role("radio", name="Tiny 128 MB").check()
    page.get_by_role("button", name="Create Server").click()
    heading = page.get_by_role("heading", name=f"{name} is being built")
    expect(heading).to_be_visible()
    visitor.link("Go to the server").click()
    expect_prompt(visitor, name)


def expect_prompt(visitor, name):
    state = visitor.page.locator("#server-state .state").first
    expect(state).to_have_text("Active", timeout=PATIENCE)
    prompts = visitor.page.locator("#console")
    expect(prompts).to_contain_text(f"{name} login:", timeout=PATIENCE)


def expect_active(visitor, image):
    state = visitor.row(image).locator(".state")
    expect(state).to_have_text("Active", timeout=PATIENCE)


def choose(visitor, action):
    page = visitor.page
    page.locator("#server-state").get_by_role("button", name="Actions").click()
    page.get_by_role("link", name=re.compile(f"^{action}")).first.click()


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def test_production_keeps_what_the_test_account_takes_back(visit, cast):
    tina, paul = visit(cast.tina), visit(cast.paul)

    # Tina boots the base image, and makes an image of her server while it runs.
    tina.go(cast.test, "servers/create/")
    tina.page.get_by_role("radio", name="Tiny Linux").check()
    create_server(tina, "web-test")
    choose(tina, "Create Image")
    tina.field("Name").fill("web golden")
    tina.button("Create Image").click()
    expect(tina.messages).to_contain_text("web golden is being made")
    tina.go(cast.test)
    expect_active(tina, "web golden")
    expect(tina.row("web golden")).to_contain_text("web-test")
    image = Image.objects.get(name="web golden")
    digest = image.blob.digest

    # She shares it with production, where Paul finds it, accepts it and boots it.
    tina.choose_from_gear(image, "Share Image")
    tina.answer_the_questions()
    tina.share_with_number(cast.production.number, "What passed the tests")
    expect(tina.dialog).to_be_hidden()
    paul.go(cast.production)
    expect(paul.offers).to_contain_text("Acme Test")
    paul.review(image)
    paul.button("Accept").click()
    expect(paul.row("web golden")).to_contain_text("Shared Image")
    paul.choose_from_gear(image, "Create Server with Image")
    create_server(paul, "web-1")
    server = Server.objects.get(name="web-1")

    # He keeps a copy of his own.
    choose(paul, "Keep your own copy")
    paul.field("Name").fill("our own web")
    paul.button("Keep your own copy").click()
    expect(paul.messages).to_contain_text("our own web is being made")
    paul.go(cast.production)
    expect_active(paul, "our own web")

    # Tina reads that production's servers use it, stops sharing, and deletes it all.
    tina.go(cast.test, f"images/{image.pk}/")
    tina.link(f"Remove {cast.production.number}").click()
    expect(tina.dialog).to_contain_text("servers")
    tina.dialog.get_by_role("button", name="Remove").click()
    expect(tina.sharing).to_contain_text("Shared with nobody")
    tina.go(cast.test)
    tina.choose_from_gear(image, "Delete")
    tina.dialog.get_by_role("button", name="Delete").click()
    expect(tina.page.get_by_role("heading", name="No saved images")).to_be_visible()

    # Paul has lost the image, and neither his server nor his copy.
    paul.go(cast.production)
    expect(paul.row("our own web")).to_be_visible()
    expect(paul.row("web golden").filter(has_text="Shared Image")).to_have_count(0)
    wait_until(lambda: Server.objects.get(pk=server.pk).is_detached, "it is detached")
    blobs = Path(settings.DATA_DIR, "images")
    wait_until(lambda: not list(blobs.rglob(f"*{digest}*")), "the file goes")
    page = paul.go(cast.production, f"servers/{server.pk}/")
    expect(page.locator("#withdrawn")).to_contain_text("needs nothing of that image")
    expect(page.locator("#server-state .state").first).to_have_text("Active")
    choose(paul, "Reboot")
    paul.dialog.get_by_role("radio", name=re.compile("^Hard")).check()
    paul.button("Reboot").click()
    prompts = re.compile("web-1 login:.*web-1 login:", re.DOTALL)
    expect(page.locator("#console")).to_contain_text(prompts, timeout=PATIENCE)

    # And the copy boots.
    paul.go(cast.production)
    copy = Image.objects.get(name="our own web")
    paul.choose_from_gear(copy, "Create Server with Image")
    create_server(paul, "web-2")

"""A real Chromium in front of the live server. Without one these tests are skipped;
REQUIRE_BROWSER=true makes that a failure."""

import os
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from accounts.permissions import Role
from tests.browser.visitor import SECONDS, Visitor
from tests.factories import (
    PASSWORD,
    AccountFactory,
    ImageFactory,
    RegionFactory,
    UserFactory,
)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=SECONDS * 1000)


def pytest_itemcollected(item):
    """In time for `-m`, which chooses among what is collected."""
    item.add_marker(pytest.mark.browser)
    # What they call is called by other tests as well, in a fraction of the time.
    item.add_marker(pytest.mark.no_cover)


@pytest.fixture(scope="session", autouse=True)
def queries_beside_playwright():
    """Its loop runs in this very thread, and Django would refuse all queries."""
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    yield
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="session")
def browser_type_launch_args():
    path = f"{sys.prefix}/bin:{os.environ['PATH']}"
    # The same engine without windows, which takes less of everything.
    names = ("chromium-headless-shell", "chromium")
    chromium = next(filter(None, (shutil.which(name, path=path) for name in names)), "")
    if chromium:
        return {"executable_path": chromium, "args": FLAGS}
    reason = "there is no Chromium: apt-get install chromium, or REQUIRE_BROWSER=false"
    if os.environ.get("REQUIRE_BROWSER") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def cast(transactional_db):
    """Alice of Acme has an image, Bob of Beta may get it. Both own their accounts."""
    for code in ("IAD", "LON", "DFW"):
        RegionFactory.create(code=code)
    acme = AccountFactory.create(name="Acme")
    beta = AccountFactory.create(name="Beta")
    owner = Role.USER_ADMIN
    return SimpleNamespace(
        acme=acme,
        beta=beta,
        alice=UserFactory.create(username="alice", roles=[(acme, owner)]),
        bob=UserFactory.create(
            username="bob", roles=[(beta, owner)], password=PASSWORD
        ),
        image=ImageFactory.create(owner=acme, name="web-golden"),
    )


@pytest.fixture
def visit(live_server, browser, transactional_db):
    """Seat a user at a browser of their own; what went wrong there fails the test."""
    visitors = []

    def visit(user=None, **options):
        visitor = Visitor(browser, live_server.url, user, **options)
        visitors.append(visitor)
        return visitor

    yield visit
    for visitor in visitors:
        visitor.leave()
    _wait_for_answers()
    assert [fault for visitor in visitors for fault in visitor.faults] == []


def _wait_for_answers():
    """A page asks for more when its visitor is gone already. Answered after the tables
    are emptied, that would write into the next test; answered meanwhile, it deadlocks.
    """
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(SECONDS)
            assert not thread.is_alive(), "the live server still answers"

"""Pytest's PostgreSQL and its other settings, unless the environment has them.

Loaded by `-p tools.pytest_postgres`, since pytest-django reads the settings before
any conftest.py. The workers of pytest-xdist inherit all of it from the controller.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from django.conf import settings

from tools.postgres import Postgres

KEPT = Path("var/test-postgres")
# Nobody misses test data after a power cut.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
SETTINGS = {
    "ALLOWED_HOSTS": "localhost,127.0.0.1,testserver",
    "DEBUG": "true",
    "SECRET_KEY": "a-key-for-tests-alone-0123456789-abcdefghij-klmnopqrst",
}


class _Session:
    """What has to be given back when the tests are over."""

    server: Postgres | None = None
    folders: list[Path] = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None, None, None]:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _set_data_dir()
    if "DATABASE_URL" not in os.environ:
        _Session.server = _start_postgres()
        os.environ["DATABASE_URL"] = _Session.server.url()
    try:
        yield
    except BaseException:
        pytest_unconfigure()
        raise


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    # Argon2 is slow on purpose. One test sees to it that the panel uses it.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def pytest_unconfigure() -> None:
    if _Session.server:
        _Session.server.stop()
        _Session.server = None
    while _Session.folders:
        shutil.rmtree(_Session.folders.pop(), ignore_errors=True)


def _start_postgres() -> Postgres:
    server = Postgres(KEPT, FAST).start()
    if server.is_owned:
        return server
    # Another run holds it and may end before this one.
    return Postgres(_make_folder(), FAST).start()


def _set_data_dir() -> None:
    """Give each worker a folder of its own, for it may sweep what it does not know."""
    given = os.environ.get("DATA_DIR")  # empty when make was given none
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if given and worker:
        folder = Path(given, worker)
        folder.mkdir(parents=True, exist_ok=True)
    elif given:
        folder = Path(given)
    else:
        folder = _make_folder()
    os.environ["DATA_DIR"] = str(folder)
    # Whitenoise warns when there is none, and here a warning is an error.
    Path(folder, "static").mkdir(parents=True, exist_ok=True)


def _make_folder() -> Path:
    # Short, since sockets lie below it, and open to the user that servers run as.
    folder = Path(tempfile.mkdtemp(prefix="panel-"))
    folder.chmod(0o711)
    _Session.folders.append(folder)
    return folder

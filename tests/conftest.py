import pytest
from django.db import connection
from django.test import TestCase, TransactionTestCase


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the longest: in the end, all others would wait for one of them."""
    items.sort(key=place)


def place(item):
    marks = {mark.name for mark in item.iter_markers()}
    return "chaos" not in marks, "qemu" not in marks


@pytest.fixture(autouse=True)
def jobs_end_with_their_test(request, django_db_blocker):
    """Where tables are emptied after a test, those of procrastinate are left out: their
    models are not Django's to manage. The next test would find their rows.
    """
    yield
    if is_committed(request):
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute("DELETE FROM procrastinate_jobs")
            cursor.execute("DELETE FROM procrastinate_workers")


def is_committed(request):
    """Whether the test writes for good, and is not just rolled back."""
    if request.cls and issubclass(request.cls, TransactionTestCase):
        return not issubclass(request.cls, TestCase)
    return "transactional_db" in request.fixturenames

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the longest: in the end, all others would wait for one of them."""
    items.sort(key=place)


def place(item):
    marks = {mark.name for mark in item.iter_markers()}
    return "chaos" not in marks, "qemu" not in marks

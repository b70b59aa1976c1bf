from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from django.db import connection
from django.test import override_settings
from django.urls import reverse
from procrastinate.contrib.django import app as jobs
from procrastinate.contrib.django.models import ProcrastinateJob

from images.stores import ImageStore, store_for
from tests.cast import CastTestCase

HTMX = {"HX-Request": "true"}


class ImageTestCase(CastTestCase):
    """Alice is signed in; addresses are of her account unless another is named."""

    def setUp(self) -> None:
        self.client.force_login(self.alice)

    def url(self, name: str, *args: object, account: Any = None, **query: Any) -> str:
        number = (account or self.acme).number
        return reverse(f"images:{name}", args=[number, *args], query=query)

    def get(self, name: str, *args: object, headers: Any = None, **query: Any) -> Any:
        return self.client.get(self.url(name, *args, **query), headers=headers)

    def post(
        self, name: str, *args: object, data: Any = None, headers: Any = None, **query
    ) -> Any:
        url = self.url(name, *args, **query)
        return self.client.post(url, data or {}, headers=headers)


class StoreMixin:
    """Image data goes to a folder of the test's own."""

    store: ImageStore
    folder: Path

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)  # type: ignore[attr-defined]
        settings = override_settings(DATA_DIR=self.folder)
        settings.enable()
        self.addCleanup(settings.disable)  # type: ignore[attr-defined]
        self.store = store_for("local")
        super().setUp()  # type: ignore[misc]

    def files(self) -> list[str]:
        """Every file the store holds, uploads as well as blobs."""
        root = self.folder / "images"
        return sorted(
            str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()
        )


def waiting(task: str = "") -> list[ProcrastinateJob]:
    jobs_there = ProcrastinateJob.objects.filter(status="todo").order_by("id")
    return [job for job in jobs_there if job.task_name.endswith(task)]


def lose_jobs() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_jobs")


def work(*, attempts: int = 0) -> None:
    """Run the jobs that wait, and those they call for, as the worker would."""
    while found := waiting():
        for job in found:
            task = jobs.tasks[job.task_name]
            context = mock.Mock(job=mock.Mock(attempts=attempts))
            with connection.cursor() as cursor:
                cursor.execute("DELETE FROM procrastinate_jobs WHERE id = %s", [job.pk])
            given = (context,) if task.pass_context else ()
            task.func(*given, **job.args)

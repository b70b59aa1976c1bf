"""A real worker, in a process of its own, on the database and folder of a test."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from django.conf import settings
from django.db import connection
from psycopg.conninfo import make_conninfo

from servers.compute.backends import compute_for
from tools.children import end_with_parent


@contextmanager
def running_worker(log):
    """Until it is left; then no server of the test runs any more."""
    parameters = connection.get_connection_params()
    place = {
        name: parameters[name]
        for name in ("host", "port", "user", "password", "dbname")
        if parameters.get(name)
    }
    environment = os.environ | {
        "DATABASE_URL": make_conninfo(**place),
        "DATA_DIR": str(settings.DATA_DIR),
        "MIN_FREE_MIB": "0",
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "worker", "--grace", "1"],
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        compute = compute_for("local")
        for server_id in compute.server_ids():
            compute.destroy(server_id)

"""A real worker and a real web server, each in a process of its own, on the database
and folder of a test.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections
from psycopg.conninfo import make_conninfo

from servers.compute.backends import compute_for
from tools.children import end_with_parent

HOST = "127.0.0.1"
SECONDS_TO_ANSWER = 60


def work():
    """Have a real worker do the jobs that wait.

    In a thread, since the worker brings a loop of its own.
    """
    outcome = []

    def run():
        try:
            call_command("procrastinate", "worker", "--one-shot")
        except Exception as problem:  # told below, where pytest sees it
            outcome.append(problem)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert outcome == []


@contextmanager
def running_worker(log):
    """Until it is left; then no server of the test runs any more."""
    try:
        with _running([sys.executable, "manage.py", "worker", "--grace", "1"], log) as (
            process
        ):
            yield process
    finally:
        compute = compute_for("local")
        for server_id in compute.server_ids():
            compute.destroy(server_id)


@contextmanager
def running_web_server(log):
    """Gunicorn, as the demo runs it; its address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        address = f"{HOST}:{probe.getsockname()[1]}"
    command = [
        *(sys.executable, "-m", "gunicorn", "controlpanel.wsgi"),
        *("--bind", address, "--no-control-socket"),
        *("--worker-class", "gthread", "--workers", "1", "--threads", "4"),
        *("--graceful-timeout", "1"),
    ]
    with _running(command, log) as process:
        _wait_for_an_answer(address, process, log)
        yield address


@contextmanager
def _running(command, log):
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
            command,
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


def _wait_for_an_answer(address, process, log):
    deadline = time.monotonic() + SECONDS_TO_ANSWER
    while True:
        asking = http.client.HTTPConnection(address, timeout=60)
        try:
            asking.request("GET", "/identity/v3")
            asking.getresponse().read()
        except OSError:
            words = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, words
            assert time.monotonic() < deadline, words
            time.sleep(0.1)
        else:
            return
        finally:
            asking.close()

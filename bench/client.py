"""A small load generator: a few threads that ask one after the other."""

import http.client
import threading
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlencode

from bench.scenarios import SHARE, Step

CSRF = "benchbenchbenchbenchbenchbenchbe"  # 32 characters, as Django's own


class Load(NamedTuple):
    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


def run(
    port: int,
    steps: list[Step],
    *,
    repeats: int,
    clients: int,
    find_share: Callable[[], str],
) -> Load:
    """Ask for all steps, so many times; raises at an answer that was not expected."""
    latencies: list[float] = []
    faults: list[str] = []
    todo = iter(range(repeats))
    lock = threading.Lock()

    def work() -> None:
        while not faults:
            with lock:
                if next(todo, None) is None:
                    return
            begin = time.perf_counter()
            try:
                for step in steps:
                    share = find_share() if SHARE in step.path else ""
                    ask(port, step.about(share))
            except (OSError, AssertionError) as fault:
                faults.append(str(fault))
                return
            latencies.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise SystemExit(f"{steps[0].path}: {faults[0]}")
    return Load(time.perf_counter() - begin, latencies)


def ask(port: int, step: Step) -> None:
    headers = {"Cookie": f"sessionid={step.session}; csrftoken={CSRF}", **step.headers}
    body = None
    if step.form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        headers["X-CSRFToken"] = CSRF
        body = urlencode(step.form)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        method = step.method or ("POST" if body is not None else "GET")
        connection.request(method, step.path, step.body or body, headers)
        response = connection.getresponse()
        response.read()
        if response.status not in step.expected:
            raise AssertionError(f"{step.path} answered {response.status}")
    finally:
        connection.close()

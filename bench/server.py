"""A gunicorn of the bench's own, its settings, and the CPU time that it has used."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tools.children import end_with_parent

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
TICKS = os.sysconf("SC_CLK_TCK")


def environment(url: str, data: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": url,
        "DATA_DIR": str(data),
        "SECRET_KEY": "a-key-for-the-bench-alone-0123456789-abcdefghijklmnop",
        "ALLOWED_HOSTS": "127.0.0.1,testserver",
        "PLAIN_HTTP": "true",
        "OFFERS_PER_DAY": "1000000",
        "API_REQUESTS_PER_MINUTE": "100000000",
        "DEBUG": "false",
    }


def manage(env: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        [sys.executable, ROOT / "manage.py", *arguments],
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
    )


class Server(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        """Of all workers since their start; the master does no work worth counting."""
        return sum(_cpu_seconds(pid) for pid in children(self.process.pid))


@contextmanager
def serve(environment: dict[str, str], log: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "gunicorn", "bench.wsgi:application"),
        *("--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS)),
        *("--worker-class", "sync", "--no-control-socket", "--log-level", "warning"),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - no threads yet
        )
    try:
        _wait_until_up(port, process, log)
        yield Server(port, process)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_up(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"gunicorn ended at once:\n{log.read_text()[-2000:]}")
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            client.request("GET", "/fortunes/")
            client.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
        finally:
            client.close()
    raise SystemExit("gunicorn gave no answer within a minute")


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS

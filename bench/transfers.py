"""The data of a large image through the Image API, beside what its bytes cost anyway.

A disk of 1 GiB of noise goes up by PUT and comes down by GET, over loopback, to and
from the real web server. Beside it stand `cp` and `sha256sum` of the same file: an
upload writes its bytes and hashes them, a download reads and sends them.
"""

import hashlib
import http.client
import json
import os
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from bench.memory import boot_sector, web_memory
from bench.panel import Panel
from bench.report import Figures, say, spread
from bench.visitor import PASSWORD, REGION, USERNAME

ROUNDS = 5
GIB, MIB = 1 << 30, 1 << 20
CHUNK = 1 << 20
IMAGES = f"/image/{REGION}/v2/images"
OCTETS = "application/octet-stream"
# MiB that a web process may have more while a file of 1 GiB goes through it.
MOST_MEMORY = 8.0


def run(panel: Panel, *, rounds: int | None) -> Figures:
    disk = panel.data_dir / "transfer.raw"
    with disk.open("wb") as stream:
        stream.write(boot_sector(GIB))
        stream.write(random.randbytes(MIB - 512))
        for _ in range(GIB // MIB - 1):
            stream.write(random.randbytes(MIB))
    digest = _sha256sum(disk)[0]
    client = Client(panel)
    up, down, beside, grown = [], [], [], []
    client.delete(_upload(client, disk)[0])  # the first is not measured
    for number in range(rounds or ROUNDS):
        say(f"transfers, round {number + 1}")
        beside.append(_beside(disk))
        watch = Watch(panel)
        image, seconds = _upload(client, disk)
        up.append(seconds)
        down.append(_download(client, image, digest))
        grown.append(watch.end())
        client.delete(image)
    disk.unlink()
    return _figures(up, down, beside, grown)


def _figures(
    up: list[float], down: list[float], beside: list[float], grown: list[float]
) -> Figures:
    found = Figures(
        ["| what | MB/s | x cp and sha256sum, in seconds |", "|---|---:|---:|"]
    )
    for what, seconds in (
        ("upload of 1 GiB, answered when its bytes are stored and hashed", up),
        ("download of 1 GiB", down),
        ("cp and sha256sum", beside),
    ):
        ratios = [one / other for one, other in zip(seconds, beside, strict=True)]
        speeds = [GIB / 1e6 / each for each in seconds]
        found.lines.append(f"| {what} | {spread(speeds, 0)} | {spread(ratios)} |")
    found.lines.append(
        f"| memory of a web process meanwhile, MiB more | {spread(grown, 1)} | |"
    )
    if statistics.median(grown) > MOST_MEMORY:
        found.missed.append(f"a web process grows by {max(grown):.1f} MiB")
    return found


class Client:
    """A client of the API, with a token of its own."""

    def __init__(self, panel: Panel) -> None:
        self._port = panel.port
        self._panel = panel
        self._token: dict[str, str] = {}
        user = {
            "name": USERNAME,
            "domain": {"id": "default"},
            "password": PASSWORD,
        }
        identity = {"methods": ["password"], "password": {"user": user}}
        body = json.dumps({"auth": {"identity": identity}}).encode()
        answer = self.send(
            "POST", "/identity/v3/auth/tokens", body, "application/json", 201
        )
        self._token = {"X-Auth-Token": answer.headers["X-Subject-Token"]}
        answer.read()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        kind: str = "application/json",
        expected: int = 200,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> http.client.HTTPResponse:
        """The answer, whose body is still to be read."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=300, blocksize=CHUNK
        )
        sent = {"Content-Type": kind, "Accept": "application/json"}
        sent |= {**self._token, **headers}
        connection.request(method, path, body, sent)  # type: ignore[arg-type]
        answer = connection.getresponse()
        if answer.status != expected:
            raise SystemExit(f"{method} {path}: {answer.status} {answer.read()!r}")
        return answer

    def delete(self, image: str) -> None:
        """Wait for its check, too, so that it takes no time from what comes next."""
        query = "SELECT status FROM images_image WHERE id = %s"
        self._panel.wait(query, "active", image)
        self.send("DELETE", f"{IMAGES}/{image}", expected=204).read()


class Watch:
    """By how much the largest web process has grown at most since this was made."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._before = self._most = web_memory(panel)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> float:
        self._over.set()
        self._thread.join()
        return self._most - self._before

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._most = max(self._most, web_memory(self._panel))


def _upload(client: Client, disk: Path) -> tuple[str, float]:
    about = {"name": "1 GiB", "disk_format": "raw", "container_format": "bare"}
    made = client.send("POST", IMAGES, json.dumps(about).encode(), expected=201)
    image = str(json.loads(made.read())["id"])
    begin = time.perf_counter()
    with disk.open("rb") as data:
        length = str(disk.stat().st_size)
        sent = {"Content-Length": length}
        client.send("PUT", f"{IMAGES}/{image}/file", data, OCTETS, 204, sent).read()
    return image, time.perf_counter() - begin


def _download(client: Client, image: str, digest: str) -> float:
    """Read and dropped; whether the bytes are the same is looked at in another one,
    since the server would send on while we hash."""
    begin = time.perf_counter()
    size = sum(len(piece) for piece in _pieces(client, image))
    seconds = time.perf_counter() - begin
    found = hashlib.sha256()
    for piece in _pieces(client, image):
        found.update(piece)
    if size != GIB or found.hexdigest() != digest:
        raise SystemExit("what came down is not what went up")
    return seconds


def _pieces(client: Client, image: str) -> Iterator[bytes]:
    answer = client.send("GET", f"{IMAGES}/{image}/file")
    return iter(lambda: answer.read(CHUNK), b"")


def _beside(disk: Path) -> float:
    copy = disk.with_suffix(".copy")
    begin = time.perf_counter()
    subprocess.run(["cp", disk, copy], check=True)
    with copy.open("rb") as stream:
        os.fsync(stream.fileno())
    _sha256sum(copy)
    seconds = time.perf_counter() - begin
    copy.unlink()
    return seconds


def _sha256sum(file: Path) -> list[str]:
    done = subprocess.run(
        ["sha256sum", file], check=True, capture_output=True, text=True
    )
    return done.stdout.split()

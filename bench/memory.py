"""Memory of the web server and the worker while they do real work, which must not grow.

A turn is what one user does with a small disk: the list, an upload, the image's page
when it is active, and its deletion. That is four requests and two jobs of the worker,
one of which checks the file in processes of its own.
"""

import random
import statistics
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.panel import Panel
from bench.report import Figures, say
from bench.server import children

JOBS = 1_000
JOBS_A_TURN = 2
STEP = 100  # jobs between two looks
USERS = 4
MOST_GROWTH = 5.0  # MiB for a thousand jobs
MIB = 1 << 20


def run(panel: Panel, *, rounds: int | None) -> Figures:
    steps = rounds or JOBS // STEP
    seen: list[dict[str, float]] = []
    for number in range(steps):
        say(f"memory, {(number + 1) * STEP} jobs of {steps * STEP}")
        _work(panel, number)
        seen.append(_memory(panel))
    found = Figures(
        [
            "| process | MiB after the first 100 jobs | after the last "
            "| MiB more for 1,000 jobs |",
            "|---|---:|---:|---:|",
        ]
    )
    for name in seen[0]:
        values = [each[name] for each in seen]
        growth = 1000 * _slope(values)
        found.lines.append(
            f"| {name} | {values[0]:.1f} | {values[-1]:.1f} | **{growth:+.1f}** |"
        )
        if growth > MOST_GROWTH:
            found.missed.append(f"{name} grows by {growth:.1f} MiB in 1,000 jobs")
    return found


def _work(panel: Panel, number: int) -> None:
    turns = STEP // JOBS_A_TURN

    def turn(n: int) -> None:
        panel.alice.get("images/")
        image = panel.alice.upload(_disk(number * turns + n))
        panel.wait("SELECT status FROM images_image WHERE id = %s", "active", image)
        panel.alice.get(f"images/{image}/")
        panel.alice.post(f"images/{image}/delete/")

    with ThreadPoolExecutor(USERS) as users:
        list(users.map(turn, range(turns)))
    panel.wait(
        "SELECT count(*) FROM procrastinate_jobs"
        " WHERE queue_name = 'images' AND status IN ('todo', 'doing')",
        0,
    )


def _disk(number: int) -> bytes:
    """No two alike, so that each is a file of its own in the store."""
    content = random.Random(number).randbytes(MIB)
    return boot_sector(MIB) + content[512:]


def boot_sector(size: int) -> bytes:
    """With one partition, from the next sector to the end of a disk of this size."""
    sector = bytearray(512)
    sector[446:462] = struct.pack("<B3xB3xII", 0x80, 0x83, 1, size // 512 - 1)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def _memory(panel: Panel) -> dict[str, float]:
    """MiB that each process has resident, of several the largest."""
    workers = panel.pids("worker")
    return {
        "web": web_memory(panel),
        "worker": max(_resident(pid) for pid in workers),
    }


def web_memory(panel: Panel) -> float:
    """MiB that the largest web process has resident."""
    web = [pid for master in panel.pids("web") for pid in children(master)]
    return max(_resident(pid) for pid in web)


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has ended")


def _slope(values: list[float]) -> float:
    """MiB for each job, by the line that fits best."""
    if len(values) < 2:
        return 0.0
    jobs = [STEP * (n + 1) for n in range(len(values))]
    return statistics.linear_regression(jobs, values).slope

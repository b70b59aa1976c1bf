"""Pages beside a bare Django page, at three sizes of the tables.

Each figure is the median of interleaved rounds, with their spread; each ratio is to
the bare page of one query that the same server process served in the same round. The
databases are kept in DATA_DIR, so that a second run begins at once.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench import client
from bench.data import load
from bench.report import Figures, say
from bench.scenarios import API_CYCLE, CYCLE, FORTUNES, Cast, scenarios
from bench.server import ROOT, Server, environment, manage, serve
from tools.postgres import Postgres

SIZES = [1_000, 100_000, 1_000_000]
# These change rows, so one client does them, and less often.
REPEATS = {CYCLE: 60, API_CYCLE: 60}
TARGETS = {
    "Saved Images, page": 3.0,
    "Saved Images, rows": 3.0,
    "header poll": 2.0,
    "API: list 25": 2.5,
    "API: show": 1.5,
    "API: members": 1.5,
}
MOST_QUERIES = 7


class Row:
    """One scenario at one size: a figure for every round."""

    def __init__(self, queries: int) -> None:
        self.queries = queries
        self.cpu_ms: list[float] = []
        self.ratio: list[float] = []
        self.per_second: list[float] = []
        self.latencies: list[float] = []


def prepare(postgres: Postgres, images: int, data: Path) -> dict[str, str]:
    """A database of this size: made once, then kept."""
    name = f"bench_{images}"
    env = environment(postgres.url(name), data)
    done = data / f"{name}.loaded"
    if not done.exists():
        say(f"{name}: loading")
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name}")
        manage(env, "migrate", "--verbosity", "0")
        with psycopg.connect(postgres.url(name)) as connection:
            load(connection, images, lambda text: say(f"{name}: {text}"))
        done.touch()
    manage(env, "migrate", "--verbosity", "0")
    return env


def inspect(env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.plans"],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit("the pages could not be inspected")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def share_between(connection: psycopg.Connection, cast: Cast) -> str:
    row = connection.execute(
        "SELECT id FROM sharing_imageshare"
        " WHERE image_id = %s AND consumer_number = %s",
        [cast.image, cast.consumer],
    ).fetchone()
    if row is None:
        raise SystemExit("the share was not made")
    return str(row[0])


def measure(
    server: Server,
    cast: Cast,
    queries: dict[str, int],
    find_share: Callable[[], str],
    *,
    rounds: int,
    repeats: int,
) -> dict[str, Row]:
    table = {name: Row(queries[name]) for name in queries}
    for number in range(rounds + 1):  # the first one only warms up
        cost: dict[str, float] = {}
        for name, steps in scenarios(cast).items():
            count = REPEATS.get(name, repeats)
            before = server.cpu_seconds()
            load = client.run(
                server.port,
                steps,
                repeats=count,
                clients=1 if name in REPEATS else 4,
                find_share=find_share,
            )
            cost[name] = (server.cpu_seconds() - before) * 1000 / count
            if number:
                row = table[name]
                row.cpu_ms.append(cost[name])
                row.ratio.append(cost[name] / cost[FORTUNES])
                row.per_second.append(load.per_second)
                row.latencies += load.latencies
    return table


def line(images: int, name: str, row: Row) -> str:
    quantiles = statistics.quantiles(row.latencies, n=100)
    low, high = min(row.ratio), max(row.ratio)
    return (
        f"| {images:,} | {name} | {row.queries} "
        f"| {statistics.median(row.cpu_ms):.2f} "
        f"| **{statistics.median(row.ratio):.2f}** ({low:.2f}-{high:.2f}) "
        f"| {quantiles[49] * 1000:.1f} / {quantiles[98] * 1000:.1f} "
        f"| {statistics.median(row.per_second):.0f} |"
    )


def misses(images: int, name: str, row: Row) -> list[str]:
    found = []
    ratio = statistics.median(row.ratio)
    if name in TARGETS and ratio > TARGETS[name]:
        found.append(
            f"{images:,} images: {name} costs {ratio:.2f} x, target {TARGETS[name]}"
        )
    if name not in REPEATS and row.queries > MOST_QUERIES:
        found.append(f"{images:,} images: {name} makes {row.queries} queries")
    return found


def run(data: Path, sizes: list[int], *, rounds: int, repeats: int) -> Figures:
    found = Figures(
        [
            "| images | what | queries | CPU ms | x bare page (spread) | p50 / p99 ms "
            "| requests/s |",
            "|---:|---|---:|---:|---:|---:|---:|",
        ]
    )
    settings = {"shared_buffers": "1GB", "fsync": "on"}
    with Postgres(data / "postgres", settings) as postgres:
        for images in sizes:
            _run(postgres, data, images, found, rounds=rounds, repeats=repeats)
    return found


def _run(
    postgres: Postgres,
    data: Path,
    images: int,
    found: Figures,
    *,
    rounds: int,
    repeats: int,
) -> None:
    env = prepare(postgres, images, data)
    manage(env, "collectstatic", "--noinput", "--verbosity", "0")
    seen = inspect(env)
    found.faults += [f"{images:,} images: {fault}" for fault in seen["faults"]]
    say(f"{images:,} images: measuring")
    cast = Cast(**seen["cast"])
    with (
        psycopg.connect(env["DATABASE_URL"], autocommit=True) as connection,
        serve(env, data / "gunicorn.log") as server,
    ):
        table = measure(
            server,
            cast,
            seen["queries"],
            partial(share_between, connection, cast),
            rounds=rounds,
            repeats=repeats,
        )
    for name, row in table.items():
        found.lines.append(line(images, name, row))
        found.missed += misses(images, name, row)

"""Break the panel while it is used, and see that it loses nothing.

    python -m chaos [--kills 200] [--seed N] [--kills-only] [--only NAME]
        [--write] [--stay]

Visitors use a panel of this program's own through its pages. Processes are killed by
the dozen; after each dozen the visitors pause until the panel has come to rest by
itself, and what it has is compared with what it had acknowledged. Then come the other
faults, one by one. Everything lies in DATA_DIR, or var/chaos, until the next run.
"""

import argparse
import math
import os
import random
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checks import Checks, Finding, Kind
from chaos.client import PASSPHRASE, Browser, Cut
from chaos.faults import (
    KILLS,
    SINGLES,
    Kill,
    Recovered,
    Scene,
    Single,
    Unexpected,
)
from chaos.ledger import Ledger
from chaos.panel import Database, Panel
from chaos.visitors import Account, Crowd, Disks, open_visitors
from tools.children import ask_for_death_signal
from tools.demo import DemoError
from tools.postgres import PostgresError
from tools.tiny_linux import TinyLinuxError, base_image

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faults.md"
TABLE_BEGIN, TABLE_END = "<!-- table begins -->", "<!-- table ends -->"
BATCH = 25
# Within this many seconds everything must be at rest again, by itself.
PATIENCE = 300
USERS = ["alice", "anna", "bob", "boris"]
OPERATOR = "carol"


@dataclass
class Row:
    """One kind of fault: how often, what came of it, and how long it took."""

    times: int = 0
    seconds: list[float] = field(default_factory=list)
    never: int = 0
    findings: set[Finding] = field(default_factory=set)
    note: str = ""

    def line(self, name: str) -> str:
        if self.note:
            return f"| {name} | not tried: {self.note} | | | | | |"
        counts = [
            sum(finding.kind is kind for finding in self.findings)
            for kind in (Kind.LOST, Kind.DOUBLED, Kind.ORPHANED, Kind.UNEXPLAINED)
        ]
        figures = " | ".join(str(count) for count in counts)
        return f"| {name} | {self.times} | {figures} | {self._recovery()} |"

    def _recovery(self) -> str:
        if not self.seconds:
            return "never" if self.never else "-"
        median, worst = statistics.median(self.seconds), max(self.seconds)
        text = f"{median:.1f} / {worst:.1f}"
        return f"{text}, {self.never} x never" if self.never else text


class Run:
    def __init__(self, panel: Panel, seed: int) -> None:
        self.panel = panel
        self.dice = random.Random(seed)
        self.database = Database(panel)
        self.ledger = Ledger()
        self.checks = Checks(panel, self.database, self.ledger)
        accounts = {
            name: Account(number, region)
            for name, number, region in self.database.rows(
                "SELECT username, number, home_region_id FROM accounts_user u"
                " JOIN accounts_account a ON a.number = u.home_account_id"
            )
        }
        disks = Disks(panel.folder / "disks", base_image(ROOT / "var" / "cache"))
        port = panel.port
        chosen = {name: accounts[name] for name in [*USERS, OPERATOR]}
        *visitors, operator = open_visitors(port, self.ledger, disks, chosen)
        self.visitors = visitors
        self.crowd = Crowd(visitors, seed)
        self.scene = Scene(
            panel,
            self.database,
            self.ledger,
            Browser(port, OPERATOR, PASSPHRASE),
            operator,
            self.dice,
            self._load,
        )
        # Signs in, which is not to be done while a process has to be started again.
        self.scene.answers()
        self.rows: dict[str, Row] = {}
        # Each kind once before chance decides, so that a short run has them all.
        self._due = self.dice.sample(KILLS, len(KILLS))

    def kill(self, times: int) -> None:
        while times > 0:
            self._batch(min(times, BATCH))
            times -= BATCH

    def strike(self, single: Single) -> None:
        row = self.rows.setdefault(single.name, Row())
        if reason := single.needs(self.panel):
            row.note = reason
            return
        say(single.name)
        self.crowd.go_on()
        try:
            single.happen(self.scene)
        except (Unexpected, Cut) as problem:
            row.findings.add(Finding(Kind.UNEXPLAINED, str(problem)))
            say(f"  {problem}")
        row.times += 1
        self._come_to_rest([row], time.monotonic())

    def _load(self, seconds: float) -> None:
        if seconds:
            self.crowd.go_on()
            self.panel.wait(seconds)
        else:
            self.crowd.pause()
            self.panel.wait(60, until=self.crowd.is_idle)

    # Kills

    def _batch(self, times: int) -> None:
        struck: set[str] = set()
        open_ends: list[tuple[str, float, Recovered]] = []
        self.crowd.go_on()

        def look() -> bool:
            self.scene.has_answered = None
            for end in list(open_ends):
                name, since, recovered = end
                if recovered():
                    self.rows[name].seconds.append(time.monotonic() - since)
                    open_ends.remove(end)
            return not open_ends

        for _ in range(times):
            pause = time.monotonic() + self.dice.uniform(0.2, 1.8)
            while time.monotonic() < pause:
                look()
                self.panel.wait(0.1)
            fault, recovered = self._kill_something()
            self.rows.setdefault(fault.name, Row()).times += 1
            open_ends.append((fault.name, time.monotonic(), recovered))
            struck.add(fault.name)
        say(f"{times} kills: {', '.join(sorted(struck))}")
        begin = time.monotonic()
        self.crowd.pause()
        self.panel.wait(PATIENCE, until=look)
        for name, *_ in open_ends:
            say(f"  not recovered: {name}")
            self.rows[name].never += 1
        self._come_to_rest([self.rows[name] for name in struck], begin, note=False)

    def _kill_something(self) -> tuple[Kill, Recovered]:
        while True:
            fault = self._next_kill()
            if recovered := fault.strike(self.scene):
                return fault, recovered
            # There is no such process at this moment.
            if fault not in self._due:
                self._due.append(fault)
            self.panel.wait(0.2)

    def _next_kill(self) -> Kill:
        if self._due and self.dice.random() < 0.7:
            return self._due.pop(0)
        return self.dice.choices(KILLS, [each.weight for each in KILLS])[0]

    # Rest

    def _come_to_rest(
        self, rows: list[Row], since: float, *, note: bool = True
    ) -> None:
        """Pause the visitors, wait until nothing is wrong, and keep what stays so."""
        self.crowd.pause()
        self.panel.wait(90, until=self.crowd.is_idle)
        found: list[Finding] = []
        last = ""

        def is_well() -> bool:
            nonlocal last
            self.panel.wait(0.5)
            last = found[0].text if found else last
            found[:] = self.checks.all()
            # Whatever else is wrong must not make orphans of what is swept a day later.
            if found and all(each.kind is not Kind.UNFINISHED for each in found):
                self._let_a_day_pass()
            return not found

        rested = self.panel.wait(PATIENCE, until=is_well)
        seconds = time.monotonic() - since
        found += self.checks.damaged_blobs()
        found += [
            Finding(Kind.ORPHANED, f"manage.py reconcile: {sentence}")
            for sentence in self.panel.differences()
        ]
        for visitor in self.visitors:
            found += [
                Finding(Kind.LOST, f"page: {problem}")
                for problem in visitor.look_around()
            ]
        rest = f"at rest after {seconds:.1f} s" if rested else "not at rest"
        say(f"  {rest}; last: {last or 'nothing'}")
        for finding in found:
            say(f"  {finding.kind}: {finding.text}")
        for row in rows:
            if note and rested:
                row.seconds.append(seconds)
            row.never += note and not rested
            row.findings |= {
                Finding(
                    Kind.UNEXPLAINED if each.kind is Kind.UNFINISHED else each.kind,
                    each.text,
                )
                for each in found
            }

    def _let_a_day_pass(self) -> None:
        """What broken uploads leave is swept a day later: sweep it now."""
        if self.checks.age_leftovers():
            self.panel.sweep()
            self.panel.wait(3)


def table(rows: dict[str, Row], names: Iterable[str]) -> list[str]:
    lines = [
        "| fault | times | lost | doubled | orphaned | unexplained "
        "| s to recover (median / worst) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [rows[name].line(name) for name in names if name in rows]
    total = Row(sum(row.times for row in rows.values()), findings=all_findings(rows))
    return [*lines, total.line("**all**")]


def all_findings(rows: dict[str, Row]) -> set[Finding]:
    """Each once: what is found after a dozen kills stands with each of their kinds."""
    return {finding for row in rows.values() for finding in row.findings}


def told(ledger: Ledger) -> str:
    by_deed: dict[str, list[str]] = {}
    for (what, outcome), times in sorted(ledger.outcomes().items()):
        by_deed.setdefault(what, []).append(f"{times} {outcome}")
    return "; ".join(f"{what}: {', '.join(ends)}" for what, ends in by_deed.items())


def write(lines: list[str]) -> None:
    before, _, rest = PAGE.read_text().partition(TABLE_BEGIN)
    after = rest.partition(TABLE_END)[2]
    PAGE.write_text(before + "\n".join([TABLE_BEGIN, *lines, TABLE_END]) + after)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", help="single faults whose name has this in it")
    parser.add_argument("--kills-only", action="store_true", help="no single faults")
    parser.add_argument("--write", action="store_true", help=f"to {PAGE.name}")
    parser.add_argument(
        "--stay", action="store_true", help="leave the panel up, until Ctrl-C"
    )
    options = parser.parse_args()
    folder = Path(os.environ.get("DATA_DIR") or ROOT / "var" / "chaos").resolve()
    if os.environ.get("MAKELEVEL"):
        ask_for_death_signal(signal.SIGTERM)  # we end with the make that runs us
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    singles = [
        each
        for each in SINGLES
        if not options.kills_only and (options.only or "") in each.name
    ]
    begin = time.monotonic()
    say(f"seed {options.seed}, {options.kills} kills, in {folder}")
    try:
        with Panel(folder, free_port()) as panel:
            run = Run(panel, options.seed)
            try:
                run.kill(options.kills)
                for single in singles:
                    run.strike(single)
            finally:  # interrupted, it tells what there is so far
                run.crowd.end()
                status = report(run, options.write, time.monotonic() - begin)
            if options.stay:
                say(f"The panel stays up on port {panel.port}; Ctrl-C ends it.")
                panel.wait(math.inf)
            return status
    except (DemoError, PostgresError, TinyLinuxError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130


def report(run: Run, wanted: bool, seconds: float) -> int:
    names = [*(each.name for each in KILLS), *(each.name for each in SINGLES)]
    lines = table(run.rows, names)
    print("\n".join(lines))
    print(f"{seconds / 60:.1f} minutes; what the visitors did:")
    print(told(run.ledger))
    found = all_findings(run.rows)
    for finding in sorted(found):
        print(f"{finding.kind}: {finding.text}")
    for fault in run.crowd.faults:
        print(f"FAULT of this program: {fault}")
    if wanted:
        write(lines)
    never = any(row.never for row in run.rows.values())
    return 1 if found or run.crowd.faults or never else 0


if __name__ == "__main__":
    sys.exit(main())

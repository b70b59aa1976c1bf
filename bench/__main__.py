"""Measure the panel. Figures are medians of interleaved rounds, with their spread.

    python -m bench [pages] [servers] [memory] [transfers] [--write]

Without a name, all of it. What the pages need is kept in DATA_DIR.
"""

import argparse
import os
import sys
from pathlib import Path

from bench import memory, pages, report, servers, transfers
from bench.panel import Panel
from bench.report import Figures
from bench.server import ROOT

PARTS = ["pages", "servers", "memory", "transfers"]
SIZES = [1_000, 100_000, 1_000_000]


def main() -> int:
    options = _options()
    data = Path(os.environ.get("DATA_DIR") or ROOT / "var" / "bench").resolve()
    data.mkdir(parents=True, exist_ok=True)
    results: dict[str, Figures] = {}
    if "pages" in options.parts:
        results["pages"] = pages.run(
            data,
            options.images,
            rounds=options.rounds or 7,
            repeats=options.repeats,
        )
    parts = {"servers": servers, "memory": memory, "transfers": transfers}
    for name, part in parts.items():
        if name in options.parts:
            with Panel(data / "panel") as panel:
                results[name] = part.run(panel, rounds=options.rounds)
    for name, figures in results.items():
        _show(figures)
        if options.write:
            report.write(name, figures.lines)
    return 1 if any(figures.faults for figures in results.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--images", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, help="instead of each part's own number")
    parser.add_argument(
        "--repeats", type=int, default=300, help="requests of a page in a round"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"the tables to {report.PAGE.name}"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    options.parts = options.parts or PARTS
    return options


def _show(figures: Figures) -> None:
    print("\n".join(figures.lines))
    for text in figures.missed:
        print(f"target missed: {text}")
    for text in figures.faults:
        print(f"FAULT: {text}")


if __name__ == "__main__":
    sys.exit(main())

"""Figures as lines of a table, and the page that they are written to."""

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


@dataclass
class Figures:
    """One table; faults make the bench fail, a target that was missed is told."""

    lines: list[str]
    missed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def spread(values: list[float], digits: int = 2) -> str:
    """The median, and the lowest and the highest round."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def write(part: str, lines: list[str]) -> None:
    begin, end = f"<!-- {part} begin -->", f"<!-- {part} end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(before + "\n".join([begin, *lines, end]) + after)

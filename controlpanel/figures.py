"""How figures are written on the pages."""

from datetime import UTC, datetime

UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]


def size_text(size: int) -> str:
    """Bytes for people: 17825792 is 17.0 MiB."""
    if size < 1024:
        return f"{size} bytes"
    figure, unit = float(size), 0
    while figure >= 999.95 and unit < len(UNITS) - 1:
        figure /= 1024
        unit += 1
    return f"{figure:.1f} {UNITS[unit]}"


def date_text(when: datetime) -> str:
    """A time in UTC, as pages show it where no script makes it local."""
    return f"{when.astimezone(UTC):%d %b %Y, %H:%M} UTC"

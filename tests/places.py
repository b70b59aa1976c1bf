"""At which lines the tests kill a worker, to see that another can begin again."""

import os

# A higher number takes longer, and is for changes of the stores and the backends.
PLACES = int(os.environ.get("RECOVERY_PLACES", "3"))


def places(lines):
    """Some of the lines that run, the first and the last among them."""
    step = max(1, (lines - 1) / max(1, PLACES - 1))
    return [1 + round(place * step) for place in range(min(PLACES, lines))]

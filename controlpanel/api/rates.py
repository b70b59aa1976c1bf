"""How many requests somebody may send in a minute, counted in each web process.

Kept in memory: a row in the database would cost more than most requests do. With N
processes an account may reach N times the number; what it protects is the process.
"""

from __future__ import annotations

import math
import threading
import time

MOST_KEPT = 10_000


class Rate:
    """A bucket a key: it holds a minute's worth and fills up steadily."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str, *, per_minute: int) -> int:
        """Take one; 0, or in how many seconds there will be one again."""
        now = time.monotonic()
        with self._lock:
            left, at = self._left.get(key, (float(per_minute), now))
            left = min(float(per_minute), left + (now - at) * per_minute / 60)
            if left < 1:
                return math.ceil((1 - left) * 60 / per_minute)
            self._left[key] = (left - 1, now)
            if len(self._left) > MOST_KEPT:
                self._forget(now)
        return 0

    def _forget(self, now: float) -> None:
        """Whoever sent nothing for a minute has a full bucket again."""
        fresh = {key: kept for key, kept in self._left.items() if now - kept[1] < 60}
        self._left = fresh

    def clear(self) -> None:
        with self._lock:
            self._left = {}


requests = Rate()
sign_ins = Rate()

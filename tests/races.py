"""Do things at the same moment, each in a thread with its own connection."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.core.exceptions import PermissionDenied
from django.db import connection

from controlpanel.http import Conflict, TooMany
from servers.compute.base import NoCapacity


def at_once(deeds: list[Callable[[], object]]) -> Counter[str]:
    """How the deeds ended, that all began together."""
    barrier = threading.Barrier(len(deeds))

    def run(deed: Callable[[], object]) -> str:
        try:
            barrier.wait()
            deed()
        except Conflict:
            return "conflict"
        except TooMany:
            return "too many"
        except NoCapacity:
            return "no capacity"
        except PermissionDenied:
            return "refused"
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(len(deeds)) as pool:
        return Counter(pool.map(run, deeds))

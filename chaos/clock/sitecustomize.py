"""For programs that run under libfaketime, by PYTHONPATH: Python sleeps until a time,
and libfaketime calls it an error when that has passed already.
"""

import errno
import time
from typing import SupportsIndex

_sleep = time.sleep


def sleep(seconds: float | SupportsIndex, /) -> None:
    try:
        _sleep(seconds)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


time.sleep = sleep

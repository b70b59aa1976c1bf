"""Start programs that the kernel ends when this process is gone, however it went."""

import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

# Loaded at import, since little is safe to do between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(with_signal: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the child gets the signal at the death of its parent.

    The kernel watches the thread that forked, so start such children from the main
    thread. A change of user clears the wish: state it after one.
    """
    parent = os.getpid()

    def before_exec() -> None:
        ask_for_death_signal(with_signal)
        if os.getppid() != parent:  # it died before the wish was stated
            os._exit(1)

    return before_exec


def ask_for_death_signal(with_signal: signal.Signals) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, with_signal)

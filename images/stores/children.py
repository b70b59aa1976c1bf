"""Run a program on a file that may be hostile, within limits, and never outlive us."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from images.stores.base import Progress, StoreError

_KEPT = 64 * 1024
_PER_CENT = re.compile(rb"\((\d{1,3})\.\d+/100%\)")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use: bytes of memory and of files, seconds of CPU and clock."""

    memory: int = 2 << 30
    cpu_seconds: int = 10
    file_bytes: int = 0
    seconds: float = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended. Of its output only the last part is kept."""

    code: int
    out: str
    err: str
    timed_out: bool

    @property
    def failed(self) -> bool:
        return self.code != 0

    @property
    def exhausted(self) -> bool:
        return self.code == -signal.SIGXCPU

    @property
    def was_killed(self) -> bool:
        """By somebody else, as by a host short of memory: no fault of the file."""
        return self.code == -signal.SIGKILL

    @property
    def lacked_space(self) -> bool:
        # A child that writes beyond its file limit is killed by SIGXFSZ, or is told so.
        return self.code == -signal.SIGXFSZ or any(
            sign in self.err for sign in ("No space left", "File too large")
        )


def run_limited(
    command: Sequence[str], limits: Limits, *, progress: Progress | None = None
) -> Ended:
    """Run a command to its end, with nothing of our environment and no way back to us.

    setpriv has the kernel kill the child when we are killed: else it would go on
    writing beside the one that is started after us.
    """
    guarded = [
        *("setpriv", "--pdeathsig", "KILL", "--no-new-privs"),
        *("prlimit", "--core=0", f"--as={limits.memory}"),
        # The soft limit sends SIGXCPU: SIGKILL is left for what is none of ours.
        f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 5}",
        f"--fsize={limits.file_bytes}",
        *command,
    ]
    # With its usual one heap per thread, qemu-img runs into the memory limit on good
    # files now and then.
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "MALLOC_ARENA_MAX": "1",
    }
    try:
        child = subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
        )
    except OSError as error:
        raise StoreError("The check of the image could not be started.") from error
    with child:
        try:
            return _listen(child, time.monotonic() + limits.seconds, progress)
        finally:
            child.kill()


def _listen(
    child: subprocess.Popen[bytes], deadline: float, progress: Progress | None
) -> Ended:
    assert child.stdout is not None  # noqa: S101 - both are pipes
    assert child.stderr is not None  # noqa: S101
    streams = {child.stdout.fileno(): b"", child.stderr.fileno(): b""}
    told = -1
    with selectors.DefaultSelector() as selector:
        for descriptor in streams:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                child.kill()
                return Ended(child.wait(), "", "", timed_out=True)
            for key, _ in ready:
                chunk = os.read(key.fd, _KEPT)
                if not chunk:
                    selector.unregister(key.fd)
                streams[key.fd] = (streams[key.fd] + chunk)[-_KEPT:]
                steps = _PER_CENT.findall(chunk)
                if progress and steps and int(steps[-1]) > told:
                    told = int(steps[-1])
                    progress(told)
    try:
        # It may have closed both and go on.
        code = child.wait(max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.kill()
        return Ended(child.wait(), "", "", timed_out=True)
    out, err = (text.decode(errors="replace") for text in streams.values())
    return Ended(code, out, err, timed_out=False)

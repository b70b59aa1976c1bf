"""Long work on a disk while its server runs: QEMU's block jobs.

A job belongs to QEMU and outlives the worker that began it. Each has a fixed name,
so that the next worker finds it: a detachment it brings to its end, a snapshot,
whose moment has passed, it gives up and begins anew. A detachment waits for nobody:
whatever else is to be done with the disk ends it, and what it has copied stays.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from servers.compute.base import Progress
from servers.compute.command import DISK
from servers.compute.qmp import Monitor, MonitorError

_DETACH = "detach"
_SNAPSHOT = "snapshot"
# A job that does not get on for this long (seconds) is given up, and one that is slower
# than this: some seconds in any case, and one more for so many bytes of the disk.
_STALL = 300
_LAST_STEP = 60
_LEAST_SECONDS = 600
_SLOWEST = 2 << 20


def detach(monitor: Monitor, *, speed: int, patience: float) -> bool:
    """Copy what is missing into the disk, then let go of the image. False if that
    takes longer than the patience (seconds): the job goes on by itself.

    The job would drop the image from the disk's header at once, while the tables of
    the copied parts are still in memory: a server killed in between had a disk of
    zeros. So the job waits before its last step until `stop` has written them out.
    """
    if _job(monitor, _DETACH) is None:
        monitor.execute(
            "block-stream",
            {
                "job-id": _DETACH,
                "device": DISK,
                "speed": speed,
                "auto-finalize": False,
                "auto-dismiss": False,
            },
        )
    deadline = time.monotonic() + patience
    while (job := _job(monitor, _DETACH)) is not None:
        if job["status"] == "concluded":
            _dismiss(monitor, job)
            return True
        if job["status"] == "pending":
            _flush(monitor)
            monitor.execute("job-finalize", {"id": _DETACH})
        elif time.monotonic() > deadline:
            return False
        if time.monotonic() > deadline + _LAST_STEP:
            raise MonitorError("its last step does not end")
        time.sleep(0.05)
    raise MonitorError("the job has vanished")


def abandon_detachment(monitor: Monitor) -> None:
    """What is copied stays, and need not be copied again."""
    _abandon(monitor, _DETACH)


def snapshot(monitor: Monitor, target: int, progress: Progress | None) -> None:
    """Copy the whole disk, as it is now, into the open empty qcow2 file."""
    _abandon(monitor, _SNAPSHOT)
    # QEMU does one thing at a time with a disk.
    _abandon(monitor, _DETACH)
    files = monitor.execute("add-fd", fd=target)["fdset-id"]
    file = {"driver": "file", "filename": f"/dev/fdset/{files}"}
    monitor.execute(
        "blockdev-add", {"driver": "qcow2", "node-name": _SNAPSHOT, "file": file}
    )
    try:
        # Kept after its end, for a job that dismisses itself takes its error with it.
        monitor.execute(
            "blockdev-backup",
            {
                "job-id": _SNAPSHOT,
                "device": DISK,
                "target": _SNAPSHOT,
                "sync": "full",
                "compress": True,
                "auto-dismiss": False,
            },
        )
        _finish(monitor, _SNAPSHOT, progress)
    finally:
        # Until the node is gone its tables are in memory, and the file reads as zeros.
        _abandon(monitor, _SNAPSHOT)
        with contextlib.suppress(MonitorError):
            monitor.execute("remove-fd", {"fdset-id": files})


def abandon_snapshot(monitor: Monitor) -> None:
    """Stop a snapshot whose worker has died; without one this does nothing."""
    _abandon(monitor, _SNAPSHOT)


def _finish(monitor: Monitor, name: str, progress: Progress | None) -> None:
    began = moved = time.monotonic()
    last = -1
    while True:
        job = _job(monitor, name)
        if job is None:
            raise MonitorError("the job has vanished")
        if job["current-progress"] != last:
            last, moved = job["current-progress"], time.monotonic()
            if progress is not None:
                progress(last, max(last, job["total-progress"]))
        if job["status"] == "concluded":
            _dismiss(monitor, job)
            return
        now = time.monotonic()
        if now - moved > _STALL:
            raise MonitorError("no progress any more")
        if now - began > (limit := _LEAST_SECONDS + job["total-progress"] // _SLOWEST):
            raise MonitorError(f"it took longer than {limit // 60} minutes")
        time.sleep(0.05)


def _dismiss(monitor: Monitor, job: dict[str, Any]) -> None:
    monitor.execute("job-dismiss", {"id": job["id"]})
    if job.get("error"):
        raise MonitorError(job["error"])


def _flush(monitor: Monitor) -> None:
    was_running = monitor.status() == "running"
    monitor.execute("stop")
    if was_running:
        monitor.execute("cont")


def _abandon(monitor: Monitor, name: str) -> None:
    deadline = time.monotonic() + 30
    while (job := _job(monitor, name)) is not None:
        with contextlib.suppress(MonitorError):
            if job["status"] == "concluded":
                monitor.execute("job-dismiss", {"id": name})
            else:
                monitor.execute("job-cancel", {"id": name})
        if time.monotonic() > deadline:
            raise MonitorError("the job does not end")
        time.sleep(0.02)
    with contextlib.suppress(MonitorError):
        monitor.execute("blockdev-del", {"node-name": name})


def _job(monitor: Monitor, name: str) -> dict[str, Any] | None:
    for job in monitor.execute("query-jobs"):
        if job["id"] == name:
            return dict(job)
    return None

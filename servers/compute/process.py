"""QEMU's process: start it with no more rights than it needs, find it, end it."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from servers.compute.base import ComputeUnavailable

# The shell notes the id before it becomes QEMU. So there is no moment at which a
# server runs that could not be found, and the id is that of QEMU.
_START = 'ulimit -c 0; echo $$; exec nice -n 10 "$@" >&2'

# Ended children stay as zombies until they are asked for; the key is the process id.
_children: dict[int, subprocess.Popen[bytes]] = {}
_children_lock = threading.Lock()


@dataclass(frozen=True)
class Found:
    pid: int
    # It only works on the disk of a server that is off: see `command.idle_command`.
    is_idle: bool


def find(pid_file: Path, server_id: UUID) -> Found | None:
    """The server's process. Its id in the arguments guards against a reused pid."""
    reap()
    try:
        pid = int(pid_file.read_text())
        arguments = _arguments(pid)
    except (OSError, ValueError):
        return None
    if not {str(server_id).encode(), b"-machine"}.issubset(arguments):
        return None
    after_machine = arguments[arguments.index(b"-machine") + 1 :]
    return Found(pid, is_idle=after_machine[0] == b"none")


def argument(found: Found, name: str) -> str:
    """What it was started with; raises ValueError if that is not there."""
    arguments = _arguments(found.pid)
    return arguments[arguments.index(name.encode()) + 1].decode()


def running_in(root: Path) -> dict[UUID, list[int]]:
    """Every QEMU that has a file of a server below the folder open, by the server's
    id; also one whose note is lost, and whose folder is gone. Not those of others.
    """
    found: dict[UUID, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (place / "cmdline").read_bytes().split(b"\0")
            if b"-machine" not in arguments or b"-uuid" not in arguments:
                continue
            server_id = arguments[arguments.index(b"-uuid") + 1].decode()
            files = [str(file.readlink()) for file in (place / "fd").iterdir()]
            # While it is deleted, the folder has another ending.
            begin = f"{root.resolve()}/{server_id}"
            if any(file.startswith(begin) for file in files):
                found.setdefault(UUID(server_id), []).append(int(place.name))
        except (OSError, ValueError, IndexError):
            continue  # ended meanwhile, or another user's
    return found


def kill_strays(root: Path, server_id: UUID) -> None:
    """End what runs on the files of a server that has no note of it."""
    for pid in running_in(root).get(server_id, []):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                # From here on the handle means this very process.
                if pid in running_in(root).get(server_id, []):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
        wait(Found(pid, is_idle=False), 10)


def _arguments(pid: int) -> list[bytes]:
    """None of a zombie, and none of a process that is just ending. The latter still
    holds its files and its port, so what comes next waits for its end."""
    for _ in range(50):
        if arguments := Path(f"/proc/{pid}/cmdline").read_bytes():
            return arguments.split(b"\0")
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            break
        time.sleep(0.02)
    reap()
    return []


def start(
    command: Sequence[str],
    *,
    pid_file: Path,
    log: Path,
    fds: Sequence[int],
    user: str,
    kvm: bool,
) -> subprocess.Popen[bytes]:
    """Start QEMU so that it outlives the worker and sees none of its secrets."""
    with pid_file.open("wb") as pid, log.open("ab") as errors:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _START, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=pid,
            stderr=errors,
            pass_fds=fds,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
            **rights(user, kvm=kvm),
        )
    with _children_lock:
        _children[process.pid] = process
    return process


def kill(found: Found, pid_file: Path, server_id: UUID) -> bool:
    """End the process at once; False if it cannot be ended."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(found.pid)
        try:
            # From here on the handle means this very process, reused pid or not.
            if find(pid_file, server_id) is not None:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return True
        finally:
            os.close(handle)
    return wait(found, 10)


def wait(found: Found, seconds: float) -> bool:
    """Wait until the process is gone; False if it still runs."""
    try:
        handle = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)
        reap()


def reap() -> None:
    """Take leave of children that have ended, else each of them stays as a zombie."""
    with _children_lock:
        for pid, process in list(_children.items()):
            if process.poll() is not None:
                del _children[pid]


def host_start() -> str:
    """Changes when host or container are started anew, and all servers are gone."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    first = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    return f"{boot}/{first[19]}"


def rights(user: str, *, kvm: bool) -> dict[str, Any]:
    """Arguments for subprocess that give all rights up, which only root can do."""
    if os.geteuid() != 0 or not user:
        return {}
    if user.isdecimal():
        uid = gid = int(user)
    else:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise ComputeUnavailable(
                f"Servers should run as the user “{user}”, whom the host does not have."
            ) from None
        uid, gid = entry.pw_uid, entry.pw_gid
    groups = [Path("/dev/kvm").stat().st_gid] if kvm else []
    return {"user": uid, "group": gid, "extra_groups": groups}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ComputeUnavailable(
            f"The region has no program “{name}”, so it can run no servers."
        )
    return found

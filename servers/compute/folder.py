"""One server is one folder. What is needed to find it again is in there:

    state.json     what was wanted last, and what it was started with; no secret
    disk.qcow2     the overlay on the image     seed.tar     host name, hash, keys
    pid            its process, if one was started            qmp  its control socket
    console.log    the serial port              qemu.log     what QEMU complained of
    screen.png     the last picture of the screen             snapshot.qcow2   a draft
    rebuilt/       what is about to take the old disk's place
    order          which order has rebuilt the server last

All of it belongs to the worker alone. QEMU runs as another user and is handed the
files open, so it needs no way into the folder or into those above it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from uuid import UUID

from servers.compute.base import ComputeError, ServerBusy, ServerNotFound

_NEW = ".new"
_GONE = ".gone"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG}


class Wanted(enum.StrEnum):
    """What the last deed was after; it tells a crash from an orderly end."""

    NEW = "new"
    ON = "on"
    OFF = "off"
    REBOOT = "reboot"


@dataclass(frozen=True, kw_only=True)
class State:
    memory_mb: int
    wanted: Wanted = Wanted.NEW
    port: int = 0
    # When the host, or the container, had started: see `process.host_start`.
    host: str = ""
    reason: str = ""


class Unreadable(ComputeError):
    """The note of a server's state is no such note, as after a power cut."""


class ServerFolder:
    def __init__(self, root: Path, server_id: UUID) -> None:
        self.root = root
        self.id = server_id
        self.path = root / str(server_id)
        self.disk = self.path / "disk.qcow2"
        self.seed = self.path / "seed.tar"
        self.pid = self.path / "pid"
        self.console = self.path / "console.log"
        self.log = self.path / "qemu.log"
        self.screen = self.path / "screen.png"
        self.snapshot = self.path / "snapshot.qcow2"
        self.rebuilt = self.path / "rebuilt"
        self.order = self.path / "order"
        self._state = self.path / "state.json"

    def exists(self) -> bool:
        return self._state.is_file()

    def create(self, state: State) -> None:
        """The folder appears at once and whole, or not at all."""
        draft = self.path.with_suffix(_NEW)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self.write(draft / self._state.name, json.dumps(asdict(state)).encode())
        draft.rename(self.path)

    def delete(self) -> None:
        """First out of sight, then file by file; a later call ends what was begun."""
        gone = self.path.with_suffix(_GONE)
        for rest in (self.path.with_suffix(_NEW), gone):
            if rest.exists():
                shutil.rmtree(rest)
        if self.path.exists():
            self.path.rename(gone)
            shutil.rmtree(gone)

    def state(self) -> State:
        try:
            found = json.loads(self._state.read_text())
            known = {field.name for field in fields(State)}
            found = {name: found[name] for name in known & found.keys()}
            state = State(**found | {"wanted": Wanted(found["wanted"])})
            if not (0 <= state.memory_mb < 1 << 31 and 0 <= state.port < 1 << 16):
                raise ValueError("There is no such memory or port.")
        except FileNotFoundError:
            if self.disk.exists():
                raise Unreadable("The server's state is lost.") from None
            raise ServerNotFound("The region does not know this server.") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unreadable("The server's state cannot be read.") from error
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            raise Unreadable("The server's state cannot be read.") from error
        return state

    def rebuilt_by(self) -> UUID | None:
        """The order by which the disk was made anew last."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return UUID(self.order.read_text())
        return None

    def save(self, state: State) -> None:
        """Also on a full disk, on which servers have to be shut off nevertheless."""
        data = json.dumps(asdict(state)).encode()
        try:
            self.write(self._state, data)
        except OSError as error:
            if error.errno not in _NO_ROOM or not self._state.exists():
                raise
            # Over what is there. Where this is cut short, see life.recover.
            with self._state.open("r+b") as stream:
                stream.write(data)
                stream.truncate()
                stream.flush()
                os.fsync(stream.fileno())

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file of the folder, so that nobody ever reads half of it."""
        draft = path.with_suffix(_NEW)
        draft.unlink(missing_ok=True)
        with draft.open("xb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(path)

    def clear_drafts(self) -> None:
        """Remove what was to replace something, when the disk was full or the worker
        was killed. Nobody but who has the lock makes any.
        """
        for draft in self.path.glob(f"*{_NEW}"):
            with contextlib.suppress(OSError):
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()

    @contextlib.contextmanager
    def locked(self, *, patience: float) -> Iterator[None]:
        """One deed at a time on a server; a dead worker holds no lock."""
        try:
            with _flock(self.path, patience):
                yield
        except _Taken:
            raise ServerBusy("Something else is being done with this server.") from None
        except FileNotFoundError as error:
            if self.path.exists():
                raise
            raise ServerNotFound("The region does not know this server.") from error


@contextlib.contextmanager
def region_locked(root: Path) -> Iterator[None]:
    """For what counts all servers, so that two do not take the last place."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _flock(root, 30):
            yield
    except _Taken:
        raise ServerBusy("The region is busy. Try again in a minute.") from None


def all_folders(root: Path) -> list[ServerFolder]:
    """Every server, also those that were half made or half deleted."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for path in root.iterdir():
            with contextlib.suppress(ValueError):
                found.add(UUID(path.stem))
    return [ServerFolder(root, server_id) for server_id in sorted(found)]


def other_states(root: Path, server_id: UUID) -> Iterator[State]:
    """What is known of every other server; one that is being deleted is left out."""
    for folder in all_folders(root):
        if folder.id == server_id:
            continue
        try:
            state = folder.state()
        except ServerNotFound:
            continue
        except (Unreadable, OSError):
            # It has its place, of a size that is told when it is started again.
            state = State(memory_mb=0)
        yield state


class _Taken(Exception):
    pass


@contextlib.contextmanager
def _flock(folder: Path, patience: float) -> Iterator[None]:
    deadline = time.monotonic() + patience
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _Taken from None
                time.sleep(0.05)
        # Deleted while this call waited: what is locked is then nobody's folder.
        if os.fstat(handle).st_ino != folder.stat().st_ino:
            raise FileNotFoundError(folder)
        yield
    finally:
        os.close(handle)

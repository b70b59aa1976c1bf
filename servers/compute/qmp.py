"""QEMU's machine protocol: one command after the other over a UNIX socket.

The socket serves one client at a time and lets a second one wait without a word.
So only the worker connects, under the server's lock, and every wait has a limit.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

SOCKET_NAME = "qmp"
# The longest answer lists the block devices; a broken QEMU shall not fill the memory.
MAX_LINE = 4 << 20
# Seconds until a client that was greeted and is not heard comes again. QEMU 7.2 loses
# the first command of about one in a thousand who come while it starts (or greets them
# twice), for good; the next client it hears at once.
_UNHEARD = 3.0


class MonitorError(Exception):
    """QEMU refused a command; the text is QEMU's."""


class MonitorGone(Exception):
    """Nobody answers: the process has ended, is stuck, or serves another client."""


def listen(folder: Path) -> socket.socket:
    """The socket that QEMU inherits, as it has no way into the folder itself."""
    (folder / SOCKET_NAME).unlink(missing_ok=True)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(_short_path(directory))
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


class Monitor:
    """A connection for some commands: `with Monitor(folder) as monitor: …`."""

    def __init__(self, folder: Path, *, patience: float = 10) -> None:
        self._folder = folder
        self._patience = patience
        connection = uuid4()
        self._names = (f"{connection}/{number}" for number in itertools.count())

    def __enter__(self) -> Self:
        end = time.monotonic() + self._patience
        while True:
            self._connect(end)
            try:
                heard_by = min(end, time.monotonic() + _UNHEARD)
                self._ask("qmp_capabilities", deadline=heard_by)
            except MonitorGone:
                self._socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            except BaseException:
                self._socket.close()
                raise
            else:
                return self

    def _connect(self, deadline: float) -> None:
        """Get as far as QEMU's greeting."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._received = b""
        try:
            directory = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
            try:
                self._socket.settimeout(max(0.1, deadline - time.monotonic()))
                self._socket.connect(_short_path(directory))
            finally:
                os.close(directory)
            while "QMP" not in self._read(deadline):
                pass
        except OSError as error:
            self._socket.close()
            raise MonitorGone(str(error)) from error
        except BaseException:
            self._socket.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fd: int | None = None,
    ) -> Any:
        """Run one command, with an open file if it takes one; return its answer."""
        deadline = time.monotonic() + self._patience
        return self._ask(command, arguments, fd=fd, deadline=deadline)

    def _ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fd: int | None = None,
        deadline: float,
    ) -> Any:
        name = next(self._names)
        message = json.dumps(
            {"execute": command, "arguments": arguments or {}, "id": name}
        )
        try:
            self._socket.settimeout(self._patience)
            data = message.encode() + b"\n"
            if fd is None:
                self._socket.sendall(data)
            else:
                socket.send_fds(self._socket, [data], [fd])
        except OSError as error:
            raise MonitorGone(str(error)) from error
        while True:
            answer = self._read(deadline)
            if "QMP" in answer:
                raise MonitorGone("it began anew, and may have forgotten the command")
            # Else an event, or what a client that has died had asked for.
            if answer.get("id") == name:
                break
        if "error" in answer:
            raise MonitorError(str(answer["error"].get("desc", command)))
        return answer.get("return")

    def status(self) -> str:
        """QEMU's run state: running, paused, shutdown, io-error, …"""
        return str(self.execute("query-status")["status"])

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._received) > MAX_LINE:
                raise MonitorGone("no answer in time")
            try:
                self._socket.settimeout(left)
                chunk = self._socket.recv(65536)
            except TimeoutError:
                raise MonitorGone("no answer in time") from None
            except OSError as error:
                raise MonitorGone(str(error)) from error
            if not chunk:
                raise MonitorGone("the connection was closed")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise MonitorGone("the answer cannot be read") from error
        return answer if isinstance(answer, dict) else {}


def _short_path(directory: int) -> str:
    # A socket's path has room for 107 bytes, a folder's may be far longer.
    return f"/proc/self/fd/{directory}/{SOCKET_NAME}"

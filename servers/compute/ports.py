"""Which port of the host leads to a server's SSH."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from servers.compute.base import NoCapacity


def candidates(
    address: str, ports: tuple[int, int], *, last: int, taken: set[int]
) -> Iterator[int]:
    """Free ports, the server's last one first; `ports` is the operator's range,
    (0, 0) for any. One may be lost again before QEMU takes it: then try the next."""
    low, high = ports
    in_range = not high or low <= last <= high
    if last and in_range and last not in taken and _free_port(address, last):
        yield last
    if not high:
        for _ in range(5):
            if port := _free_port(address, 0):
                yield port
    for port in range(max(low, 1), high + 1):
        if port not in taken and _free_port(address, port):
            yield port
    raise NoCapacity("The region has no free port left for another server's SSH.")


def _free_port(address: str, port: int) -> int:
    with socket.socket() as probe:
        # As QEMU does, else the port of a server just stopped would seem taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return 0
        return int(probe.getsockname()[1])

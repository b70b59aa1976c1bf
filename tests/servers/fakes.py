"""A backend without machines, for tests of what the panel does around one."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock
from uuid import UUID

from images.stores import BlobGone
from servers.compute.base import (
    Capacity,
    ComputeError,
    NotRunning,
    Observed,
    PowerOff,
    PowerState,
    Progress,
    ServerSpec,
)

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"


class FakeCompute:
    """Remembers what it was told. `trouble` is raised by the next verb."""

    def __init__(self) -> None:
        self.power: dict[UUID, PowerState] = {}
        self.specs: dict[UUID, ServerSpec] = {}
        self.reasons: dict[UUID, str] = {}
        self.orders: dict[UUID, UUID] = {}
        self.consoles: dict[UUID, str] = {}
        self.screens: dict[UUID, tuple[bytes, float]] = {}
        self.deeds: list[str] = []
        self.port = 22022
        self.size = Capacity(servers=99, memory_mb=99 * 1024, free_bytes=1 << 40)
        # What a snapshot yields, and what happens while it is taken.
        self.disk = b""
        self.at_snapshot: Callable[[], object] = lambda: None
        # What happens while a disk is detached, and the disks that are.
        self.at_detach: Callable[[], object] = lambda: None
        self.detached: set[UUID] = set()
        # Servers with which something is being done elsewhere.
        self.busy: set[UUID] = set()
        self.unavailable: str | None = None
        self.trouble: ComputeError | None = None
        # Set by a test that wants to do something while a disk is being made.
        self.at_spawn = threading.Event()
        self.may_spawn = threading.Event()
        self.may_spawn.set()

    def unavailable_reason(self) -> str | None:
        return self.unavailable

    def capacity(self) -> Capacity:
        return self.size

    def server_ids(self) -> set[UUID]:
        return set(self.power)

    def images_needed(self) -> set[str]:
        return set()

    def spawn(self, spec: ServerSpec) -> Observed:
        self.at_spawn.set()
        assert self.may_spawn.wait(60)
        self._do("spawn")
        self.specs[spec.id] = spec
        self.power[spec.id] = PowerState.RUNNING
        return self.observe(spec.id)

    def observe(self, server_id: UUID) -> Observed:
        power = self.power.get(server_id, PowerState.NOSTATE)
        return Observed(
            power_state=power,
            ssh_host="127.0.0.1",
            ssh_port=self.port if power is PowerState.RUNNING else 0,
            reason=self.reasons.get(server_id, ""),
            rebuilt_by=self.orders.get(server_id),
            is_detached=server_id in self.detached,
            at_a_glance=server_id in self.busy,
        )

    def power_on(self, spec: ServerSpec) -> Observed:
        self._do("power_on")
        self.power[spec.id] = PowerState.RUNNING
        return self.observe(spec.id)

    def power_off(self, server_id: UUID, *, patience: float = 30) -> PowerOff:
        self._do("power_off")
        self.power[server_id] = PowerState.SHUTDOWN
        return PowerOff.IN_ORDER

    def reboot(self, server_id: UUID, *, hard: bool, patience: float = 30) -> Observed:
        self._do("reboot hard" if hard else "reboot")
        if self.power.get(server_id) is not PowerState.RUNNING:
            raise NotRunning("The server is not running. Start it instead.")
        return self.observe(server_id)

    def rebuild(self, spec: ServerSpec, *, order: UUID) -> None:
        self.at_spawn.set()
        assert self.may_spawn.wait(60)
        self._do("rebuild")
        self.specs[spec.id] = spec
        self.orders[spec.id] = order
        self.power[spec.id] = PowerState.SHUTDOWN

    def resize(self, spec: ServerSpec, *, patience: float = 30) -> PowerOff:
        self._do("resize")
        was_off = self.power[spec.id] is PowerState.SHUTDOWN
        self.specs[spec.id] = spec
        self.power[spec.id] = PowerState.SHUTDOWN
        return PowerOff.ALREADY_OFF if was_off else PowerOff.IN_ORDER

    def destroy(self, server_id: UUID) -> None:
        self._do("destroy")
        self.power.pop(server_id, None)

    def detach(self, spec: ServerSpec, *, patience: float = 10) -> bool:
        self.at_detach()
        self._do("detach")
        self.detached.add(spec.id)
        return True

    def snapshot(
        self, spec: ServerSpec, target: Path, progress: Progress | None = None
    ) -> None:
        self.at_snapshot()
        self._do("snapshot")
        for done in (25, 50, 100):
            if progress:
                progress(done, 100)
        target.write_bytes(self.disk)

    def console_log(self, server_id: UUID, *, max_bytes: int = 65536) -> str:
        return self.consoles.get(server_id, "")

    def screenshot(self, server_id: UUID) -> bool:
        self._do("screenshot")
        return True

    def screen(self, server_id: UUID) -> tuple[bytes, float] | None:
        return self.screens.get(server_id)

    def hash_password(self, plain: str) -> str:
        return "$6$salt$" + "x" * 86

    def _do(self, deed: str) -> None:
        self.deeds.append(deed)
        if trouble := self.trouble:
            self.trouble = None
            raise trouble


class FakeStore:
    full = False
    empty = False

    def unavailable_reason(self) -> str:
        return ""

    def free_bytes(self) -> int:
        return 0 if self.full else 1 << 40

    def path(self, digest: str) -> Path:
        if self.empty:
            raise BlobGone("The image file is gone.", digest)
        return Path("/images") / digest


USERS = (
    "models.server",
    "models.changes",
    "snapshots",
    "tasks",
    "changes",
    "settling",
    "watching",
    "reconciling",
    "views",
    "order_views",
    "change_views",
    "rows",
    "withdrawals",
    "health",
    "api.servers",
)


def without_machines(compute: FakeCompute, stack: contextlib.ExitStack) -> None:
    """Put the fake in the place of the backend, until the stack is closed."""
    for name in USERS:
        place = f"servers.{name}.compute_for"
        stack.enter_context(mock.patch(place, return_value=compute))
    for name in ("settling", "watching", "snapshots"):
        place = f"servers.{name}.store_for"
        stack.enter_context(mock.patch(place, return_value=FakeStore()))


class FakeComputeMixin:
    """Puts a FakeCompute in the place of the backend, as `self.compute`."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.compute = FakeCompute()
        with contextlib.ExitStack() as stack:
            without_machines(self.compute, stack)
            self.addCleanup(stack.pop_all().close)  # type: ignore[attr-defined]

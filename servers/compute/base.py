"""What runs servers: the protocol that the backend of every region speaks.

Names, states and verbs are those of OpenStack Nova, so that a Nova backend can
stand beside the local one. Three rules hold for every verb:

- It is keyed by the server's own id and may be called again at any time: a call
  that was cut short, even by the death of the worker, is finished by the next.
- It blocks until the deed is done or has failed, and belongs into the worker. Only
  `unavailable_reason`, `capacity`, `console_log`, `screen` and `hash_password` are
  for web pages.
- It fails with a ComputeError alone, whose text is a sentence for the user.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from uuid import UUID

# How many bytes are done, and of how many.
Progress = Callable[[int, int], None]


class ComputeError(Exception):
    """Running the server has failed; the text says why, in words for its user."""

    # Whether the same call may go well a little later.
    is_temporary = False


class ComputeUnavailable(ComputeError):
    """The region can run no servers at present."""

    is_temporary = True


class NoCapacity(ComputeError):
    """The region has no room for this."""


class ImageGone(ComputeError):
    """The file of the image that the server's disk rests on is missing."""


class ServerNotFound(ComputeError):
    """The region knows no such server."""


class ServerBusy(ComputeError):
    """Something else is being done with the server right now."""

    is_temporary = True


class NotRunning(ComputeError):
    """Only a running server can do this."""


class StartFailed(ComputeError):
    """The server's process ended before the server could start."""


class SnapshotFailed(ComputeError):
    """No image could be made from the server's disk; the server itself is unharmed."""


class PowerState(enum.IntEnum):
    """The numbers are Nova's."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6


class PowerOff(enum.StrEnum):
    """How a power-off went; what the guest had not yet written is lost but in order."""

    ALREADY_OFF = "already off"
    IN_ORDER = "in order"
    FORCED = "forced"
    KILLED = "killed"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """The stored file of an image. It never changes, and servers only read it."""

    path: Path
    format: Literal["raw", "qcow2"]


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What a server is made of. The secrets are hashes, and kept out of every log."""

    id: UUID
    hostname: str
    memory_mb: int
    vcpus: int
    disk_gb: int
    # None once the disk has been detached from its image.
    image: ImageFile | None
    password_hash: str = field(default="", repr=False)
    public_keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observed:
    """How a server was found. `reason` is a sentence for its user, or empty."""

    power_state: PowerState
    ssh_host: str = ""
    ssh_port: int = 0
    reason: str = ""
    # The disk needs no image any more: forget the server's reference to it.
    is_detached: bool = False
    # The order of the last rebuild whose new disk is in place.
    rebuilt_by: UUID | None = None
    # Something else is being done with it: all that was seen is whether it has a
    # process, not what that is at, so a server in error stays so.
    at_a_glance: bool = False


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What there is for all servers together, whether they run or not. The bytes of
    disk are those above the floor: without any, nothing new is begun."""

    servers: int
    memory_mb: int
    free_bytes: int


class Compute(Protocol):
    """One backend. Every region that names it runs its servers there."""

    def unavailable_reason(self) -> str | None:
        """Why no server can run here, as a sentence, or None. Cheap, fit for pages."""

    def capacity(self) -> Capacity:
        """How much of all there is. Cheap, fit for pages."""

    def server_ids(self) -> set[UUID]:
        """Every server that has anything here, also those the panel has forgotten."""

    def images_needed(self) -> set[str]:
        """Digests of the images whose files the disks here rest on, also those of
        servers that the panel has forgotten.
        """

    def spawn(self, spec: ServerSpec) -> Observed:
        """Make the server and start it. One that was switched off since stays off."""

    def observe(self, server_id: UUID) -> Observed:
        """Find out how the server is, and start nothing. One that the region does not
        know is NOSTATE; ServerBusy if that cannot be told right now."""

    def power_on(self, spec: ServerSpec) -> Observed:
        """Start the server on the disk that it has; a paused one goes on."""

    def power_off(self, server_id: UUID, *, patience: float = 30) -> PowerOff:
        """Press the power button, and use force when that took too long (seconds)."""

    def reboot(self, server_id: UUID, *, hard: bool, patience: float = 30) -> Observed:
        """Soft: press the power button and start again, by reset after the patience."""

    def rebuild(self, spec: ServerSpec, *, order: UUID) -> None:
        """Give the server a new disk from the spec's image, and throw the old one away
        with all that is on it. It is off afterwards. Until then the old disk is
        unharmed: `Observed.rebuilt_by` tells. An order that is done is not done again.
        """

    def resize(self, spec: ServerSpec, *, patience: float = 30) -> PowerOff:
        """Shut the server off and give it the spec's memory, and its disk if that is
        larger. It has them from its next start on. NoCapacity leaves it running."""

    def destroy(self, server_id: UUID) -> None:
        """Stop the server and delete its disk. One that is gone already is no error."""

    def detach(self, spec: ServerSpec, *, patience: float = 10) -> bool:
        """Copy what is missing from the image into the disk. True once it stands alone;
        until then call again. A running server copies by itself between the calls, one
        that is off only during them, for so many seconds: nothing else waits longer."""

    def snapshot(
        self, spec: ServerSpec, target: Path, progress: Progress | None = None
    ) -> None:
        """Write the disk as one independent qcow2 file; a running server runs on."""

    def console_log(self, server_id: UUID, *, max_bytes: int = 65536) -> str:
        """The end of what the server wrote to its serial port, as harmless text."""

    def screenshot(self, server_id: UUID) -> bool:
        """Take a picture of the screen for `screen`; False if there is none to take."""

    def screen(self, server_id: UUID) -> tuple[bytes, float] | None:
        """The last picture (PNG) and when it was taken, as a timestamp."""

    def hash_password(self, plain: str) -> str:
        """The SHA-512 crypt hash that goes into a server's /etc/shadow."""

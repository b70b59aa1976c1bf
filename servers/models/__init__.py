"""Servers, what they are made with, and what happened to them."""

from servers.models.boot import NotBootable, lock_bootable
from servers.models.capacity import RegionCapacity
from servers.models.changes import (
    DoesNotFit,
    Rebuild,
    Resize,
    drop_orders,
    why_not_resize,
)
from servers.models.event import ServerEvent, What
from servers.models.flavor import GIB, Flavor
from servers.models.key import MOST_KEYS, SSHKey
from servers.models.reconciliation import Reconciliation
from servers.models.schedule import MOST_KEPT, WEEKDAYS, ImageSchedule
from servers.models.server import (
    JOBS,
    AlreadyOrdered,
    Server,
    ServerConflict,
    ServerQuerySet,
    why_no_room,
)

__all__ = [
    "GIB",
    "JOBS",
    "MOST_KEPT",
    "MOST_KEYS",
    "WEEKDAYS",
    "AlreadyOrdered",
    "DoesNotFit",
    "Flavor",
    "ImageSchedule",
    "NotBootable",
    "Rebuild",
    "Reconciliation",
    "RegionCapacity",
    "Resize",
    "SSHKey",
    "Server",
    "ServerConflict",
    "ServerEvent",
    "ServerQuerySet",
    "What",
    "drop_orders",
    "lock_bootable",
    "why_no_room",
    "why_not_resize",
]

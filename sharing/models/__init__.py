"""Shares: who offers which image to whom, and what became of it."""

from sharing.models.declaration import ShareDeclaration
from sharing.models.event import ShareEvent, ShareEventQuerySet
from sharing.models.report import ImageReport
from sharing.models.share import (
    ImageShare,
    ImageShareQuerySet,
)
from sharing.models.status import (
    AlreadyShared,
    ShareConflict,
    ShareLimit,
    ShareStatus,
)
from sharing.models.withdrawal import Withdrawal

__all__ = [
    "AlreadyShared",
    "ImageReport",
    "ImageShare",
    "ImageShareQuerySet",
    "ShareConflict",
    "ShareDeclaration",
    "ShareEvent",
    "ShareEventQuerySet",
    "ShareLimit",
    "ShareStatus",
    "Withdrawal",
]

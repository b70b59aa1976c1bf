"""The states of a share, and the answer where one does not allow a change."""

from __future__ import annotations

from django.db import models

from controlpanel.http import Conflict


class ShareStatus(models.TextChoices):
    PENDING = "pending", "Pending Acceptance"
    ACCEPTED = "accepted", "Accepted"
    REJECTED = "rejected", "Rejected"


class ShareConflict(Conflict):
    """The share is not in a state that allows this change."""


class AlreadyShared(ShareConflict):
    """The image is offered to this account, whatever was answered."""


class ShareLimit(ShareConflict):
    """The image is shared with as many accounts as it may be."""

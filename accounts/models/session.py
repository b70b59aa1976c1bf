"""Sign-ins."""

from __future__ import annotations

import hashlib

from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.utils import timezone

from accounts.models.account import User


class Session(AbstractBaseSession):
    """A sign-in, with what its user needs to recognise it in a list.

    The columns repeat what the session's data says; accounts.sessions writes them.
    """

    user = models.ForeignKey(
        User, null=True, on_delete=models.CASCADE, related_name="sessions"
    )
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(default=timezone.now)

    @property
    def public_id(self) -> str:
        """Names the session on a page: its key there would be a way into it."""
        return hashlib.sha256(self.session_key.encode()).hexdigest()[:16]

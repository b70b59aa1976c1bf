"""What was found when rows and files were compared."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone

_KEPT_FOR = timedelta(days=30)


class Reconciliation(models.Model):
    """One comparison of everything, with what it found and what became of that."""

    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(auto_now_add=True)
    found = models.PositiveIntegerField()
    left = models.PositiveIntegerField(help_text="Found, and not mended.")
    findings = models.JSONField(default=list)

    class Meta:
        indexes = [models.Index(fields=["started_at"], name="servers_reconciled")]

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M}: {self.found} found"

    @classmethod
    def forget_old(cls) -> None:
        cls.objects.filter(started_at__lt=timezone.now() - _KEPT_FOR).delete()

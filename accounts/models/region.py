"""The places of the cloud."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models


class Region(models.Model):
    """A place of the cloud, and the name of the backend that serves it.

    An image and a server live in exactly one.
    """

    code = models.CharField(
        max_length=16,
        primary_key=True,
        validators=[RegexValidator("^[A-Z][A-Z0-9-]*$", "Capital letters and digits.")],
    )
    name = models.CharField(max_length=100)
    backend = models.CharField(max_length=50, default="local")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(code__regex="^[A-Z][A-Z0-9-]*$"),
                name="accounts_region_code_valid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"

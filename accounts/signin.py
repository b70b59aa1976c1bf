"""Signing in, and being kept out after too many failures."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def locked_out(
    request: HttpRequest, original_response: HttpResponse | None = None, *_: Any
) -> HttpResponse:
    """django-axes calls this in place of the login page after too many failures."""
    return render(request, "429.html", status=429)

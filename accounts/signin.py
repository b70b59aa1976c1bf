"""Signing in, and being kept out after too many failures."""

from ipaddress import ip_address
from typing import Any, cast

from django.conf import settings
from django.contrib import auth
from django.contrib.auth import middleware
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.functional import SimpleLazyObject

from accounts.models import User
from accounts.sessions import ADDRESS, AGENT, SINCE, SessionStore


def sign_in(request: HttpRequest, user: User, backend: str | None = None) -> None:
    """Start a session that its user recognises in the list of sessions."""
    auth.login(request, user, backend)
    request.session[ADDRESS] = client_address(request)
    request.session[AGENT] = request.headers.get("User-Agent", "")[:200]
    request.session[SINCE] = timezone.now().isoformat()


def client_address(request: HttpRequest) -> str | None:
    """Where a request comes from; behind our proxies, as the outermost one saw it."""
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    count = settings.PROXY_COUNT
    # Each proxy appends whom it heard; what stands further left anybody can write.
    seen = hops[-count] if 0 < count <= len(hops) else request.META.get("REMOTE_ADDR")
    try:
        return str(ip_address((seen or "").strip()))
    except ValueError:
        return None


def locked_out(
    request: HttpRequest, original_response: HttpResponse | None = None, *_: Any
) -> HttpResponse:
    """django-axes calls this in place of the login page after too many failures."""
    seconds = round(settings.AXES_COOLOFF_TIME.total_seconds())
    message = (
        "Too many failed attempts with this username from this place. "
        f"Wait {seconds // 60} minutes; until then the right password is refused too."
    )
    context = {"message": message, "back": request.path}
    response = render(request, "429.html", context, status=429)
    response["Retry-After"] = str(seconds)
    return response


def count_failure(request: HttpRequest, username: str) -> None:
    """Another failed attempt with this username from there, for axes as well."""
    user_login_failed.send(
        sender=__name__, credentials={"username": username}, request=request
    )


def answer_for_axes(request: HttpRequest) -> None:
    """Whoever asks has an answer of their own, in place of that of axes' middleware."""
    request.axes_locked_out = False  # type: ignore[attr-defined]


class AuthenticationMiddleware(middleware.AuthenticationMiddleware):
    """As Django's, but the user comes with the session's row, in one query."""

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        request.user = cast(User, SimpleLazyObject(lambda: _user_of(request)))


def _user_of(request: HttpRequest) -> AbstractBaseUser | AnonymousUser:
    """The user of the session, if it is one that Django would find too."""
    session = cast(SessionStore, request.session)
    signed_in_as = session.get(auth.SESSION_KEY)
    user = session.user
    if (
        user
        and user.is_active
        and signed_in_as == str(user.pk)
        and session.get(auth.BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS
        and constant_time_compare(
            session.get(auth.HASH_SESSION_KEY, ""), user.get_session_auth_hash()
        )
    ):
        return user
    # Nobody, somebody kept out, or a secret key that has been rotated.
    return auth.get_user(request)

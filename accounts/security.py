"""Signing in, the password, and the list of one's sessions."""

from http import HTTPStatus
from typing import cast

from axes.handlers.proxy import AxesProxyHandler
from django.contrib import messages
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts.agents import agent_name
from accounts.models import Session, User
from accounts.signin import locked_out, sign_in
from controlpanel.http import HtmxRequest

SESSIONS_SHOWN = 100


class SignedInRequest(HtmxRequest):
    """A request of somebody who is signed in, to no account in particular."""

    user: User


class Login(auth_views.LoginView):
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        sign_in(self.request, form.get_user())
        return redirect(self.get_success_url())

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_invalid(form)
        response.status_code = HTTPStatus.UNPROCESSABLE_ENTITY
        return response


class PasswordChange(auth_views.PasswordChangeView):
    """A new password, which ends the user's other sessions."""

    template_name = "accounts/change_password.html"
    success_url = reverse_lazy("accounts:security")

    def dispatch(
        self, request: HttpRequest, *args: object, **kwargs: object
    ) -> HttpResponseBase:
        # Otherwise whoever found an open browser could guess the password here.
        if not AxesProxyHandler.is_allowed(request, self._credentials):
            return locked_out(request)
        return super().dispatch(request, *args, **kwargs)

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        response = super().form_valid(form)
        form.user.end_sessions(but=self.request.session.session_key)
        messages.success(
            self.request, "The password is changed. All other sessions have ended."
        )
        return response

    def form_invalid(self, form: PasswordChangeForm) -> HttpResponse:
        if "old_password" in form.errors:
            user_login_failed.send(
                sender=__name__, credentials=self._credentials, request=self.request
            )
        response = super().form_invalid(form)
        response.status_code = HTTPStatus.UNPROCESSABLE_ENTITY
        return response

    @property
    def _credentials(self) -> dict[str, str]:
        return {"username": cast(User, self.request.user).get_username()}


@require_GET
def overview(request: SignedInRequest) -> HttpResponse:
    sessions = request.user.sessions.filter(expire_date__gt=timezone.now())
    rows = [
        {
            "id": session.public_id,
            "is_this": session.session_key == request.session.session_key,
            "agent": agent_name(session.agent),
            "full_agent": session.agent,
            "address": session.address or "unknown",
            "created_at": session.created_at,
            "seen_at": session.seen_at,
        }
        for session in sessions.order_by("-seen_at")[:SESSIONS_SHOWN]
    ]
    rows.sort(key=lambda row: not row["is_this"])
    return render(request, "accounts/security.html", {"sessions": rows})


@require_POST
def end_session(request: SignedInRequest) -> HttpResponse:
    session = _find(request, request.POST.get("session", ""))
    if session is None:
        messages.info(request, "That session had ended before.")
    else:
        session.delete()
        messages.success(request, "The session is ended.")
    return redirect("accounts:security")


@require_POST
def end_others(request: SignedInRequest) -> HttpResponse:
    request.user.end_sessions(but=request.session.session_key)
    messages.success(request, "All other sessions are ended.")
    return redirect("accounts:security")


def _find(request: SignedInRequest, public_id: str) -> Session | None:
    """One of the user's sessions, but not the one that asks: that is signing out."""
    others = request.user.sessions.exclude(session_key=request.session.session_key)
    return next((one for one in others if one.public_id == public_id), None)

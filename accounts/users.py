"""User Management: who may do what on this account, and whom it invites."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from smtplib import SMTPException
from typing import NamedTuple

from django.conf import settings
from django.contrib import messages
from django.core.mail import send_mail
from django.db import models
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_GET,
    require_http_methods,
    require_POST,
)

from accounts.access import AccountRequest, link, requires
from accounts.forms import InvitationForm, RolesForm
from accounts.models import Invitation, LimitUse, User
from accounts.permissions import (
    Capability,
    Level,
    Product,
    Role,
    level_in,
    why_not_assign,
    why_not_manage,
)
from controlpanel.http import Conflict, TooMany, text_of

PAGE = 25
INVITATIONS_SHOWN = 50

log = logging.getLogger("panel.accounts")


class UserRow(NamedTuple):
    user: User
    roles: list[Role]
    is_home_user: bool
    refusal: str  # why the reader may not change this user; empty if they may

    @classmethod
    def read(cls, user: User, request: AccountRequest) -> "UserRow":
        roles = [role for role in Role if role in user.roles]
        return cls(
            user=user,
            roles=roles,
            is_home_user=user.home_account_id == request.account.pk,
            refusal=_refusal(request, user, roles),
        )

    @property
    def why_not_barred(self) -> str:
        """Why the reader may not deactivate this user; empty if they may."""
        if not self.is_home_user:
            return "Only the user's home account deactivates them."
        return self.refusal


class RoleChoice(NamedTuple):
    role: Role
    images: str
    servers: str
    manages_users: bool
    is_held: bool
    refusal: str


def _refusal(request: AccountRequest, user: User, roles: list[Role]) -> str:
    if user == request.user:
        return "Nobody changes their own roles."
    return why_not_manage(roles, by=_own_roles(request))


def _own_roles(request: AccountRequest) -> list[Role]:
    return [Role(role) for role in request.account.roles]


def _role_choices(request: AccountRequest, held: Iterable[str]) -> list[RoleChoice]:
    return [
        RoleChoice(
            role=role,
            images=level_in(Product.IMAGES, [role]).name.lower(),
            servers=level_in(Product.SERVERS, [role]).name.lower(),
            manages_users=level_in(Product.IDENTITY, [role]) > Level.NONE,
            is_held=role in held,
            refusal=why_not_assign([role], by=_own_roles(request)),
        )
        for role in Role
    ]


@require_GET
@requires(Capability.MANAGE_USERS)
def user_list(request: AccountRequest) -> HttpResponse:
    people = request.account.people().order_by("username")
    after = text_of(request, "after")
    found = list(
        people.filter(username__gt=after).fetch_mode(models.FETCH_RAISE)[: PAGE + 1]
    )
    invitations = request.account.invitations.open().order_by("-pk")
    context = {
        "nav": "users",
        "rows": [UserRow.read(user, request) for user in found[:PAGE]],
        "after": found[PAGE - 1].username if len(found) > PAGE else "",
        "is_later_page": bool(after),
        "invitations": invitations.fetch_mode(models.FETCH_RAISE)[:INVITATIONS_SHOWN],
    }
    return render(request, "accounts/users.html", context)


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_USERS)
def user(request: AccountRequest, user_id: int) -> HttpResponse:
    """One user's roles on this account."""
    row = UserRow.read(_get_user(request, user_id), request)
    if request.method == "GET":
        return _show_user(request, row)
    form = RolesForm(request.POST, held=row.roles, by=_own_roles(request))
    if not form.is_valid():
        return _show_user(request, row, form.problem, status=422)
    roles = form.cleaned_data["roles"]
    try:
        request.account.change_roles(roles, of=row.user, by=request.user)
    except Conflict as conflict:
        return _show_user(request, row, str(conflict), status=409)
    messages.success(request, f"The roles of {row.user} are changed.")
    return redirect(link(request, "accounts:users"))


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_USERS)
def remove(request: AccountRequest, user_id: int) -> HttpResponse:
    """Withdraw all roles that the user has on this account."""
    row = UserRow.read(_get_user(request, user_id), request)
    if request.method == "GET":
        return _confirm(request, row, "remove")
    try:
        request.account.change_roles([], of=row.user, by=request.user)
    except Conflict as conflict:
        return _show_user(request, row, str(conflict), status=409)
    messages.success(request, f"{row.user} has no role on this account any more.")
    return redirect(link(request, "accounts:users"))


@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_USERS)
def deactivate(request: AccountRequest, user_id: int) -> HttpResponse:
    row = UserRow.read(_get_user(request, user_id), request)
    if request.method == "GET":
        return _confirm(request, row, "deactivate")
    try:
        request.account.deactivate(row.user, by=request.user)
    except Conflict as conflict:
        return _show_user(request, row, str(conflict), status=409)
    messages.success(request, f"{row.user} is deactivated and signed out everywhere.")
    return redirect(link(request, "accounts:users"))


@require_POST
@requires(Capability.MANAGE_USERS)
def reactivate(request: AccountRequest, user_id: int) -> HttpResponse:
    someone = _get_user(request, user_id)
    request.account.reactivate(someone, by=request.user)
    messages.success(request, f"{someone} can sign in again.")
    return redirect(link(request, "accounts:users"))


def _get_user(request: AccountRequest, user_id: int) -> User:
    return get_object_or_404(request.account.people(), pk=user_id)


def _show_user(
    request: AccountRequest, row: UserRow, problem: str = "", *, status: int = 200
) -> HttpResponse:
    held = request.POST.getlist("roles") if problem else row.user.roles
    context = {
        "nav": "users",
        "row": row,
        "choices": _role_choices(request, held),
        "problem": problem,
    }
    return render(request, "accounts/user.html", context, status=status)


def _confirm(request: AccountRequest, row: UserRow, deed: str) -> HttpResponse:
    refusal = row.why_not_barred if deed == "deactivate" else row.refusal
    context = {"nav": "users", "row": row, "deed": deed, "refusal": refusal}
    return render(request, "accounts/confirm_user.html", context)


@never_cache
@require_http_methods(["GET", "POST"])
@requires(Capability.MANAGE_USERS)
def invite(request: AccountRequest) -> HttpResponse:
    if request.method == "GET":
        return _show_invite(request, InvitationForm())
    form = InvitationForm(request.POST)
    if not form.is_valid():
        return _show_invite(request, form, status=422)
    try:
        invitation = _invite(request, **form.cleaned_data)
    except TooMany as limit:
        form.add_error(None, str(limit))
        return _show_invite(request, form, status=429)
    # Shown in the answer itself: nowhere is the link kept.
    page = reverse("accounts:invitation", args=[invitation.token])
    address = request.build_absolute_uri(page)
    context = {
        "nav": "users",
        "invitation": invitation,
        "address": address,
        "is_mailed": _mail(invitation, address),
    }
    return render(request, "accounts/invited.html", context)


def _invite(request: AccountRequest, email: str, roles: set[Role]) -> Invitation:
    limit = settings.ACCOUNTS["invitations_per_day"]
    LimitUse.take(
        request.account,
        "invitations",
        limit=limit,
        per=timedelta(days=1),
        sentence=f"An account sends at most {limit} invitations a day.",
    )
    return Invitation.objects.invite(
        email, to=request.account, roles=roles, by=request.user
    )


def _mail(invitation: Invitation, address: str) -> bool:
    """Send the link; from here and by no job, whose arguments would be kept."""
    context = {
        "invitation": invitation,
        "address": address,
        "product_name": settings.PRODUCT_NAME,
    }
    text = render_to_string("accounts/invitation.txt", context)
    subject = f"Invitation to an account of {settings.PRODUCT_NAME}"
    try:
        send_mail(subject, text, None, [invitation.email])
    except (OSError, SMTPException):
        log.exception("an invitation could not be mailed")
        return False
    return True


def _show_invite(
    request: AccountRequest, form: InvitationForm, *, status: int = 200
) -> HttpResponse:
    context = {
        "nav": "users",
        "form": form,
        "choices": _role_choices(request, request.POST.getlist("roles")),
    }
    return render(request, "accounts/invite.html", context, status=status)


@require_POST
@requires(Capability.MANAGE_USERS)
def withdraw_invitation(request: AccountRequest, invitation_id: int) -> HttpResponse:
    invitation = get_object_or_404(request.account.invitations, pk=invitation_id)
    try:
        invitation.withdraw()
    except Conflict as conflict:
        context = {"message": str(conflict), "back": link(request, "accounts:users")}
        return render(request, "409.html", context, status=409)
    messages.success(request, "The invitation is withdrawn: its link is dead.")
    return redirect(link(request, "accounts:users"))

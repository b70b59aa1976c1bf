"""What somebody sees who opens the link of an invitation."""

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from accounts.forms import JoinForm
from accounts.models import Invitation
from accounts.security import SignedInRequest
from accounts.signin import sign_in
from controlpanel.http import Conflict, TooMany

BACKEND = "django.contrib.auth.backends.ModelBackend"


@login_not_required
@never_cache
@require_GET
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    return _show(request, _get_invitation(token), token, JoinForm())


@never_cache
@require_POST
def accept(request: SignedInRequest, token: str) -> HttpResponse:
    """Take the roles as the user who is signed in."""
    invited = _get_invitation(token)
    try:
        invited.accept(by=request.user)
    except Conflict as conflict:
        if invited.accepted_by_id != request.user.pk:
            return _show_closed(request, str(conflict))
    else:
        messages.success(request, f"You have a role on {invited.account} now.")
    return redirect("accounts:enter", invited.account_id)


@login_not_required
@never_cache
@sensitive_post_parameters("password1", "password2")
@require_POST
def join(request: HttpRequest, token: str) -> HttpResponse:
    """Become a new user, at home in the account that invites."""
    invited = _get_invitation(token)
    if why := invited.why_closed:
        return _show_closed(request, why)
    try:
        invited.count_try()
    except TooMany as limit:
        context = {"message": str(limit), "back": request.path.removesuffix("join/")}
        return render(request, "429.html", context, status=429)
    form = JoinForm(request.POST)
    if not form.is_valid():
        return _show(request, invited, token, form, status=422)
    try:
        user = invited.join(
            form.cleaned_data["username"], form.cleaned_data["password1"]
        )
    except Conflict as conflict:
        form.add_error(None, str(conflict))
        return _show(request, invited, token, form, status=409)
    sign_in(request, user, BACKEND)
    messages.success(request, f"Welcome, {user}. You are signed in.")
    return redirect("accounts:enter", invited.account_id)


def _get_invitation(token: str) -> Invitation:
    invited = Invitation.objects.with_token(token).select_related("account").first()
    if invited is None:
        raise Http404
    return invited


def _show(
    request: HttpRequest,
    invited: Invitation,
    token: str,
    form: JoinForm,
    *,
    status: int = 200,
) -> HttpResponse:
    if why := invited.why_closed:
        return _show_closed(request, why)
    context = {"invitation": invited, "token": token, "form": form}
    return render(request, "accounts/invitation.html", context, status=status)


def _show_closed(request: HttpRequest, why: str) -> HttpResponse:
    context = {"why": why}
    return render(request, "accounts/invitation_closed.html", context, status=409)

"""The page API Access: one's keys for programs, and how the clients are set up."""

import json
from datetime import timedelta
from urllib.parse import quote
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from accounts.access import AccountRequest, link, requires
from accounts.forms import CredentialForm
from accounts.models import ApplicationCredential
from accounts.permissions import Capability, Role
from controlpanel.http import Conflict, TooMany, leave_for, render_page

CLOUD = "skyhook"


@never_cache
@require_http_methods(["GET", "POST"])
@requires(Capability.VIEW_ACCOUNT)
def api_access(request: AccountRequest) -> HttpResponse:
    """One's own credentials on this account; making one shows its secret, once."""
    held = [Role(role) for role in sorted(request.account.roles)]
    posted = request.POST if request.method == "POST" else None
    form = CredentialForm(posted, held=held)
    if form.is_valid():
        days = form.cleaned_data["days"]
        try:
            made = ApplicationCredential.objects.make(
                request.user,
                request.account,
                name=form.cleaned_data["name"],
                roles=form.cleaned_data["roles"],
                expires_at=timezone.now() + timedelta(days=days) if days else None,
            )
        except (Conflict, TooMany) as refusal:
            form.add_error("name", str(refusal))
        else:
            return _show_made(request, made)
    mine = request.account.credentials.filter(user=request.user)
    context = {
        "nav": "api-access",
        "form": form,
        "credentials": mine,
        "cloud": CLOUD,
        "clouds_yaml": _clouds_yaml(request, _password_auth(request)),
        "auth_url": _auth_url(request),
        "region": request.region or request.account.home_region,
    }
    status = 422 if form.errors else 200
    return render(request, "accounts/api_access.html", context, status=status)


@require_GET
@requires(Capability.VIEW_ACCOUNT)
def clouds_yaml(request: AccountRequest) -> HttpResponse:
    """The clients' file for signing in with one's password, which they ask for."""
    text = _clouds_yaml(request, _password_auth(request))
    name = 'attachment; filename="clouds.yaml"'
    headers = {"Content-Disposition": name}
    return HttpResponse(text, content_type="application/yaml", headers=headers)


@require_http_methods(["GET", "POST"])
@requires(Capability.VIEW_ACCOUNT)
def delete_credential(request: AccountRequest, credential_id: UUID) -> HttpResponse:
    mine = request.account.credentials.filter(user=request.user)
    credential = get_object_or_404(mine, pk=credential_id)
    if request.method == "GET":
        context = {"nav": "api-access", "credential": credential}
        template = "accounts/credential_delete.html"
        return render_page(request, template, context, partial="sheet")
    credential.delete()
    messages.success(request, f"{credential} is deleted; nothing signs in with it now.")
    return leave_for(request, link(request, "accounts:api-access"))


def _show_made(request: AccountRequest, made: ApplicationCredential) -> HttpResponse:
    auth = {
        "auth_url": _auth_url(request),
        "application_credential_id": made.pk.hex,
        "application_credential_secret": made.secret,
    }
    text = _clouds_yaml(request, auth, kind="v3applicationcredential")
    context = {
        "nav": "api-access",
        "credential": made,
        "secret": made.secret,
        "cloud": CLOUD,
        "clouds_yaml": text,
        # The secret is kept nowhere, so the file is in this page or nowhere.
        "download": f"data:application/yaml;charset=utf-8,{quote(text)}",
    }
    return render(request, "accounts/credential_made.html", context)


def _password_auth(request: AccountRequest) -> dict[str, str]:
    return {
        "auth_url": _auth_url(request),
        "username": request.user.get_username(),
        "user_domain_name": "Default",
        "project_id": request.account.pk,
    }


def _auth_url(request: AccountRequest) -> str:
    return request.build_absolute_uri("/identity/v3")


def _clouds_yaml(
    request: AccountRequest, auth: dict[str, str], *, kind: str = "v3password"
) -> str:
    """As the clients look for it in ~/.config/openstack; each value a JSON string,
    which YAML reads as it is, whatever somebody has put into a name. They take the
    first region if none is named, and refuse to name one that is not in the list.
    """
    region = request.region.code if request.region else request.account.home_region_id
    others = [each.code for each in request.regions if each.code != region]
    lines = [
        "clouds:",
        f"  {CLOUD}:",
        f"    auth_type: {kind}",
        "    auth:",
        *(f"      {name}: {json.dumps(text)}" for name, text in auth.items()),
        f"    region_name: {json.dumps(region)}",
        f"    regions: {json.dumps([region, *others])}",
        "    identity_api_version: 3",
    ]
    return "\n".join(lines) + "\n"

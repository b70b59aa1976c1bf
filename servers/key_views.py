"""The SSH keys of an account."""

from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_http_methods

from accounts.access import AccountRequest, RoleMissing, link, requires
from accounts.permissions import Capability
from controlpanel.http import TooMany, leave_for, render_page
from servers.forms import KeyForm
from servers.models import SSHKey


@require_http_methods(["GET", "POST"])
@requires(Capability.VIEW_SERVERS)
def keys(request: AccountRequest) -> HttpResponse:
    """The list, with a form below it for those who may add."""
    posted = request.method == "POST"
    if posted and Capability.CREATE_SERVERS not in request.capabilities:
        raise RoleMissing(request.account, Capability.CREATE_SERVERS)
    form = KeyForm(request.POST if posted else None, account=request.account)
    if form.is_valid():
        try:
            key = SSHKey.add(request.account, by=request.user, **form.cleaned_data)
        except (SSHKey.Taken, TooMany) as refusal:
            form.add_error("name", str(refusal))
        else:
            messages.success(request, f"The key {key} is kept.")
            return leave_for(request, link(request, "servers:keys"))
    context = {"nav": "keys", "form": form, "keys": request.account.ssh_keys.all()}
    status = 422 if form.errors else 200
    return render_page(
        request, "servers/keys.html", context, partial="key-form", status=status
    )


@require_http_methods(["GET", "POST"])
@requires(Capability.CREATE_SERVERS)
def key_delete(request: AccountRequest, key_id: UUID) -> HttpResponse:
    key = get_object_or_404(request.account.ssh_keys.all(), pk=key_id)
    if request.method == "GET":
        context = {"nav": "keys", "key": key}
        return render_page(request, "servers/key_delete.html", context, partial="sheet")
    key.delete()
    messages.success(request, f"The key {key} is deleted.")
    return leave_for(request, link(request, "servers:keys"))

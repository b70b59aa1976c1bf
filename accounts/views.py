from django.contrib import messages
from django.db.models.fields.tuple_lookups import Tuple, TupleGreaterThan
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from accounts.access import AccountRequest, link, requires
from accounts.forms import AccountForm
from accounts.models import Account, LimitUse, Quota
from accounts.permissions import Capability, Role, capabilities_of
from accounts.security import SignedInRequest
from controlpanel.http import render_page, text_of

PAGE = 25


@require_GET
def home(request: SignedInRequest) -> HttpResponse:
    """Lead to an account: the home account first, then the last used, then any."""
    account = Account.objects.open_to(request.user).best_first(request.user).first()
    if account is None:
        return render(request, "accounts/no_account.html")
    return redirect(_first_page(account), account.pk)


@require_GET
@requires(Capability.VIEW_ACCOUNT)
def enter(request: AccountRequest) -> HttpResponse:
    """Lead to the account's first page, and come back to it next time."""
    request.user.enter(request.account)
    return redirect(_first_page(request.account), request.account.pk)


def _first_page(account: Account) -> str:
    able = capabilities_of([Role(role) for role in account.roles])
    return "images:list" if Capability.VIEW_IMAGES in able else "servers:list"


@require_GET
def switch(request: SignedInRequest) -> HttpResponse:
    """The accounts to choose from; in the account menu, the first of them."""
    name, _, number = text_of(request, "after").rpartition("|")
    accounts = Account.objects.open_to(request.user).order_by("name", "pk")
    if number:
        accounts = accounts.filter(
            TupleGreaterThan(Tuple("name", "number"), (name, number))
        )
    found = list(accounts[: PAGE + 1])
    context = {
        "accounts": found[:PAGE],
        "current": request.GET.get("from", ""),
        "is_later_page": bool(number),
        "after": f"{found[PAGE - 1].name}|{found[PAGE - 1].pk}"
        if len(found) > PAGE
        else "",
    }
    return render_page(
        request, "accounts/switch.html", context, partial="account-choices"
    )


@require_GET
@requires(Capability.VIEW_ACCOUNT)
def account(request: AccountRequest) -> HttpResponse:
    return _show_account(
        request, AccountForm(account=request.account, regions=request.regions)
    )


@require_POST
@requires(Capability.EDIT_ACCOUNT)
def edit(request: AccountRequest) -> HttpResponse:
    form = AccountForm(request.POST, account=request.account, regions=request.regions)
    if not form.is_valid():
        return _show_account(request, form, status=422)
    request.account.edit(**form.cleaned_data)
    messages.success(request, "The account is changed.")
    return redirect(link(request, "accounts:account"))


# What a user sees none of, they do not see counted either.
_SEEN_WITH = {
    Quota.SERVERS: Capability.VIEW_SERVERS,
    Quota.MEMORY_MB: Capability.VIEW_SERVERS,
    Quota.IMAGES: Capability.VIEW_IMAGES,
    Quota.IMAGE_BYTES: Capability.VIEW_IMAGES,
}


@require_GET
@requires(Capability.VIEW_ACCOUNT)
def limits(request: AccountRequest) -> HttpResponse:
    seen = [quota for quota in Quota if _SEEN_WITH[quota] in request.capabilities]
    context = {
        "nav": "account",
        "quotas": request.account.quota_uses(*seen),
        "limits": LimitUse.objects.running(request.account),
    }
    return render(request, "accounts/limits.html", context)


def _show_account(
    request: AccountRequest, form: AccountForm, *, status: int = 200
) -> HttpResponse:
    context = {
        "nav": "account",
        "form": form,
        "roles": [Role(role) for role in sorted(request.account.roles)],
    }
    return render(request, "accounts/account.html", context, status=status)

"""The gate of every page of an account, and the links between such pages."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, cast

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from accounts.models import Account, User
from accounts.permissions import Capability, Role, capabilities_of, roles_for
from accounts.regions import RegionChoice, region_of
from controlpanel.http import HtmxRequest


class AccountRequest(HtmxRequest):
    """A request that @requires has let through."""

    user: User
    account: Account
    capabilities: frozenset[Capability]
    regions: list[RegionChoice]
    region: RegionChoice | None


class RoleMissing(PermissionDenied):
    """The user's roles on the account do not allow it; the text says which would."""

    def __init__(self, account: Account, capability: Capability) -> None:
        super().__init__(f"This needs {roles_for(capability)}.")
        self.account, self.capability = account, capability

    @property
    def holders(self) -> list[str]:
        return self.account.holders_of(self.capability)


View = Callable[..., HttpResponse]


def requires(capability: Capability) -> Callable[[View], View]:
    """Open the account named in the URL to users whose roles give the capability.

    Strangers get 404, so that accounts cannot be discovered; users whose roles
    fall short get 403, and so do all users of a suspended account. One query
    fetches account, roles and regions.
    """

    def decorator(view: View) -> View:
        @wraps(view)
        def wrapper(
            request: AccountRequest, account_number: str, **kwargs: Any
        ) -> HttpResponse:
            account = Account.objects.enter(account_number, request.user)
            if account is None:
                raise Http404
            if account.is_suspended:
                context = {"suspended": account}
                return render(request, "accounts/suspended.html", context, status=403)
            request.account = account
            request.capabilities = capabilities_of([Role(r) for r in account.roles])
            request.regions = [RegionChoice.read(e) for e in account.region_entries]
            if capability not in request.capabilities:
                raise RoleMissing(account, capability)
            request.region = region_of(request, request.regions)
            return view(request, **kwargs)

        # Only the architecture test reads it: each page of an account has its gate.
        cast(Any, wrapper).capability = capability
        return wrapper

    return decorator


def link(request: AccountRequest, view: str, *args: object) -> str:
    """The address of a page of the same account, narrowed to the same region."""
    region = getattr(request, "region", None)
    path = address(view, request.account.number, *args)
    return f"{path}?region={region.code}" if region else path


@lru_cache(maxsize=4096)
def address(view: str, *args: object) -> str:
    """As reverse(); kept, since a page has the same links each time it is asked for."""
    return reverse(view, args=args)

"""The gate of every operation of the API: whose token it is, and what they may do.

Modules with operations do without `from __future__ import annotations`: ninja reads
the signature behind a decorator, where names as text cannot be looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from ninja.security import APIKeyHeader

from accounts.models import Account, Caller, Token, User
from accounts.permissions import Capability, roles_for
from controlpanel.api import rates
from controlpanel.api.faults import Fault, Forbidden, NotFound

TOO_FAST = "At most {} requests a minute are answered for an account."
UNSCOPED = "This needs a token for a project (an account), and yours is for none."


class ApiRequest(HttpRequest):
    """A request that TokenAuth has let through; `account` is there after @requires."""

    caller: Caller
    user: User
    account: Account


class TokenAuth(APIKeyHeader):
    """A valid token in X-Auth-Token, by one query; everything else is 401."""

    param_name = "X-Auth-Token"

    def authenticate(self, request: HttpRequest, key: str | None) -> Caller | None:
        caller = Token.objects.find(key) if key else None
        if caller is None:
            return None
        let_in = cast(ApiRequest, request)
        let_in.caller, let_in.user = caller, caller.user
        whose = caller.account.pk if caller.account else f"user {caller.user.pk}"
        most = settings.API["requests_per_minute"]
        if seconds := rates.requests.take(whose, per_minute=most):
            raise Fault(429, TOO_FAST.format(most), Retry_After=str(seconds))
        return caller


Operation = Callable[..., HttpResponseBase]


def requires(capability: Capability) -> Callable[[Operation], Operation]:
    """Let through whose token gives the capability, in a region that there is.

    An operation names its region as `region`. 403 where the roles fall short.
    """

    def decorator(operation: Operation) -> Operation:
        @wraps(operation)
        def wrapper(request: ApiRequest, **kwargs: Any) -> HttpResponseBase:
            insist_on(request, capability)
            known = {region.code for region in request.caller.regions}
            if "region" in kwargs and kwargs["region"] not in known:
                raise NotFound
            return operation(request, **kwargs)

        # Only the architecture test reads it: each operation has its gate.
        cast(Any, wrapper).capability = capability
        return wrapper

    return decorator


def insist_on(request: ApiRequest, capability: Capability) -> None:
    """Raise Forbidden unless the token gives the capability on its account."""
    caller = request.caller
    if caller.account is None:
        raise Forbidden(UNSCOPED)
    if capability not in caller.capabilities:
        raise Forbidden(f"This needs {roles_for(capability)}.")
    request.account = caller.account

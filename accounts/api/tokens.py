"""Tokens: how a client proves whose it is, and for which account it will speak."""

from typing import Any
from uuid import UUID

from axes.handlers.proxy import AxesProxyHandler
from django.conf import settings
from django.contrib.auth import authenticate
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.debug import sensitive_variables
from ninja import Router, Schema
from pydantic import Field, SecretStr

from accounts.api.bodies import DOMAIN, token_body
from accounts.api.gate import ApiRequest
from accounts.models import Account, ApplicationCredential, Caller, Token, User
from accounts.signin import answer_for_axes, client_address, count_failure
from controlpanel.api import rates
from controlpanel.api.describe import Parameters, describe
from controlpanel.api.faults import BadRequest, Fault, NotFound

router = Router(tags=["Tokens"])

# Sign-ins from one address, in one web process: each costs a slow hash.
SIGN_INS_PER_MINUTE = 60
REFUSED = "The request you have made requires authentication."
LOCKED = (
    "Too many failed attempts with this username from this place. Wait {} minutes; "
    "until then the right password is refused too."
)
SUSPENDED = "The account {} is suspended."
ONE_PROJECT = "An application credential is for its own project alone."
SUBJECT: Parameters = {"X-Subject-Token": "The token that is asked about"}
EXAMPLE = {
    "auth": {
        "identity": {
            "methods": ["password"],
            "password": {
                "user": {
                    "name": "alice",
                    "domain": {"name": "Default"},
                    "password": "a long pass phrase",
                }
            },
        },
        "scope": {"project": {"id": "82000118"}},
    }
}


class DomainIn(Schema):
    id: str | None = None
    name: str | None = None


class UserIn(Schema):
    id: str | None = None
    name: str | None = None
    domain: DomainIn | None = None
    password: SecretStr | None = None


class PasswordIn(Schema):
    user: UserIn


class TokenIn(Schema):
    id: SecretStr


class CredentialIn(Schema):
    id: str | None = None
    name: str | None = None
    secret: SecretStr
    user: UserIn | None = None


class IdentityIn(Schema):
    methods: list[str] = Field(min_length=1, max_length=5)
    password: PasswordIn | None = None
    token: TokenIn | None = None
    application_credential: CredentialIn | None = None


class ProjectIn(Schema):
    id: str | None = None
    name: str | None = None
    domain: DomainIn | None = None


class ScopeIn(Schema):
    project: ProjectIn | None = None
    domain: DomainIn | None = None
    system: dict[str, Any] | None = None


class AuthIn(Schema):
    identity: IdentityIn
    # The word "unscoped" asks for a token for no account.
    scope: ScopeIn | str | None = None


class SignIn(Schema):
    auth: AuthIn


@router.post(
    "/auth/tokens",
    auth=None,
    summary="Get a token",
    response={201: dict[str, Any]},
    openapi_extra=describe(401, 429, example=EXAMPLE),
)
@sensitive_variables()
def create_token(
    request: HttpRequest, body: SignIn, nocatalog: str | None = None
) -> HttpResponse:
    """By password, by another token, or by an application credential.

    For the project of the scope; without a scope for the user's home account. The token
    comes in the header X-Subject-Token.
    """
    address = client_address(request) or ""
    if seconds := rates.sign_ins.take(address, per_minute=SIGN_INS_PER_MINUTE):
        raise Fault(429, "Too many sign-ins from here.", Retry_After=str(seconds))
    auth = body.auth
    match auth.identity.methods:
        case ["password"]:
            token = _by_password(request, auth)
        case ["token"]:
            token = _by_token(auth)
        case ["application_credential"]:
            token = _by_credential(auth)
        case _:
            raise BadRequest(
                "Expecting one method: password, token or application_credential."
            )
    caller = Token.objects.find(token.plain)
    if caller is None:  # roles or password changed in this very moment
        raise Fault(401, REFUSED)
    return JsonResponse(
        token_body(request, caller, with_catalog=nocatalog is None),
        status=201,
        headers={"X-Subject-Token": token.plain},
    )


@router.get(
    "/auth/tokens",
    summary="Look at a token",
    response=dict[str, Any],
    openapi_extra=describe(404, needed=SUBJECT),
)
def show_token(request: ApiRequest, nocatalog: str | None = None) -> HttpResponse:
    """What the token in X-Subject-Token stands for: one's own tokens only."""
    plain, caller = _subject(request)
    body = token_body(request, caller, with_catalog=nocatalog is None)
    return JsonResponse(body, headers={"X-Subject-Token": plain})


@router.api_operation(
    ["HEAD"],
    "/auth/tokens",
    summary="Ask whether a token is valid",
    openapi_extra=describe(404, needed=SUBJECT),
)
def check_token(request: ApiRequest) -> HttpResponse:
    plain, _ = _subject(request)
    return HttpResponse(headers={"X-Subject-Token": plain})


@router.delete(
    "/auth/tokens",
    summary="Revoke a token",
    response={204: None},
    openapi_extra=describe(404, needed=SUBJECT),
)
def revoke_token(request: ApiRequest) -> HttpResponse:
    """End the token in X-Subject-Token, which is one's own."""
    plain, _ = _subject(request)
    Token.objects.revoke(plain)
    return HttpResponse(status=204)


def _subject(request: ApiRequest) -> tuple[str, Caller]:
    plain = request.headers.get("X-Subject-Token", "")
    caller = Token.objects.find(plain) if plain else None
    if caller is None or caller.user.pk != request.caller.user.pk:
        raise NotFound("Could not find token.")
    return plain, caller


def _by_password(request: HttpRequest, auth: AuthIn) -> Token:
    given = auth.identity.password
    if given is None or given.user.password is None:
        raise BadRequest("Expecting to find user and password in the method password.")
    user = _authenticate(request, given.user, given.user.password.get_secret_value())
    if user is None or not _is_default(given.user.domain):
        raise Fault(401, REFUSED)
    return Token.objects.issue(user, _scope(user, auth.scope), methods=["password"])


@sensitive_variables()
def _authenticate(request: HttpRequest, given: UserIn, password: str) -> User | None:
    """A name or an ID that nobody has costs as much as one that somebody has.

    Failures by ID count for the username, and for the ID, which alone decides of 429:
    else the answer would tell which IDs there are, and whose name is locked out.
    """
    username, counted = _username(given), _counted_as(given)
    if len(counted) > (User._meta.get_field("username").max_length or 0):
        return None  # nobody's, and too long to be counted
    _insist_on_patience(request, counted)
    if not AxesProxyHandler.is_allowed(request, {"username": username}):
        User().set_password(password)  # as long as the check takes, which is left out
    user = authenticate(request, username=username, password=password)
    if isinstance(user, User):
        return user
    if counted != username:
        count_failure(request, counted)
    answer_for_axes(request)
    _insist_on_patience(request, counted)
    return None


def _insist_on_patience(request: HttpRequest, username: str) -> None:
    if not AxesProxyHandler.is_allowed(request, {"username": username}):
        seconds = round(settings.AXES_COOLOFF_TIME.total_seconds())
        sentence = LOCKED.format(seconds // 60)
        raise Fault(429, sentence, Retry_After=str(seconds))


def _by_token(auth: AuthIn) -> Token:
    given = auth.identity.token
    if given is None:
        raise BadRequest("Expecting to find id in the method token.")
    caller = Token.objects.find(given.id.get_secret_value())
    if caller is None:
        raise Fault(401, REFUSED)
    account = _scope(caller.user, auth.scope)
    credential = None
    if caller.credential_id:
        if account != caller.account:
            raise Fault(401, ONE_PROJECT)
        credentials = ApplicationCredential.objects.unexpired()
        credential = credentials.filter(pk=caller.credential_id).first()
        if credential is None:  # deleted in this very moment
            raise Fault(401, REFUSED)
    return Token.objects.issue(
        caller.user,
        account,
        methods=sorted({*caller.methods, "token"}),
        credential=credential,
        expires_at=caller.expires_at,
    )


def _by_credential(auth: AuthIn) -> Token:
    given = auth.identity.application_credential
    if given is None:
        raise BadRequest("Expecting to find application_credential.")
    credential = _credential(given)
    secret = given.secret.get_secret_value()
    if credential is None or not credential.is_opened_by(secret):
        raise Fault(401, REFUSED)
    account = credential.account
    if isinstance(auth.scope, ScopeIn) and _named(auth.scope, [account]) != account:
        raise Fault(401, ONE_PROJECT)
    _insist_on_active(account)
    if not account.roles_of(credential.user) & set(credential.roles):
        raise Fault(401, REFUSED)
    return Token.objects.issue(
        credential.user,
        account,
        methods=["application_credential"],
        credential=credential,
    )


def _credential(given: CredentialIn) -> ApplicationCredential | None:
    """By its ID, or by its name and its user."""
    credentials = ApplicationCredential.objects.unexpired().select_related(
        "user", "account"
    )
    if given.id is not None:
        try:
            return credentials.filter(pk=UUID(given.id)).first()
        except ValueError:
            return None
    if given.name is None or given.user is None or not _is_default(given.user.domain):
        return None
    return credentials.filter(
        name=_text(given.name), user__username=_username(given.user)
    ).first()


def _username(user: UserIn) -> str:
    if user.id is None:
        return _text(user.name or "")
    is_one = user.id.isascii() and user.id.isdigit() and len(user.id) < 10
    is_one = is_one and not user.id.startswith("0")
    found = User.objects.filter(pk=int(user.id)).first() if is_one else None
    return found.get_username() if found else _counted_as(user)


def _counted_as(user: UserIn) -> str:
    # No username has a space.
    return _text(user.name or "") if user.id is None else f"id {_text(user.id)}"


def _scope(user: User, scope: ScopeIn | str | None) -> Account | None:
    """The account that a token is asked for, among those where the user has a role."""
    if scope == "unscoped":
        return None
    accounts = list(Account.objects.open_to(user).best_first(user))
    if scope is None:
        home = [each for each in accounts if each.pk == user.home_account_id]
        return home[0] if home and not home[0].is_suspended else None
    account = _named(scope, accounts) if isinstance(scope, ScopeIn) else None
    if account is None:
        raise Fault(401, REFUSED)
    _insist_on_active(account)
    return account


def _named(scope: ScopeIn, accounts: list[Account]) -> Account | None:
    """By number, or by a name that only one of them has."""
    project = scope.project
    if project is None or not _is_default(project.domain):
        return None
    if project.id is not None:
        found = [each for each in accounts if each.pk == project.id]
    else:
        found = [each for each in accounts if each.name == project.name]
    return found[0] if len(found) == 1 else None


def _insist_on_active(account: Account) -> None:
    if account.is_suspended:
        raise Fault(401, SUSPENDED.format(account.pk))


def _is_default(domain: DomainIn | None) -> bool:
    """There is one domain; whoever names none means it."""
    if domain is None:
        return True
    # Without regard to case, as Keystone on MySQL: many openrc files say default.
    given = {text.lower() for text in (domain.id, domain.name) if text is not None}
    return given <= {DOMAIN["id"].lower(), DOMAIN["name"].lower()}


def _text(text: str) -> str:
    """Without the one character that PostgreSQL keeps none of."""
    return text.replace("\0", "")

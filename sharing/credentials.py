"""Check somebody's username and password once, to share with an account of theirs.

Whatever fails, the answer is one sentence, and the work behind it is alike: a guesser
learns neither whether a user exists, nor whether a password was right, nor which
roles there are.
"""

from datetime import timedelta
from typing import NamedTuple

from axes.handlers.proxy import AxesProxyHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth import authenticate
from django.core import signing
from django.db.models import Exists, OuterRef, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from accounts.models import Account, LimitUse, RoleGrant, User
from accounts.permissions import Capability, roles_giving
from accounts.signin import answer_for_axes, count_failure
from images.models import Image

REFUSED = (
    "This did not work. Check username and password, and that the user has "
    "cloudImages:admin or greater on another account; after several failures, "
    "wait a quarter of an hour."
)
USED_UP = (
    "This account has checked {} usernames and passwords within an hour, which is "
    "the limit. Wait an hour, or share by account number."
)
# Failures for one username from anywhere, the sign-in page included, within the time
# for which axes locks.
MOST_FAILURES = 20
SALT, TOKEN_SECONDS = "sharing.credentials", 300


class CredentialRefused(Exception):
    """No account can be shared with by this credential; nobody is told why."""

    def __init__(self) -> None:
        super().__init__(REFUSED)


class Access(NamedTuple):
    """A user who may accept images, and the accounts where."""

    user: User
    accounts: list[Account]


def accounts_answered_by(user: User, *, but: Account) -> list[Account]:
    """Active accounts where the user may accept an image."""
    grants = RoleGrant.objects.filter(
        user=user,
        content_object=OuterRef("pk"),
        permission__codename__in=roles_giving(Capability.ANSWER_SHARES),
    )
    accounts = Account.objects.get_queryset().filter(
        Exists(grants), status=Account.Status.ACTIVE
    )
    return list(accounts.exclude(pk=but.pk).order_by("name", "pk")[:100])


@sensitive_variables("password")
def check(
    request: HttpRequest, account: Account, *, username: str, password: str
) -> Access:
    """Where the user of this credential may accept what the account shares.

    Raises TooMany when the account has used up its checks, else CredentialRefused.
    """
    limit = settings.SHARING["credential_checks_per_hour"]
    LimitUse.take(
        account,
        "credential checks",
        limit=limit,
        per=timedelta(hours=1),
        sentence=USED_UP.format(limit),
    )
    user = _authenticate(request, username, password)
    # Asked for nobody as well, so that a wrong password takes as long.
    accounts = accounts_answered_by(user or User(pk=0), but=account)
    if user and not accounts:
        # A right password that opens nothing counts as a wrong one.
        count_failure(request, username)
        answer_for_axes(request)
    if user is None or not accounts:
        raise CredentialRefused
    return Access(user, accounts)


@sensitive_variables("password")
def _authenticate(request: HttpRequest, username: str, password: str) -> User | None:
    if _is_locked(request, username):
        User().set_password(password)  # as long as a check takes
        return None
    user = authenticate(request, username=username, password=password)
    answer_for_axes(request)
    return user if isinstance(user, User) else None


def _is_locked(request: HttpRequest, username: str) -> bool:
    since = timezone.now() - settings.AXES_COOLOFF_TIME
    attempts = AccessAttempt.objects.filter(username=username, attempt_time__gte=since)
    failures = attempts.aggregate(sum=Sum("failures_since_start"))["sum"] or 0
    allowed = AxesProxyHandler.is_allowed(request, {"username": username})
    return failures >= MOST_FAILURES or not allowed


def sign_access(access: Access, *, image: Image, by: User) -> str:
    """A proof of the check for the next step, where the account is chosen."""
    return signing.dumps([access.user.pk, str(image.pk), by.pk], salt=SALT)


def read_access(token: str, *, image: Image, by: User, but: Account) -> Access:
    """What was signed, asked anew; raises CredentialRefused if it is not, or old."""
    try:
        user_pk, image_pk, actor_pk = signing.loads(
            token, salt=SALT, max_age=TOKEN_SECONDS
        )
    except signing.BadSignature as bad:
        raise CredentialRefused from bad
    user = User.objects.filter(pk=user_pk, is_active=True).first()
    if user is None or (image_pk, actor_pk) != (str(image.pk), by.pk):
        raise CredentialRefused
    return Access(user, accounts_answered_by(user, but=but))

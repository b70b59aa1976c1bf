from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from functools import cache

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.exceptions import PermissionDenied
from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models import Case, Exists, F, OuterRef, Value, When
from django.db.models.functions import Concat
from django.utils import timezone
from guardian.models import UserObjectPermissionBase
from guardian.shortcuts import assign_perm, remove_perm

from accounts import numbers
from accounts.permissions import (
    Capability,
    Role,
    roles_giving,
    why_not_assign,
    why_not_manage,
)
from controlpanel.http import Conflict, TooMany
from controlpanel.prepared import Gap, Prepared


class Region(models.Model):
    """A place of the cloud, and the name of the backend that serves it.

    An image and a server live in exactly one.
    """

    code = models.CharField(
        max_length=16,
        primary_key=True,
        validators=[RegexValidator("^[A-Z][A-Z0-9-]*$", "Capital letters and digits.")],
    )
    name = models.CharField(max_length=100)
    backend = models.CharField(max_length=50, default="local")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(code__regex="^[A-Z][A-Z0-9-]*$"),
                name="accounts_region_code_valid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"


class AccountQuerySet(models.QuerySet["Account"]):
    def open_to(self, user: User | Gap) -> AccountQuerySet:
        """Accounts in which the user has a role, each with all the user's roles."""
        held = RoleGrant.objects.filter(
            user=user,
            content_object=OuterRef("pk"),
            permission__codename__in=Role.values,
        )
        return self.filter(Exists(held)).annotate(  # type: ignore[no-redef]
            roles=ArraySubquery(held.values("permission__codename"))
        )

    def best_first(self, user: User) -> AccountQuerySet:
        """The user's home account, then the last used, then by name; not suspended."""
        rank = Case(
            When(status=Account.Status.SUSPENDED, then=3),
            When(pk=user.home_account_id, then=0),
            When(pk=user.last_account_id, then=1),
            default=2,
        )
        return self.order_by(rank, "name", "pk")

    def with_regions(self) -> AccountQuerySet:
        """Each account with all regions of the cloud, as "IAD Northern Virginia"."""
        entry = Concat("code", Value(" "), "name", output_field=models.TextField())
        regions = Region.objects.order_by("name").values(entry=entry)
        return self.annotate(region_entries=ArraySubquery(regions))  # type: ignore[no-redef]


class AccountManager(models.Manager["Account"]):
    def get_queryset(self) -> AccountQuerySet:
        return AccountQuerySet(self.model, using=self._db)

    def open_to(self, user: User) -> AccountQuerySet:
        return self.get_queryset().open_to(user)

    def with_regions(self) -> AccountQuerySet:
        return self.get_queryset().with_regions()

    def enter(self, number: str, user: User) -> Account | None:
        """The account of a page's URL, as open_to() and with_regions() fetch it.

        None for a stranger. Every page begins with this, so its SQL is kept.
        """
        row = _entrance().first({"number": number, "user": user.pk})
        if row is None:
            return None
        *fields, roles, entries = row
        account = Account.from_db(self.db, _FIELDS, fields)
        account.roles, account.region_entries = roles, entries
        return account

    def open(self, *, name: str, home_region: Region) -> Account:
        """Open an account under a number that nobody has or had."""
        for _ in range(20):
            account = Account(
                number=numbers.random_number(), name=name, home_region=home_region
            )
            try:
                with transaction.atomic():
                    account.save(force_insert=True)
            except IntegrityError:
                continue  # taken: draw again
            return account
        raise Conflict("No free account number was found; try again.")


@cache
def _entrance() -> Prepared:
    entered = AccountQuerySet(Account).open_to(Gap("user")).with_regions()
    return Prepared(
        entered.filter(number=Gap("number")).values_list(
            *_FIELDS, "roles", "region_entries"
        )
    )


class Account(models.Model):
    """A customer of the cloud: it owns images and servers, and users have roles in it.

    Its number is its key: 8 digits with a check digit, never changed and never given
    out again, since an account is closed and not deleted.
    """

    class Status(models.TextChoices):
        ACTIVE = "active", "Active"
        SUSPENDED = "suspended", "Suspended"

    number = models.CharField(max_length=8, primary_key=True, editable=False)
    name = models.CharField(max_length=100)
    home_region = models.ForeignKey(
        Region, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    status = models.CharField(
        max_length=10, choices=Status, default=Status.ACTIVE, editable=True
    )
    discoverable = models.BooleanField(
        default=False,
        help_text="Whoever types this account's number is shown its name.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = AccountManager()

    # For the type checker: only open_to() and with_regions() fetch them.
    roles: list[str]
    region_entries: list[str]

    class Meta:
        permissions = [(role.value, role.label) for role in Role]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(number__regex="^[0-9]{8}$"),
                name="accounts_account_number_digits",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=["active", "suspended"]),
                name="accounts_account_status_valid",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.number})"

    @property
    def is_suspended(self) -> bool:
        return self.status == self.Status.SUSPENDED

    def suspend(self) -> None:
        """Refuse its users, and new servers from its images; nothing is lost."""
        self._set_status(self.Status.SUSPENDED)

    def reinstate(self) -> None:
        self._set_status(self.Status.ACTIVE)

    def _set_status(self, status: Status) -> None:
        Account.objects.filter(pk=self.pk).update(status=status)
        self.status = status

    def edit(self, *, name: str, home_region: str, discoverable: bool) -> None:
        """Write what the account's owners may change."""
        self.name, self.home_region_id = name, home_region
        self.discoverable = discoverable
        self.save(update_fields=["name", "home_region", "discoverable"])

    def grant(self, role: Role, *, to: User) -> None:
        assign_perm(role, to, self)

    @transaction.atomic
    def withdraw(self, role: Role, *, of: User) -> None:
        """Take a role back; an account keeps at least one owner."""
        self._lock()
        if role == Role.USER_ADMIN:
            self._keep_an_owner_without(of)
        remove_perm(role, of, self)

    @transaction.atomic
    def change_roles(self, roles: Collection[Role], *, of: User, by: User) -> None:
        """Leave the user with exactly these roles here, as far as the actor may.

        Raises PermissionDenied when the actor's roles fall short, and Conflict when
        no owner would be left.
        """
        self._lock()
        held, actors = self.roles_of(of), self.roles_of(by)
        changed = held ^ set(roles)
        _insist_on("" if of != by else "Nobody changes their own roles.")
        _insist_on(why_not_manage(held, by=actors))
        _insist_on(why_not_assign(changed, by=actors))
        for role in sorted(set(roles) - held):
            self.grant(role, to=of)
        for role in sorted(held - set(roles)):
            self.withdraw(role, of=of)

    @transaction.atomic
    def deactivate(self, user: User, *, by: User) -> None:
        """Keep one of its own users out of the whole panel, until reactivated."""
        self._insist_on_home_user(user, by)
        user.deactivate()

    @transaction.atomic
    def reactivate(self, user: User, *, by: User) -> None:
        self._insist_on_home_user(user, by)
        user.reactivate()

    def _insist_on_home_user(self, user: User, by: User) -> None:
        self._lock()
        if user.home_account_id != self.pk:
            _insist_on("Only a user's home account does this.")
        held, actors = self.roles_of(user), self.roles_of(by)
        _insist_on("" if user != by else "Nobody does this to themselves.")
        _insist_on(why_not_manage(held, by=actors))
        # Whoever is kept out has lost all roles for as long.
        _insist_on(why_not_assign(held, by=actors))

    def _lock(self) -> None:
        # So that two owners cannot take the role from one another at once.
        Account.objects.select_for_update(no_key=True).get(pk=self.pk)

    def _keep_an_owner_without(self, user: User) -> None:
        """Raise Conflict if the user is the last owner; the caller holds the lock."""
        owners = list(self.users_with([Role.USER_ADMIN])[:2])
        if owners == [user]:
            raise Conflict("An account keeps at least one account owner.")

    def roles_of(self, user: User) -> set[Role]:
        held = self.grants.filter(user=user, permission__codename__in=Role.values)
        return {
            Role(code) for code in held.values_list("permission__codename", flat=True)
        }

    def people(self) -> models.QuerySet[User]:
        """Users with a role here, and those at home here; each with the roles here."""
        grants = self.grants.filter(permission__codename__in=Role.values)
        at_home = User.objects.filter(home_account=self)
        roles = grants.filter(user=OuterRef("pk")).values("permission__codename")
        # A union of keys: an OR would look at every user of the cloud.
        people = grants.values_list("user").union(at_home.values_list("pk"))
        return User.objects.filter(pk__in=people).annotate(  # type: ignore[no-redef]
            roles=ArraySubquery(roles)
        )

    def users_with(self, roles: Iterable[Role]) -> models.QuerySet[User]:
        """Active users who hold any of the roles here, each once, by name."""
        grants = self.grants.filter(
            user=OuterRef("pk"), permission__codename__in=list(roles)
        )
        return User.objects.filter(Exists(grants), is_active=True).order_by("username")

    def holders_of(self, capability: Capability) -> list[str]:
        """Names of some users who may do it, to ask them."""
        users = self.users_with(roles_giving(capability))
        return list(users.values_list("username", flat=True)[:5])


_FIELDS = [field.attname for field in Account._meta.concrete_fields]


class User(AbstractUser):
    """Somebody who signs in; what they may do comes from role grants on accounts."""

    home_account = models.ForeignKey(
        Account,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="home_users",
        help_text="Only this account deactivates the user. Staff has none.",
    )
    last_account = models.ForeignKey(
        Account,
        null=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
        db_index=False,
    )

    # For the type checker: only Account.people() fetches them.
    roles: list[str]

    @transaction.atomic
    def deactivate(self) -> None:
        """Keep the user out and end their sessions; roles stay for their return."""
        if self.home_account:
            self.home_account._lock()
            self.home_account._keep_an_owner_without(self)
        User.objects.filter(pk=self.pk).update(is_active=False)
        self.is_active = False
        self.end_sessions()

    def reactivate(self) -> None:
        User.objects.filter(pk=self.pk).update(is_active=True)
        self.is_active = True

    def end_sessions(self, *, but: str | None = None) -> int:
        """Sign the user out everywhere, except where the session has this key."""
        ended, _ = self.sessions.exclude(session_key=but).delete()
        return ended

    def enter(self, account: Account) -> None:
        """Remember the account as the one to come back to."""
        if self.last_account_id != account.pk:
            User.objects.filter(pk=self.pk).update(last_account=account)
            self.last_account = account


class RoleGrant(UserObjectPermissionBase):
    """A role that a user has in an account, as guardian's object permission."""

    # Guardian uses this table, not its generic one, because of the foreign key; it
    # looks for the key under this name.
    content_object = models.ForeignKey(
        Account, on_delete=models.CASCADE, related_name="grants"
    )

    def __str__(self) -> str:
        return f"{self.user}: {self.permission.codename} on {self.content_object}"


class Session(AbstractBaseSession):
    """A sign-in, with what its user needs to recognise it in a list.

    The columns repeat what the session's data says; accounts.sessions writes them.
    """

    user = models.ForeignKey(
        User, null=True, on_delete=models.CASCADE, related_name="sessions"
    )
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(default=timezone.now)

    @property
    def public_id(self) -> str:
        """Names the session on a page: its key there would be a way into it."""
        return hashlib.sha256(self.session_key.encode()).hexdigest()[:16]


class LimitUseQuerySet(models.QuerySet["LimitUse"]):
    def running(self, account: Account) -> LimitUseQuerySet:
        """What the account has used of its limits in the periods of this moment."""
        return self.filter(account=account, until__gt=timezone.now()).order_by("what")


class LimitUse(models.Model):
    """How often an account did something in a period that begins at a time."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    what = models.CharField(max_length=50)
    since = models.DateTimeField()
    until = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)
    limit = models.PositiveIntegerField()

    objects = LimitUseQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "what", "since"], name="accounts_limituse_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account_id}: {self.what} {self.count} times since {self.since}"

    @classmethod
    def take(
        cls, account: Account, what: str, *, limit: int, per: timedelta, sentence: str
    ) -> None:
        """Count one more, or raise TooMany once the limit is reached."""
        since = _start_of_period(timezone.now(), per)
        use, _ = cls.objects.get_or_create(
            account=account,
            what=what,
            since=since,
            defaults={"until": since + per, "limit": limit},
        )
        # The WHERE clause is the guard: simultaneous requests cannot pass the limit.
        taken = cls.objects.filter(pk=use.pk, count__lt=limit)
        if not taken.update(count=F("count") + 1, limit=limit):
            raise TooMany(sentence)


def _start_of_period(now: datetime, per: timedelta) -> datetime:
    seconds = per.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, tz=now.tzinfo)


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def open(self) -> InvitationQuerySet:
        """Those whose link still works."""
        return self.filter(
            accepted_at=None, withdrawn_at=None, expires_at__gt=timezone.now()
        )

    def with_token(self, token: str) -> InvitationQuerySet:
        return self.filter(token_hash=_hash_of(token))

    @transaction.atomic
    def invite(
        self, email: str, *, to: Account, roles: Collection[Role], by: User
    ) -> Invitation:
        """Offer the roles to whoever opens the link; an older link stops working.

        Only the invitation returned knows the token.
        """
        _insist_on(why_not_assign(roles, by=to.roles_of(by)))
        self.open().filter(account=to, email__iexact=email).update(
            withdrawn_at=timezone.now()
        )
        token = secrets.token_urlsafe(32)
        invitation = self.create(
            account=to,
            email=email,
            token_hash=_hash_of(token),
            roles=sorted(roles),
            invited_by=by.get_username(),
            expires_at=timezone.now() + INVITATION_LASTS,
        )
        invitation.token = token
        return invitation


INVITATION_LASTS = timedelta(days=7)


class Invitation(models.Model):
    """An account's offer of roles to whoever opens the link that was mailed.

    The link carries a random token, of which only the SHA-256 is kept; it works once.
    """

    account = models.ForeignKey(
        Account, on_delete=models.CASCADE, related_name="invitations"
    )
    email = models.EmailField()
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    roles = models.JSONField(default=list)
    invited_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, editable=False)
    accepted_by = models.ForeignKey(
        User, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    withdrawn_at = models.DateTimeField(null=True, editable=False)

    objects = InvitationQuerySet.as_manager()

    token: str  # only just after invite()

    def __str__(self) -> str:
        return f"{self.email} to {self.account_id}"

    @property
    def role_labels(self) -> list[str]:
        return [Role(role).label for role in self.roles]

    @property
    def why_closed(self) -> str:
        """Why the link does not work any more; empty while it does."""
        if self.accepted_at:
            return "This invitation has been used already."
        if self.withdrawn_at:
            return "This invitation has been withdrawn."
        if self.expires_at <= timezone.now():
            return "This invitation has expired."
        if self.account.is_suspended:
            return "The account that sent this invitation is suspended."
        return self._why_not_given

    @property
    def _why_not_given(self) -> str:
        """Else who loses the right to give a role could still take it by a link."""
        sender = User.objects.filter(username=self.invited_by, is_active=True).first()
        held = self.account.roles_of(sender) if sender else set()
        if why_not_assign([Role(role) for role in self.roles], by=held):
            return "Whoever sent this invitation may not give these roles any more."
        return ""

    @transaction.atomic
    def accept(self, *, by: User) -> None:
        """Give the roles to the user; it works once."""
        if by.get_username() == self.invited_by:
            raise Conflict("Nobody changes their own roles.")
        # So that the sender's roles do not change in the meantime.
        self.account._lock()
        if self.account.is_suspended or self._why_not_given:
            raise Conflict(self.why_closed)
        # The WHERE clause is the guard: of two simultaneous clicks only one matches.
        opened = Invitation.objects.open().filter(pk=self.pk)
        if not opened.update(accepted_at=timezone.now(), accepted_by=by):
            self.refresh_from_db(fields=["accepted_at", "accepted_by", "withdrawn_at"])
            raise Conflict(self.why_closed)
        for role in self.roles:
            self.account.grant(Role(role), to=by)

    def count_try(self) -> None:
        """Raise TooMany when too many tried to join the account today.

        A form for a new user cannot help telling which usernames are taken.
        """
        limit = settings.ACCOUNTS["joins_per_day"]
        LimitUse.take(
            self.account,
            "tries to join",
            limit=limit,
            per=timedelta(days=1),
            sentence=f"At most {limit} forms to join an account are read in a day.",
        )

    @transaction.atomic
    def join(self, username: str, password: str) -> User:
        """Make a new user, at home in the inviting account, who accepts."""
        try:
            with transaction.atomic():
                user = User.objects.create_user(
                    username, self.email, password, home_account=self.account
                )
        except IntegrityError:
            raise Conflict(
                "That username has just been taken: choose another."
            ) from None
        self.accept(by=user)
        return user

    def withdraw(self) -> None:
        """Make the link useless."""
        opened = Invitation.objects.open().filter(pk=self.pk)
        if not opened.update(withdrawn_at=timezone.now()):
            raise Conflict("This invitation was used, withdrawn or expired before.")


def _hash_of(token: str) -> str:
    # A plain hash is enough: the token has 256 random bits and cannot be guessed.
    return hashlib.sha256(token.encode()).hexdigest()


def _insist_on(refusal: str) -> None:
    if refusal:
        raise PermissionDenied(refusal)

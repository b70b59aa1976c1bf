from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models import Exists, F, OuterRef, Value
from django.db.models.functions import Concat
from django.utils import timezone
from guardian.models import UserObjectPermissionBase
from guardian.shortcuts import assign_perm, remove_perm

from accounts import numbers
from accounts.permissions import Capability, Role, roles_giving
from controlpanel.http import Conflict, TooMany


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
    def open_to(self, user: User) -> AccountQuerySet:
        """Accounts in which the user has a role, each with all the user's roles."""
        held = RoleGrant.objects.filter(
            user=user,
            content_object=OuterRef("pk"),
            permission__codename__in=Role.values,
        )
        return self.filter(Exists(held)).annotate(  # type: ignore[no-redef]
            roles=ArraySubquery(held.values("permission__codename"))
        )

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

    def grant(self, role: Role, *, to: User) -> None:
        assign_perm(role, to, self)

    @transaction.atomic
    def withdraw(self, role: Role, *, of: User) -> None:
        """Take a role back; an account keeps at least one owner."""
        # Locked, so that two owners cannot take the role from one another at once.
        Account.objects.select_for_update().get(pk=self.pk)
        if role == Role.USER_ADMIN:
            others = self.users_with([role]).exclude(pk=of.pk)
            if self.users_with([role]).filter(pk=of.pk).exists() and not others:
                raise Conflict("An account keeps at least one account owner.")
        remove_perm(role, of, self)

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
    """A sign-in, with what its user needs to recognise it in a list."""

    user = models.ForeignKey(
        User, null=True, on_delete=models.CASCADE, related_name="sessions"
    )
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)


class LimitUse(models.Model):
    """How often an account did something in a period that begins at a time."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    what = models.CharField(max_length=50)
    since = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)

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
        use, _ = cls.objects.get_or_create(
            account=account, what=what, since=_start_of_period(timezone.now(), per)
        )
        # The WHERE clause is the guard: simultaneous requests cannot pass the limit.
        taken = cls.objects.filter(pk=use.pk, count__lt=limit)
        if not taken.update(count=F("count") + 1):
            raise TooMany(sentence)


def _start_of_period(now: datetime, per: timedelta) -> datetime:
    seconds = per.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, tz=now.tzinfo)


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

    def __str__(self) -> str:
        return f"{self.email} to {self.account_id}"

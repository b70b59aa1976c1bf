"""Accounts, their users, and the roles that tie the two."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.expressions import ArraySubquery
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, models, transaction
from django.db.models import Case, Count, Exists, OuterRef, Sum, Value, When
from django.db.models.functions import Concat, Greatest
from guardian.models import UserObjectPermissionBase
from guardian.shortcuts import assign_perm, remove_perm

from accounts import numbers
from accounts.models.quota import Quota, QuotaUse
from accounts.models.region import Region
from accounts.permissions import (
    Capability,
    Role,
    roles_giving,
    why_not_assign,
    why_not_manage,
)
from controlpanel.http import Conflict
from controlpanel.prepared import Gap, Prepared


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
    # What it may hold at once; empty where the cloud's default counts.
    quota_servers = models.PositiveIntegerField("servers", null=True, blank=True)
    quota_memory_mb = models.PositiveIntegerField(
        "memory of all servers (MB)", null=True, blank=True
    )
    quota_images = models.PositiveIntegerField("images", null=True, blank=True)
    quota_image_gib = models.PositiveIntegerField(
        "size of all images (GiB)", null=True, blank=True
    )

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

    @transaction.atomic
    def suspend(self) -> None:
        """Refuse its users, and new servers from its images; nothing is lost.

        Tokens of the API end, and do not come back with the account.
        """
        self._set_status(self.Status.SUSPENDED)
        self.tokens.all().delete()

    @transaction.atomic
    def reinstate(self) -> None:
        self._set_status(self.Status.ACTIVE)
        # Given out by a request that had read the account before it was suspended.
        self.tokens.all().delete()

    def _set_status(self, status: Status) -> None:
        Account.objects.filter(pk=self.pk).update(status=status)
        self.status = status

    def edit(self, *, name: str, home_region: str, discoverable: bool) -> None:
        """Write what the account's owners may change."""
        self.name, self.home_region_id = name, home_region
        self.discoverable = discoverable
        self.save(update_fields=["name", "home_region", "discoverable"])

    def set_quotas(self, **quotas: int | None) -> None:
        """Write what it may hold, as the fields of that name; nothing is deleted."""
        for name, most in quotas.items():
            setattr(self, name, most)
        self.save(update_fields=list(quotas))

    def quota_uses(self, *quotas: Quota) -> list[QuotaUse]:
        """What it may hold of these, or of all, and what it holds."""
        asked = quotas or tuple(Quota)
        used: dict[str, int | None] = {}
        if {Quota.SERVERS, Quota.MEMORY_MB} & set(asked):
            # While one is being resized, the larger of two: it may stay as it was.
            memory = Greatest("flavor__ram_mb", "resize_order__before__ram_mb")
            used |= self.servers.aggregate(servers=Count("pk"), memory_mb=Sum(memory))
        if {Quota.IMAGES, Quota.IMAGE_BYTES} & set(asked):
            used |= self.images.aggregate(images=Count("pk"), image_bytes=Sum("size"))
        return [QuotaUse(each, used[each] or 0, self._limit(each)) for each in asked]

    def running_short(self, *quotas: Quota) -> list[QuotaUse]:
        """Those of which little or nothing is left."""
        return [use for use in self.quota_uses(*quotas) if use.is_short]

    def make_room(self, more: Mapping[Quota, int]) -> None:
        """Raise QuotaReached if it may not hold so much more than it does.

        Whoever else asks waits for the end of the transaction, so that no two pass
        together.
        """
        locked = Account.objects.select_for_update(no_key=True).get(pk=self.pk)
        for use in locked.quota_uses(*more):
            use.check(more[use.quota])

    def _limit(self, quota: Quota) -> int:
        own = {
            Quota.SERVERS: self.quota_servers,
            Quota.MEMORY_MB: self.quota_memory_mb,
            Quota.IMAGES: self.quota_images,
            Quota.IMAGE_BYTES: self.quota_image_gib and self.quota_image_gib << 30,
        }[quota]
        return quota.default if own is None else own

    @transaction.atomic
    def grant(self, role: Role, *, to: User) -> None:
        assign_perm(role, to, self)
        self._end_tokens(to)

    @transaction.atomic
    def withdraw(self, role: Role, *, of: User) -> None:
        """Take a role back; an account keeps at least one owner."""
        self._lock()
        if role == Role.USER_ADMIN:
            self._keep_an_owner_without(of)
        remove_perm(role, of, self)
        self._end_tokens(of)

    def _end_tokens(self, user: User) -> None:
        """Those for this account, and those from which others can be made for it."""
        ended = models.Q(account=self) | models.Q(credential=None)
        user.tokens.filter(ended).delete()

    @transaction.atomic
    def change_roles(self, roles: Collection[Role], *, of: User, by: User) -> None:
        """Leave the user with exactly these roles here, as far as the actor may.

        Raises PermissionDenied when the actor's roles fall short, and Conflict when
        no owner would be left.
        """
        self._lock()
        held, actors = self.roles_of(of), self.roles_of(by)
        changed = held ^ set(roles)
        insist_on("" if of != by else "Nobody changes their own roles.")
        insist_on(why_not_manage(held, by=actors))
        insist_on(why_not_assign(changed, by=actors))
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
            insist_on("Only a user's home account does this.")
        held, actors = self.roles_of(user), self.roles_of(by)
        insist_on("" if user != by else "Nobody does this to themselves.")
        insist_on(why_not_manage(held, by=actors))
        # Whoever is kept out has lost all roles for as long.
        insist_on(why_not_assign(held, by=actors))

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

    # The way that brought the user here: empty for the panel, else as events name it.
    via = ""

    @transaction.atomic
    def deactivate(self) -> None:
        """Keep the user out and end their sessions; roles stay for their return."""
        if self.home_account:
            self.home_account._lock()
            self.home_account._keep_an_owner_without(self)
        User.objects.filter(pk=self.pk).update(is_active=False)
        self.is_active = False
        self.end_sessions()
        self.tokens.all().delete()

    @transaction.atomic
    def reactivate(self) -> None:
        User.objects.filter(pk=self.pk).update(is_active=True)
        self.is_active = True
        # Given out by a request that had read the user before it was deactivated.
        self.tokens.all().delete()

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


def insist_on(refusal: str) -> None:
    if refusal:
        raise PermissionDenied(refusal)

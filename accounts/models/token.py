"""What clients of the API show in place of a password, and how they come by it.

Of a token and of a credential's secret only the SHA-256 is kept: both are random, and
too long to be guessed.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache

from django.conf import settings
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, models, transaction
from django.db.models import OuterRef, Value
from django.db.models.functions import Concat
from django.utils import timezone

from accounts.models.account import Account, RoleGrant, User
from accounts.models.region import Region
from accounts.permissions import Capability, Role, capabilities_of
from accounts.regions import RegionChoice
from controlpanel.http import Conflict, TooMany
from controlpanel.prepared import Gap, Prepared

MOST_CREDENTIALS = 100


class ApplicationCredentialQuerySet(models.QuerySet["ApplicationCredential"]):
    def unexpired(self) -> ApplicationCredentialQuerySet:
        return self.filter(
            models.Q(expires_at=None) | models.Q(expires_at__gt=timezone.now())
        )

    def make(
        self,
        user: User,
        account: Account,
        *,
        name: str,
        roles: Collection[Role],
        description: str = "",
        expires_at: datetime | None = None,
    ) -> ApplicationCredential:
        """Make a credential; only the one returned knows its secret.

        Raises PermissionDenied for roles that the user has not, Conflict if the user
        has a credential of that name, TooMany beyond MOST_CREDENTIALS.
        """
        # Nearly: two requests at once may pass together, by one.
        if len(self.filter(user=user).values_list("pk")) >= MOST_CREDENTIALS:
            raise TooMany(
                f"A user has at most {MOST_CREDENTIALS} credentials. Delete one first."
            )
        if not set(roles) <= account.roles_of(user):
            raise PermissionDenied("A credential has no role that its user has not.")
        secret = secrets.token_urlsafe(48)
        try:
            with transaction.atomic():
                made = self.create(
                    user=user,
                    account=account,
                    name=name,
                    description=description,
                    roles=sorted(roles),
                    secret_hash=_hash_of(secret),
                    expires_at=expires_at,
                )
        except IntegrityError:
            raise Conflict(
                f"You have a credential named {name} already. Its secret was shown "
                "once; if you have lost it, delete the credential and make another."
            ) from None
        made.secret = secret
        return made


class ApplicationCredential(models.Model):
    """A user's key for a program: in one account, with some of the user's roles.

    What it may do at a moment is what its roles and the user's then have in common.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        User, on_delete=models.CASCADE, related_name="credentials", db_index=False
    )
    account = models.ForeignKey(
        Account, on_delete=models.CASCADE, related_name="credentials"
    )
    name = models.CharField(max_length=255)
    description = models.CharField(max_length=255, blank=True)
    roles = ArrayField(models.CharField(max_length=50))
    secret_hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    objects = ApplicationCredentialQuerySet.as_manager()

    secret: str  # only just after make()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "name"], name="accounts_credential_name_once"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    def is_opened_by(self, secret: str) -> bool:
        return secrets.compare_digest(self.secret_hash, _hash_of(secret))


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request of the API, as a valid token says: the account is None while
    the token is for none (unscoped).
    """

    user: User
    account: Account | None
    roles: frozenset[Role]
    methods: list[str]
    audit_id: str
    issued_at: datetime
    expires_at: datetime
    credential_id: uuid.UUID | None
    credential_name: str = ""
    regions: list[RegionChoice] = field(default_factory=list)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return capabilities_of(self.roles)


class TokenQuerySet(models.QuerySet["Token"]):
    def issue(
        self,
        user: User,
        account: Account | None,
        *,
        methods: Collection[str],
        credential: ApplicationCredential | None = None,
        expires_at: datetime | None = None,
    ) -> Token:
        """Give out a token; only the one returned knows its text (`plain`).

        One that is made from another token keeps that one's end: `expires_at`.
        """
        held = account.roles_of(user) if account else set()
        roles = held & {Role(role) for role in credential.roles} if credential else held
        plain = secrets.token_urlsafe(32)
        end = timezone.now() + timedelta(hours=settings.API["token_hours"])
        if credential and credential.expires_at:
            end = min(end, credential.expires_at)
        token = self.create(
            digest=_hash_of(plain),
            user=user,
            account=account,
            credential=credential,
            methods=list(methods),
            held=sorted(held),
            roles=sorted(roles),
            stamp=_hash_of(user.password),
            audit_id=secrets.token_urlsafe(16),
            expires_at=min(end, expires_at or end),
        )
        token.plain = plain
        return token

    def find(self, plain: str) -> Caller | None:
        """Who holds this token, if it is valid: one query by the primary key.

        A token dies with whatever it rests on: the user's password, the roles held at
        its issue, the account's and the user's being active, its credential. Whoever
        changes these deletes it, too, so that it stays dead when they are as before.
        """
        row = _found().first({"digest": _hash_of(plain), "now": timezone.now()})
        if row is None:
            return None
        token = Token.from_db(self.db, _TOKEN, row[: len(_TOKEN)])
        rest = row[len(_TOKEN) :]
        user = User.from_db(self.db, _USER, rest[: len(_USER)])
        *fields, name, held, entries = rest[len(_USER) :]
        account = Account.from_db(self.db, _ACCOUNT, fields) if fields[0] else None
        if account and account.is_suspended:
            return None
        if sorted(held) != token.held or _hash_of(user.password) != token.stamp:
            return None
        user.via = f"API, credential {name}" if name else "API"
        return Caller(
            user=user,
            account=account,
            roles=frozenset(Role(role) for role in token.roles),
            methods=token.methods,
            audit_id=token.audit_id,
            issued_at=token.issued_at,
            expires_at=token.expires_at,
            credential_id=token.credential_id,
            credential_name=name or "",
            regions=[RegionChoice.read(entry) for entry in entries],
        )

    def revoke(self, plain: str) -> bool:
        """End a token; False if there is none."""
        ended, _ = self.filter(digest=_hash_of(plain)).delete()
        return bool(ended)


class Token(models.Model):
    """A bearer token of the API."""

    digest = models.CharField(max_length=64, primary_key=True, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    account = models.ForeignKey(
        Account, null=True, on_delete=models.CASCADE, related_name="tokens"
    )
    credential = models.ForeignKey(
        ApplicationCredential,
        null=True,
        on_delete=models.CASCADE,
        related_name="tokens",
    )
    methods = ArrayField(models.CharField(max_length=30))
    # The user's roles in the account at the issue, and those that the token gives.
    held = ArrayField(models.CharField(max_length=50))
    roles = ArrayField(models.CharField(max_length=50))
    # Of the user's password at the issue.
    stamp = models.CharField(max_length=64)
    # Names the token in logs and answers, and opens nothing.
    audit_id = models.CharField(max_length=30)
    issued_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)

    objects = TokenQuerySet.as_manager()

    plain: str  # only just after issue()

    def __str__(self) -> str:
        return self.audit_id


_TOKEN = [each.attname for each in Token._meta.concrete_fields]
_USER = [each.attname for each in User._meta.concrete_fields]
_ACCOUNT = [each.attname for each in Account._meta.concrete_fields]


@cache
def _found() -> Prepared:
    held = RoleGrant.objects.filter(
        user=OuterRef("user"),
        content_object=OuterRef("account"),
        permission__codename__in=Role.values,
    )
    entry = Concat("code", Value(" "), "name", output_field=models.TextField())
    regions = Region.objects.order_by("name").values(entry=entry)
    tokens = Token.objects.filter(
        digest=Gap("digest"), expires_at__gt=Gap("now"), user__is_active=True
    ).annotate(
        held_now=ArraySubquery(held.values("permission__codename")),
        region_entries=ArraySubquery(regions),
    )
    return Prepared(
        tokens.values_list(
            *_TOKEN,
            *(f"user__{name}" for name in _USER),
            *(f"account__{name}" for name in _ACCOUNT),
            "credential__name",
            "held_now",
            "region_entries",
        )
    )


def _hash_of(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()

"""Invitations to an account."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from accounts.models.account import Account, User, insist_on
from accounts.models.limit import LimitUse
from accounts.permissions import (
    Role,
    why_not_assign,
)
from controlpanel.http import Conflict


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
        insist_on(why_not_assign(roles, by=to.roles_of(by)))
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

"""SSH keys of accounts."""

from __future__ import annotations

import uuid

from django.db import models, transaction

from accounts.models import Account, User
from controlpanel.http import Conflict, TooMany
from servers.keys import read_public_key

# SSH keys of an account: all of them are on one page.
MOST_KEYS = 100


class SSHKey(models.Model):
    """A public key that the account's users put on their servers."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(
        Account, on_delete=models.CASCADE, related_name="ssh_keys", db_index=False
    )
    name = models.CharField(max_length=100)
    public_key = models.TextField(max_length=4000)
    fingerprint = models.CharField(max_length=60, editable=False)
    created_by = models.CharField(max_length=150, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "name"],
                name="servers_sshkey_name_once",
                violation_error_message="There is a key with this name already.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def kind(self) -> str:
        return self.public_key.partition(" ")[0]

    class Taken(Conflict):
        """The account has a key of this name."""

    @classmethod
    @transaction.atomic
    def add(cls, account: Account, *, name: str, public_key: str, by: User) -> SSHKey:
        """Keep a key; raises KeyRefused if the text is none, Taken, or TooMany."""
        key = read_public_key(public_key)
        # Locked, so that the limit holds.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if len(account.ssh_keys.values_list("pk")[:MOST_KEYS]) >= MOST_KEYS:
            raise TooMany(f"An account keeps at most {MOST_KEYS} keys. Delete some.")
        kept, created = cls.objects.get_or_create(
            account=account,
            name=name,
            defaults={
                "public_key": key.line,
                "fingerprint": key.fingerprint,
                "created_by": by.get_username(),
            },
        )
        if not created:
            raise cls.Taken("There is a key with this name already.")
        return kept

"""Accounts and their users: who there is, and who may do what."""

from accounts.models.account import (
    Account,
    AccountManager,
    AccountQuerySet,
    RoleGrant,
    User,
)
from accounts.models.invitation import Invitation, InvitationQuerySet
from accounts.models.limit import LimitUse
from accounts.models.quota import Quota, QuotaReached, QuotaUse
from accounts.models.region import Region
from accounts.models.session import Session
from accounts.models.token import ApplicationCredential, Caller, Token

__all__ = [
    "Account",
    "AccountManager",
    "AccountQuerySet",
    "ApplicationCredential",
    "Caller",
    "Invitation",
    "InvitationQuerySet",
    "LimitUse",
    "Quota",
    "QuotaReached",
    "QuotaUse",
    "Region",
    "RoleGrant",
    "Session",
    "Token",
    "User",
]

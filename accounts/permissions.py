"""Who may do what in an account: the only place that knows what a role allows.

A role gives a level in one product of the cloud, or in all of them. Of several
roles the highest level counts. A capability asks for a level in a product, or in
either of two.
"""

from collections.abc import Collection
from enum import IntEnum, StrEnum
from functools import lru_cache

from django.db import models


class Role(models.TextChoices):
    USER_ADMIN = "identity:user-admin", "Account owner"
    USER_MANAGE = "identity:user-manage", "User manager"
    ADMIN = "admin", "Admin of all products"
    OBSERVER = "observer", "Observer of all products"
    IMAGES_ADMIN = "cloudImages:admin", "Cloud Images admin"
    IMAGES_CREATOR = "cloudImages:creator", "Cloud Images creator"
    IMAGES_OBSERVER = "cloudImages:observer", "Cloud Images observer"
    SERVERS_ADMIN = "nova:admin", "Cloud Servers admin"
    SERVERS_CREATOR = "nova:creator", "Cloud Servers creator"
    SERVERS_OBSERVER = "nova:observer", "Cloud Servers observer"


class Product(StrEnum):
    IMAGES = "cloudImages"
    SERVERS = "nova"
    IDENTITY = "identity"


class Level(IntEnum):
    NONE = 0
    OBSERVER = 1
    CREATOR = 2
    ADMIN = 3


class Capability(StrEnum):
    VIEW_ACCOUNT = "view_account"
    MANAGE_USERS = "manage_users"
    GRANT_IDENTITY_ROLES = "grant_identity_roles"
    EDIT_ACCOUNT = "edit_account"
    VIEW_IMAGES = "view_images"
    SHARE_IMAGES = "share_images"
    UNSHARE_IMAGES = "unshare_images"
    ANSWER_SHARES = "answer_shares"
    EDIT_IMAGES = "edit_images"
    DELETE_IMAGES = "delete_images"
    VIEW_SERVERS = "view_servers"
    CREATE_SERVERS = "create_servers"
    MANAGE_SERVERS = "manage_servers"


# Every role, also those in identity, gives a level in one of these.
_ANY_ROLE = [(Product.IMAGES, Level.OBSERVER), (Product.SERVERS, Level.OBSERVER)]

# Of several pairs any one is enough. In identity the owner has level 3, the user
# manager level 2.
REQUIRED: dict[Capability, list[tuple[Product, Level]]] = {
    Capability.VIEW_ACCOUNT: _ANY_ROLE,
    Capability.MANAGE_USERS: [(Product.IDENTITY, Level.CREATOR)],
    Capability.GRANT_IDENTITY_ROLES: [(Product.IDENTITY, Level.ADMIN)],
    Capability.EDIT_ACCOUNT: [(Product.IDENTITY, Level.ADMIN)],
    Capability.VIEW_IMAGES: [(Product.IMAGES, Level.OBSERVER)],
    Capability.SHARE_IMAGES: [(Product.IMAGES, Level.CREATOR)],
    Capability.UNSHARE_IMAGES: [(Product.IMAGES, Level.ADMIN)],
    Capability.ANSWER_SHARES: [(Product.IMAGES, Level.ADMIN)],
    Capability.EDIT_IMAGES: [(Product.IMAGES, Level.ADMIN)],
    Capability.DELETE_IMAGES: [
        (Product.IMAGES, Level.ADMIN),
        (Product.SERVERS, Level.ADMIN),
    ],
    Capability.VIEW_SERVERS: [(Product.SERVERS, Level.OBSERVER)],
    Capability.CREATE_SERVERS: [(Product.SERVERS, Level.CREATOR)],
    Capability.MANAGE_SERVERS: [(Product.SERVERS, Level.ADMIN)],
}

_BOTH = frozenset({Product.IMAGES, Product.SERVERS})
_IMAGES = frozenset({Product.IMAGES})
_SERVERS = frozenset({Product.SERVERS})
_IDENTITY = frozenset({Product.IDENTITY})

GIVEN: dict[Role, list[tuple[frozenset[Product], Level]]] = {
    Role.USER_ADMIN: [(_BOTH, Level.ADMIN), (_IDENTITY, Level.ADMIN)],
    Role.USER_MANAGE: [(_BOTH, Level.ADMIN), (_IDENTITY, Level.CREATOR)],
    Role.ADMIN: [(_BOTH, Level.ADMIN)],
    Role.OBSERVER: [(_BOTH, Level.OBSERVER)],
    Role.IMAGES_ADMIN: [(_IMAGES, Level.ADMIN)],
    Role.IMAGES_CREATOR: [(_IMAGES, Level.CREATOR)],
    Role.IMAGES_OBSERVER: [(_IMAGES, Level.OBSERVER)],
    Role.SERVERS_ADMIN: [(_SERVERS, Level.ADMIN)],
    Role.SERVERS_CREATOR: [(_SERVERS, Level.CREATOR)],
    Role.SERVERS_OBSERVER: [(_SERVERS, Level.OBSERVER)],
}
IDENTITY_ROLES = frozenset({Role.USER_ADMIN, Role.USER_MANAGE})

# The role that is named to those who lack a capability in identity.
_IDENTITY_NAMES = {Level.CREATOR: Role.USER_MANAGE, Level.ADMIN: Role.USER_ADMIN}


def level_in(product: Product, roles: Collection[Role]) -> Level:
    """The most permissive role wins."""
    return max(
        (
            level
            for role in roles
            for products, level in GIVEN[role]
            if product in products
        ),
        default=Level.NONE,
    )


def capabilities_of(roles: Collection[Role]) -> frozenset[Capability]:
    return _capabilities_of(frozenset(roles))


@lru_cache(maxsize=1024)
def _capabilities_of(roles: frozenset[Role]) -> frozenset[Capability]:
    levels = {product: level_in(product, roles) for product in Product}
    return frozenset(
        capability
        for capability, pairs in REQUIRED.items()
        if any(levels[product] >= minimum for product, minimum in pairs)
    )


def roles_for(capability: Capability) -> str:
    """The least roles that give the capability, to tell those who lack it."""
    return " or ".join(least_roles(capability))


def least_roles(capability: Capability) -> list[Role]:
    return [
        _IDENTITY_NAMES[minimum]
        if product is Product.IDENTITY
        else Role(f"{product}:{minimum.name.lower()}")
        for product, minimum in REQUIRED[capability]
    ]


def roles_giving(capability: Capability) -> list[Role]:
    """Every single role that is enough for the capability."""
    return [role for role in Role if capability in capabilities_of([role])]


def why_not_manage(target: Collection[Role], *, by: Collection[Role]) -> str:
    """Why somebody with these roles may not change the target's; empty if they may."""
    able = capabilities_of(by)
    if Capability.MANAGE_USERS not in able:
        return f"Managing users needs {roles_for(Capability.MANAGE_USERS)}."
    if Role.USER_ADMIN in target and Capability.GRANT_IDENTITY_ROLES not in able:
        return f"Changing an account owner needs {Role.USER_ADMIN}."
    return ""


def why_not_assign(roles: Collection[Role], *, by: Collection[Role]) -> str:
    """Why somebody may not grant or take these roles; empty if they may."""
    able = capabilities_of(by)
    if Capability.MANAGE_USERS not in able:
        return f"Managing users needs {roles_for(Capability.MANAGE_USERS)}."
    identity = IDENTITY_ROLES.intersection(roles)
    if identity and Capability.GRANT_IDENTITY_ROLES not in able:
        return f"Granting or taking {min(identity)} needs {Role.USER_ADMIN}."
    return ""

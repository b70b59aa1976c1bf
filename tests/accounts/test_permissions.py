import random

from django.test import SimpleTestCase

from accounts.models import Account
from accounts.permissions import (
    IDENTITY_ROLES,
    Capability,
    Level,
    Product,
    Role,
    capabilities_of,
    level_in,
    roles_for,
    why_not_assign,
    why_not_manage,
)
from tests.cast import CastTestCase
from tests.factories import UserFactory

NONE, OBSERVER, CREATOR, ADMIN = Level

#   roles                                              in cloudImages  in nova
LEVELS = [
    ([],                                                 NONE,     NONE),
    ([Role.USER_ADMIN],                                  ADMIN,    ADMIN),
    ([Role.USER_MANAGE],                                 ADMIN,    ADMIN),
    ([Role.ADMIN],                                       ADMIN,    ADMIN),
    ([Role.OBSERVER],                                    OBSERVER, OBSERVER),
    ([Role.IMAGES_ADMIN],                                ADMIN,    NONE),
    ([Role.IMAGES_CREATOR],                              CREATOR,  NONE),
    ([Role.IMAGES_OBSERVER],                             OBSERVER, NONE),
    ([Role.SERVERS_ADMIN],                               NONE,     ADMIN),
    ([Role.SERVERS_CREATOR],                             NONE,     CREATOR),
    ([Role.SERVERS_OBSERVER],                            NONE,     OBSERVER),
    ([Role.OBSERVER, Role.IMAGES_ADMIN],                 ADMIN,    OBSERVER),
    ([Role.ADMIN, Role.IMAGES_OBSERVER],                 ADMIN,    ADMIN),
    ([Role.SERVERS_ADMIN, Role.IMAGES_CREATOR],          CREATOR,  ADMIN),
]  # fmt: skip


class LevelTests(SimpleTestCase):
    def test_the_most_permissive_role_wins(self):
        for roles, images, servers in LEVELS:
            with self.subTest(roles=roles):
                assert level_in(Product.IMAGES, roles) == images
                assert level_in(Product.SERVERS, roles) == servers

    def test_a_creator_may_share_but_not_take_back_nor_answer(self):
        able = capabilities_of([Role.IMAGES_CREATOR])

        assert Capability.SHARE_IMAGES in able
        assert not able & {Capability.UNSHARE_IMAGES, Capability.ANSWER_SHARES}

    def test_an_admin_of_either_product_may_delete_images(self):
        for role in Role.IMAGES_ADMIN, Role.SERVERS_ADMIN:
            with self.subTest(role=role):
                assert Capability.DELETE_IMAGES in capabilities_of([role])

    def test_a_refusal_names_roles_that_would_do(self):
        for capability in Capability:
            for role in roles_for(capability).split(" or "):
                with self.subTest(capability=capability, role=role):
                    assert capability in capabilities_of([Role(role)])

    def test_every_role_gives_a_first_page(self):
        for role in Role:
            with self.subTest(role=role):
                able = capabilities_of([role])
                assert able & {Capability.VIEW_IMAGES, Capability.VIEW_SERVERS}


class ManagingTests(SimpleTestCase):
    def test_only_owners_and_user_managers_manage_users(self):
        for role in Role:
            with self.subTest(role=role):
                allowed = not why_not_manage([Role.OBSERVER], by=[role])
                assert allowed == (role in IDENTITY_ROLES)
                assert allowed == (not why_not_assign([Role.OBSERVER], by=[role]))

    def test_a_user_manager_neither_gives_nor_takes_identity_roles(self):
        for role in IDENTITY_ROLES:
            assert why_not_assign([Role.ADMIN, role], by=[Role.USER_MANAGE])
            assert not why_not_assign([Role.ADMIN, role], by=[Role.USER_ADMIN])

    def test_a_user_manager_does_not_touch_an_owner(self):
        assert why_not_manage([Role.USER_ADMIN], by=[Role.USER_MANAGE])
        assert not why_not_manage([Role.USER_MANAGE], by=[Role.USER_MANAGE])


class GuardianTests(CastTestCase):
    def test_guardian_gives_the_same_answer_for_everybody(self):
        choose = random.Random(82000118)  # noqa: S311  # to be repeatable, not secret
        accounts = [self.acme, self.beta, self.corp]
        users = [
            UserFactory.create(
                is_active=n % 7 != 0,
                roles=[
                    (account, role)
                    for account in accounts
                    for role in choose.sample(list(Role), choose.randrange(4))
                ],
            )
            for n in range(12)
        ]
        for user in users:
            opened = {
                account.pk: set(account.roles)
                for account in Account.objects.open_to(user)
            }
            for account in accounts:
                by_guardian = {
                    role.value
                    for role in Role
                    if user.has_perm(f"accounts.{role}", account)
                }
                ours = opened.get(account.pk, set()) if user.is_active else set()
                assert ours == by_guardian, (user, account)

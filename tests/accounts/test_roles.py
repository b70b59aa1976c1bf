from datetime import timedelta
from functools import partial

import pytest
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.test import TransactionTestCase

from accounts import numbers
from accounts.models import Account, LimitUse, User
from accounts.permissions import Role
from controlpanel.http import Conflict, TooMany
from tests.cast import CastTestCase
from tests.factories import AccountFactory, RegionFactory, UserFactory
from tests.races import at_once

OWNER, MANAGER, ADMIN, OBSERVER = (
    Role.USER_ADMIN,
    Role.USER_MANAGE,
    Role.ADMIN,
    Role.OBSERVER,
)


class OpeningTests(CastTestCase):
    def test_an_opened_account_has_a_valid_number(self):
        account = Account.objects.open(name="New", home_region=RegionFactory.create())

        assert numbers.is_valid(account.number)

    def test_a_number_that_is_taken_is_drawn_again(self):
        drawn = iter([self.acme.number, self.beta.number, "99999997"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(numbers, "random_number", lambda: next(drawn))
            account = Account.objects.open(name="New", home_region=self.image.region)

        assert account.number == "99999997"

    def test_the_database_refuses_what_is_no_number(self):
        for number in ["1234567", "1234567x"]:
            with pytest.raises(IntegrityError), transaction.atomic():
                AccountFactory.create(number=number)


class GrantTests(CastTestCase):
    def test_a_role_counts_in_its_own_account_only(self):
        self.acme.grant(OBSERVER, to=self.bob)
        self.acme.grant(Role.IMAGES_CREATOR, to=self.bob)

        assert self.acme.roles_of(self.bob) == {OBSERVER, Role.IMAGES_CREATOR}
        assert self.beta.roles_of(self.bob) == {OWNER}

    def test_granting_twice_is_granting_once(self):
        self.acme.grant(OBSERVER, to=self.bob)
        self.acme.grant(OBSERVER, to=self.bob)

        assert self.acme.grants.filter(user=self.bob).count() == 1

    def test_the_last_owner_stays(self):
        with pytest.raises(Conflict, match="at least one account owner"):
            self.acme.withdraw(OWNER, of=self.alice)

        assert self.acme.roles_of(self.alice) == {OWNER}

    def test_one_of_two_owners_may_go(self):
        self.acme.grant(OWNER, to=self.bob)
        self.acme.withdraw(OWNER, of=self.alice)

        assert self.acme.roles_of(self.alice) == set()

    def test_an_owner_who_is_kept_out_is_none(self):
        self.acme.grant(OWNER, to=self.bob)
        self.bob.deactivate()

        with pytest.raises(Conflict):
            self.acme.withdraw(OWNER, of=self.alice)
        self.acme.withdraw(OWNER, of=self.bob)


class ChangeRolesTests(CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.manager = UserFactory.create(roles=[(cls.acme, MANAGER)])
        cls.helper = UserFactory.create(roles=[(cls.acme, ADMIN)])

    def change(self, roles, of, by):
        self.acme.change_roles(roles, of=of, by=by)
        return self.acme.roles_of(of)

    def test_alice_gives_and_takes_any_role(self):
        assert self.change([MANAGER, OBSERVER], self.helper, self.alice) == {
            MANAGER,
            OBSERVER,
        }
        assert self.change([OWNER], self.helper, self.alice) == {OWNER}
        assert self.change([], self.helper, self.alice) == set()

    def test_nobody_changes_their_own_roles(self):
        for user in self.alice, self.manager:
            with pytest.raises(PermissionDenied, match="their own"):
                self.change([ADMIN], user, user)

    def test_a_user_manager_changes_other_roles(self):
        assert self.change([OBSERVER], self.helper, self.manager) == {OBSERVER}

    def test_a_user_manager_neither_gives_nor_takes_identity_roles(self):
        other = UserFactory.create(roles=[(self.acme, MANAGER)])
        for roles, of in [
            ([ADMIN, MANAGER], self.helper),
            ([OWNER], self.helper),
            ([], other),
            ([], self.alice),
            ([OWNER, ADMIN], self.alice),
        ]:
            with self.subTest(roles=roles, of=of):
                before = self.acme.roles_of(of)
                with pytest.raises(PermissionDenied):
                    self.change(roles, of, self.manager)
                assert self.acme.roles_of(of) == before

    def test_a_user_manager_changes_other_roles_of_a_user_manager(self):
        other = UserFactory.create(roles=[(self.acme, MANAGER), (self.acme, ADMIN)])

        assert self.change([MANAGER], other, self.manager) == {MANAGER}

    def test_who_manages_no_users_changes_nothing(self):
        for user in self.helper, self.carol:
            with pytest.raises(PermissionDenied):
                self.change([ADMIN], self.manager, user)


class DeactivationTests(CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.dave = UserFactory.create(
            home_account=cls.acme, roles=[(cls.acme, ADMIN), (cls.beta, ADMIN)]
        )

    def test_the_home_account_deactivates_and_reactivates(self):
        self.acme.deactivate(self.dave, by=self.alice)
        assert not User.objects.get(pk=self.dave.pk).is_active
        assert self.acme.roles_of(self.dave) == {ADMIN}

        self.acme.reactivate(self.dave, by=self.alice)
        assert User.objects.get(pk=self.dave.pk).is_active

    def test_no_other_account_deactivates(self):
        for deed in self.beta.deactivate, self.beta.reactivate:
            with pytest.raises(PermissionDenied, match="home account"):
                deed(self.dave, by=self.bob)

    def test_nobody_deactivates_themselves(self):
        self.alice.home_account = self.acme
        with pytest.raises(PermissionDenied, match="themselves"):
            self.acme.deactivate(self.alice, by=self.alice)

    def test_a_user_manager_deactivates_nobody_with_an_identity_role(self):
        manager = UserFactory.create(roles=[(self.acme, MANAGER)])
        for role in OWNER, MANAGER:
            other = UserFactory.create(
                home_account=self.acme, roles=[(self.acme, role)]
            )
            with self.subTest(role=role), pytest.raises(PermissionDenied):
                self.acme.deactivate(other, by=manager)

        self.acme.deactivate(self.dave, by=manager)

    def test_the_last_owner_of_the_home_account_cannot_be_deactivated(self):
        self.alice.home_account = self.acme
        with pytest.raises(Conflict, match="at least one"):
            self.alice.deactivate()


class RaceTests(TransactionTestCase):
    def setUp(self):
        self.acme = AccountFactory.create()
        self.owners = [
            UserFactory.create(roles=[(self.acme, OWNER)], home_account=self.acme)
            for _ in range(2)
        ]

    def owner_count(self):
        return self.acme.users_with([OWNER]).count()

    def test_two_owners_cannot_take_the_role_from_one_another(self):
        one, other = self.owners
        for _ in range(5):
            ended = at_once(
                [
                    partial(self.acme.change_roles, [], of=one, by=other),
                    partial(self.acme.change_roles, [], of=other, by=one),
                ]
            )
            assert ended == {"done": 1, "refused": 1}
            assert self.owner_count() == 1
            for owner in self.owners:
                self.acme.grant(OWNER, to=owner)

    def test_two_owners_cannot_deactivate_one_another(self):
        one, other = self.owners
        ended = at_once(
            [
                partial(self.acme.deactivate, one, by=other),
                partial(self.acme.deactivate, other, by=one),
            ]
        )

        assert ended == {"done": 1, "conflict": 1}
        assert self.owner_count() == 1

    def test_the_admin_cannot_take_both_owners_at_once(self):
        ended = at_once(
            [partial(self.acme.withdraw, OWNER, of=owner) for owner in self.owners]
        )

        assert ended == {"done": 1, "conflict": 1}

    def test_no_more_than_the_limit_pass_at_once(self):
        take = partial(
            LimitUse.take,
            self.acme,
            "offers",
            limit=3,
            per=timedelta(days=1),
            sentence="At most 3.",
        )

        assert at_once([take] * 8) == {"done": 3, "too many": 5}


class LimitTests(CastTestCase):
    def take(self, account):
        LimitUse.take(
            account, "offers", limit=1, per=timedelta(days=1), sentence="At most 1."
        )

    def test_each_account_has_its_own_limit(self):
        self.take(self.acme)
        self.take(self.beta)

        with pytest.raises(TooMany, match="At most 1"):
            self.take(self.acme)

    def test_what_is_used_is_told_as_long_as_it_counts(self):
        self.take(self.acme)

        use = LimitUse.objects.running(self.acme).get()
        assert (use.what, use.count, use.limit) == ("offers", 1, 1)
        LimitUse.objects.update(until=use.since)
        assert not LimitUse.objects.running(self.acme)

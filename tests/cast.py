from django.test import TestCase

from accounts.models import Account, User
from accounts.permissions import Role
from images.models import Image
from tests.factories import AccountFactory, ImageFactory, UserFactory


class CastTestCase(TestCase):
    """Alice of Acme produces an image, Bob of Beta may get it, Carol is a stranger."""

    acme: Account
    beta: Account
    corp: Account
    alice: User
    bob: User
    carol: User
    image: Image

    @classmethod
    def setUpTestData(cls) -> None:
        cls.acme = AccountFactory.create(name="Acme")
        cls.beta = AccountFactory.create(name="Beta")
        cls.corp = AccountFactory.create(name="Corp")
        owner = Role.USER_ADMIN
        cls.alice = UserFactory.create(username="alice", roles=[(cls.acme, owner)])
        cls.bob = UserFactory.create(username="bob", roles=[(cls.beta, owner)])
        cls.carol = UserFactory.create(username="carol", roles=[(cls.corp, owner)])
        cls.image = ImageFactory.create(owner=cls.acme)

"""Rows for tests, made as the panel makes them: through the verbs of the domain."""

import hashlib
from typing import Any

import factory
from factory.django import DjangoModelFactory

from accounts import numbers
from accounts.models import Account, Region, User
from accounts.permissions import Role
from images.models import Blob, Image
from sharing.models import ImageShare

PASSWORD = "a long pass phrase for tests"


def account_number(n: int) -> str:
    digits = f"{8200000 + n}"
    return digits + numbers.check_digit(digits)


class RegionFactory(DjangoModelFactory[Region]):
    class Meta:
        model = Region
        django_get_or_create = ("code",)

    code = "IAD"
    name = factory.LazyAttribute(
        lambda region: {
            "IAD": "Northern Virginia",
            "LON": "London",
            "DFW": "Dallas",
        }.get(region.code, f"Region {region.code}")
    )


class AccountFactory(DjangoModelFactory[Account]):
    class Meta:
        model = Account

    number = factory.Sequence(account_number)
    name = factory.Sequence(lambda n: f"Account {n}")
    home_region = factory.SubFactory(RegionFactory)


class UserFactory(DjangoModelFactory[User]):
    """A user, with UserFactory(roles=[(account, role), ...]) also the roles given.

    UserFactory(password=PASSWORD) can sign in by the form.
    """

    class Meta:
        model = User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"user-{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.com")

    @factory.post_generation
    def password(self: Any, create: bool, given: str | None, **_: Any) -> None:
        if given:
            self.set_password(given)
            self.save(update_fields=["password"])

    @factory.post_generation
    def roles(
        self: Any, create: bool, given: list[tuple[Account, Role]] | None, **_: Any
    ) -> None:
        for account, role in given or []:
            account.grant(role, to=self)


class BlobFactory(DjangoModelFactory[Blob]):
    class Meta:
        model = Blob

    backend = "local"
    digest = factory.Sequence(lambda n: hashlib.sha256(str(n).encode()).hexdigest())
    size = 17 << 20
    virtual_size = 64 << 20
    disk_format = "qcow2"


class ImageFactory(DjangoModelFactory[Image]):
    """An active image of its owner; ImageFactory(owner=None) is a base image."""

    class Meta:
        model = Image

    owner = factory.SubFactory(AccountFactory)
    name = factory.Sequence(lambda n: f"Debian 13, build {n}")
    region = factory.SubFactory(RegionFactory)
    os = "Debian 13"
    status = Image.Status.ACTIVE
    origin = factory.LazyAttribute(lambda image: "upload" if image.owner else "base")
    blob = factory.SubFactory(BlobFactory)
    size = factory.LazyAttribute(lambda image: image.blob.size if image.blob else 0)
    virtual_size = factory.LazyAttribute(
        lambda image: image.blob.virtual_size if image.blob else 0
    )


class ImageShareFactory(DjangoModelFactory[ImageShare]):
    """A pending share; ImageShareFactory(accepted=True) is one answered since."""

    class Meta:
        model = ImageShare

    class Params:
        accepted = factory.Trait(
            answer=ImageShare.accept, answered_by=factory.SubFactory(UserFactory)
        )
        rejected = factory.Trait(
            answer=ImageShare.reject, answered_by=factory.SubFactory(UserFactory)
        )

    image = factory.SubFactory(ImageFactory)
    consumer = factory.SubFactory(AccountFactory)
    offered_by = factory.SubFactory(UserFactory)
    message = ""
    answer = None
    answered_by = None

    @classmethod
    def _create(
        cls, model_class: type[ImageShare], *_: Any, **given: Any
    ) -> ImageShare:
        share = model_class.objects.offer(
            given["image"],
            to=given["consumer"].number,
            by=given["offered_by"],
            message=given["message"],
        )
        if given["answer"]:
            given["answer"](share, by=given["answered_by"])
        return share

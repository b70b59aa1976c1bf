"""Servers for tests, ordered as the panel orders them."""

import base64
import struct
import uuid
from typing import Any

import factory
from factory.django import DjangoModelFactory

from images.models import Image
from servers.models import Flavor, Server, SSHKey
from tests.factories import AccountFactory, ImageFactory, UserFactory


def key_line(kind: str, *parts: bytes, comment: str = "alice@laptop") -> str:
    blob = b"".join(struct.pack(">I", len(p)) + p for p in (kind.encode(), *parts))
    return f"{kind} {base64.b64encode(blob).decode()} {comment}"


ED25519 = key_line("ssh-ed25519", bytes(range(32)))


class FlavorFactory(DjangoModelFactory[Flavor]):
    class Meta:
        model = Flavor
        django_get_or_create = ("id",)

    id = "small"
    name = factory.LazyAttribute(lambda flavor: flavor.id.capitalize())
    ram_mb = 512
    disk_gb = 10


class SSHKeyFactory(DjangoModelFactory[SSHKey]):
    class Meta:
        model = SSHKey

    account = factory.SubFactory(AccountFactory)
    name = factory.Sequence(lambda n: f"key {n}")
    public_key = ED25519

    @classmethod
    def _create(cls, model_class: type[SSHKey], *_: Any, **given: Any) -> SSHKey:
        return model_class.add(**given, by=UserFactory.create())


class ServerFactory(DjangoModelFactory[Server]):
    """A server that was just ordered; ServerFactory(active=True) is one that runs."""

    class Meta:
        model = Server

    account = factory.SubFactory(AccountFactory)
    name = factory.Sequence(lambda n: f"web-{n}")
    flavor = factory.SubFactory(FlavorFactory)
    by = factory.SubFactory(UserFactory)

    @classmethod
    def _create(cls, model_class: type[Server], *_: Any, **given: Any) -> Server:
        active = given.pop("active", False)
        account = given.pop("account")
        image = given.pop("image", None) or ImageFactory.create(owner=None)
        image = Image.objects.select_related("region").get(pk=image.pk)
        order = {
            "password_hash": "$6$salt$" + "x" * 86,
            "public_key": "",
            "token": uuid.uuid4(),
            **given,
        }
        server = model_class.objects.order(account, image, order.pop("flavor"), **order)
        if active:
            from servers.tasks import build  # noqa: PLC0415  # it needs the backend

            build(server_id=str(server.pk))
            server.refresh_from_db()
        return server

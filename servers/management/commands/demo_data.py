"""Accounts, people, flavors and images to try the panel with."""

import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from accounts.models import Account, Region, User
from accounts.permissions import Role
from images.base_images import add_base_image
from images.models import Image
from images.stores import Stored, StoreError, store_for
from servers.models import Flavor
from sharing.models import ImageShare, ShareDeclaration

PASSPHRASE = "try-the-demo"  # noqa: S105  # it is printed, and for the demo
SITE_ADMIN = "site-admin"
BASE_IMAGE = "Tiny Linux"
UNUSED = 64 << 10  # bytes behind the last cluster of a file, which no disk has

REGIONS = {
    "DFW": "Dallas",
    "ORD": "Chicago",
    "IAD": "Northern Virginia",
    "LON": "London",
    "SYD": "Sydney",
    "HKG": "Hong Kong",
}
#   id           name              MB    disk (GB)
FLAVORS = [
    ("micro",    "Micro 128 MB",   128,  1),
    ("small",    "Small 256 MB",   256,  2),
    ("medium",   "Medium 512 MB",  512,  4),
    ("large",    "Large 1 GB",     1024, 8),
]  # fmt: skip
ACME, BETA, CORP = "Acme Research", "Beta Productions", "Corp"
HOME_REGIONS = {ACME: "DFW", BETA: "IAD", CORP: "LON"}
#   username  full name         home  roles
PEOPLE = [
    ("alice", "Alice Archer",   ACME, {ACME: Role.USER_ADMIN}),
    ("amir",  "Amir Azizi",     ACME, {ACME: Role.IMAGES_CREATOR}),
    ("anna",  "Anna Åkesson",   ACME, {ACME: Role.ADMIN}),
    ("arun",  "Arun Acharya",   ACME, {ACME: Role.OBSERVER}),
    ("bob",   "Bob Baker",      BETA, {BETA: Role.USER_ADMIN}),
    ("bella", "Bella Bianchi",  BETA, {BETA: Role.IMAGES_CREATOR}),
    ("boris", "Boris Bauer",    BETA, {BETA: Role.ADMIN}),
    ("bao",   "Bao Bui",        BETA, {BETA: Role.OBSERVER}),
    ("dana",  "Dana Diaz",      ACME, dict.fromkeys([ACME, BETA], Role.IMAGES_ADMIN)),
    ("carol", "Carol Chen",     CORP, {CORP: Role.USER_ADMIN}),
]  # fmt: skip


class SavedImage(NamedTuple):
    name: str
    region: str
    tags: tuple[str, ...]


SAVED_IMAGES = [
    SavedImage("Tiny Linux for web tests", "DFW", ("web", "test")),
    SavedImage("Tiny Linux, build runner", "IAD", ("build",)),
    SavedImage("Übungssystem für neue Leute", "DFW", ()),
    SavedImage("لينكس الصغير للتدريب", "LON", ("training",)),
]
OFFERED, ACCEPTED = SAVED_IMAGES[1], SAVED_IMAGES[0]


class Command(BaseCommand):
    help = "Fill a new database with demo data, and print who can sign in."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--base-image", type=Path, metavar="FILE")

    def handle(self, *args: Any, base_image: Path | None, **given: Any) -> None:
        self._refuse_production()
        with transaction.atomic():
            if not User.objects.filter(username=SITE_ADMIN).exists():
                _make_world()
        if base_image:
            self._take_base_image(base_image)
        self._print_sign_ins()

    def _refuse_production(self) -> None:
        """Everybody knows the passphrase, so no real panel may have it."""
        if settings.SECURE_SSL_REDIRECT:
            raise CommandError(
                "Demo data has a passphrase that everybody knows. It is only for a "
                "panel that is served without TLS: set PLAIN_HTTP=true to have it."
            )
        is_demo = User.objects.filter(username=SITE_ADMIN).exists()
        if not is_demo and Account.objects.get_queryset().exists():
            raise CommandError("This database has accounts that are not the demo's.")

    def _take_base_image(self, path: Path) -> None:
        if not path.is_file():
            raise CommandError(f"There is no file {path}.")
        is_new = not Image.objects.base().exists()
        try:
            images = add_base_image(
                path,
                BASE_IMAGE,
                Region.objects.filter(code__in=REGIONS),
                os="Tiny Linux",
                description="A small Linux that boots to a login prompt in seconds.",
                min_ram_mb=128,
            )
            if is_new:
                _save_and_share(images, path)
        except StoreError as problem:
            raise CommandError(str(problem)) from problem

    def _print_sign_ins(self) -> None:
        rows = [("user", "password", "account", "roles")]
        for username, *_ in PEOPLE:
            user = User.objects.filter(username=username).first()
            if user:
                rows += _rows_of(user)
        rows.append((SITE_ADMIN, PASSPHRASE, "-", "the cloud's own staff: /admin/"))
        widths = [max(len(row[n]) for row in rows) for n in range(3)]
        for row in rows:
            cells = [
                cell.ljust(width) for cell, width in zip(row, widths, strict=False)
            ]
            self.stdout.write("  ".join([*cells, row[3]]))


def _rows_of(user: User) -> list[tuple[str, str, str, str]]:
    accounts = Account.objects.open_to(user).order_by("name")
    return [
        (user.username, PASSPHRASE, str(account), ", ".join(sorted(account.roles)))
        for account in accounts
    ]


def _make_world() -> None:
    for code, name in REGIONS.items():
        Region.objects.get_or_create(
            code=code, defaults={"name": name, "backend": "local"}
        )
    for position, (slug, name, ram_mb, disk_gb) in enumerate(FLAVORS):
        figures = {"ram_mb": ram_mb, "disk_gb": disk_gb, "position": position}
        Flavor.objects.get_or_create(id=slug, defaults={"name": name, **figures})
    accounts = {
        name: Account.objects.open(
            name=name, home_region=Region.objects.get(code=region)
        )
        for name, region in HOME_REGIONS.items()
    }
    for username, full_name, home, roles in PEOPLE:
        first_name, _, last_name = full_name.partition(" ")
        user = User.objects.create_user(
            username,
            f"{username}@example.com",
            PASSPHRASE,
            first_name=first_name,
            last_name=last_name,
            home_account=accounts[home],
        )
        for name, role in roles.items():
            accounts[name].grant(role, to=user)
    User.objects.create_superuser(SITE_ADMIN, f"{SITE_ADMIN}@example.com", PASSPHRASE)


def _save_and_share(base_images: list[Image], path: Path) -> None:
    """Give Acme saved images, and offer some to Beta."""
    base = {image.region_id: image for image in base_images}
    store, upload_id = store_for("local"), uuid4()
    try:
        with tempfile.TemporaryDirectory() as folder:
            other = _as_another(path, Path(folder))
            stored = store.import_file(other, upload_id=upload_id)
        with transaction.atomic():
            _share(
                {each: _save(each, base[each.region], stored) for each in SAVED_IMAGES}
            )
    finally:
        store.discard(upload_id)


def _as_another(path: Path, folder: Path) -> Path:
    """The same disk in a file of its own: else the base image would keep what is
    taken back, and no server would ever have to be detached from it."""
    other = folder / "disk.qcow2"
    other.write_bytes(path.read_bytes() + bytes(UNUSED))
    return other


def _save(wanted: SavedImage, base: Image, stored: Stored) -> Image:
    alice = User.objects.get(username="alice")
    image = Image.objects.create(
        owner=alice.home_account,
        region=base.region,
        name=wanted.name,
        description=f"The same disk as the base image {base}, to try sharing with.",
        tags=list(wanted.tags),
        os=base.os,
        min_ram_mb=base.min_ram_mb,
        origin=Image.Origin.UPLOAD,
        uploaded_format="qcow2",
        created_by=alice.get_username(),
        status=Image.Status.SAVING,
    )
    image.activate(base.region.backend, stored)
    return image


def _share(saved: dict[SavedImage, Image]) -> None:
    alice, boris = (User.objects.get(username=name) for name in ("alice", "boris"))
    _offer(saved[ACCEPTED], "You asked for it.", by=alice, to=boris).accept(by=boris)
    _offer(saved[OFFERED], "As promised: the runner.", by=alice, to=boris)


def _offer(image: Image, message: str, *, by: User, to: User) -> ImageShare:
    ShareDeclaration.objects.answer(image, by=by)
    assert to.home_account_id is not None  # noqa: S101  # all of the demo's have one
    return ImageShare.objects.offer(
        image, to=to.home_account_id, by=by, message=message
    )

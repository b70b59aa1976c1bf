"""People who use the panel all the time, each a thread with a browser and a client of
the API.
"""

import hashlib
import json
import random
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

from chaos.client import PASSPHRASE, Answer, ApiClient, Browser, Cut
from chaos.ledger import Ledger, Outcome, Share, Thing

MOST_IMAGES = 6
MOST_SERVERS = 2
FLAVORS = ["micro", "small", "medium"]
_ID = "([0-9a-f-]{36})"
_NUMBERS = count(1)


class Account(NamedTuple):
    number: str
    region: str


class Disks:
    """Files to upload: no two alike, save those that are to be converted."""

    def __init__(self, folder: Path, bootable: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._bootable = bootable
        self._small = folder / "small.qcow2"
        raw = folder / "random.raw"
        boot_sector = bytes(510) + b"\x55\xaa"
        raw.write_bytes(boot_sector + random.Random(0).randbytes(6 << 20))
        self._foreign = []
        for kind in ("qcow2", "vmdk", "vdi"):
            file = folder / f"small.{kind}"
            command = ["qemu-img", "convert", "-O", kind, raw, file]
            subprocess.run(command, check=True, capture_output=True)
            if kind != "qcow2":
                self._foreign.append(file)

    @contextmanager
    def bootable(self) -> Iterator[Path]:
        yield from self._copy(self._bootable)

    @contextmanager
    def small(self) -> Iterator[Path]:
        yield from self._copy(self._small)

    def foreign(self, dice: random.Random) -> Path:
        return dice.choice(self._foreign)

    def _copy(self, source: Path) -> Iterator[Path]:
        # What follows the last cluster belongs to no part of the disk.
        copy = self._folder / f"{uuid4()}.qcow2"
        copy.write_bytes(source.read_bytes() + uuid4().bytes * 32)
        try:
            yield copy
        finally:
            copy.unlink()


class Visitor:
    """One user's deeds. Each asks once, and the ledger has what came of it."""

    def __init__(
        self,
        browser: Browser,
        api: ApiClient,
        ledger: Ledger,
        disks: Disks,
        account: Account,
    ) -> None:
        self.browser = browser
        self.api = api
        self.ledger = ledger
        self.disks = disks
        self.account = account

    @property
    def home(self) -> str:
        return f"/{self.account.number}"

    # Images

    def upload(self, file: Path, *, is_bootable: bool, is_kept: bool) -> Thing:
        image = self._new_image(file, is_bootable, is_kept)

        def ask() -> Answer:
            return self.browser.upload(
                f"{self.home}/images/upload/", file, {"name": image.name}
            )

        answer = self._do(image, "create", ask)
        if answer and answer.status == 302:
            image.id = UUID(_found(rf"/images/{_ID}/", answer.location))
        return image

    def send(
        self, file: Path, *, is_bootable: bool, is_kept: bool, staged: bool
    ) -> Thing:
        """Through the API, where an image is there before its data."""
        image = self._new_image(file, is_bootable, is_kept)
        self._do(image, "create", lambda: self._send(image, file, staged=staged))
        return image

    def _send(self, image: Thing, file: Path, *, staged: bool) -> Answer:
        images = f"/image/{image.region}/v2/images"
        about = {"disk_format": file.suffix[1:], "container_format": "bare"}
        answer = self.api.post(images, {"name": image.name, **about})
        if answer.status != 201:
            return answer
        image.id = UUID(json.loads(answer.text)["id"])
        there = f"{images}/{image.id}"
        answer = self.api.put(f"{there}/stage" if staged else f"{there}/file", file)
        if staged and answer.status == 204:
            method = {"method": {"name": "glance-direct"}}
            answer = self.api.post(f"{there}/import", method)
        if answer.status not in {202, 204}:
            # The image is there, without data.
            raise Cut(f"the data of {image} was answered by {answer.status}")
        return answer

    def _new_image(self, file: Path, is_bootable: bool, is_kept: bool) -> Thing:
        image = self._new("image")
        image.is_bootable = is_bootable
        if is_kept:
            image.digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return image

    def delete_image(self, image: Thing) -> None:
        path = f"{self.home}/images/{image.id}/delete/"
        self._do(image, "delete", lambda: self.browser.post(path))

    # Shares

    def offer(self, image: Thing, consumer: str) -> None:
        path = f"{self.home}/images/{image.id}/share/"
        yes = dict.fromkeys(
            ["may_be_distributed", "holds_no_secrets", "holds_no_malware"], "on"
        )
        form = {**yes, "way": "customer", "number": consumer, "message": "from chaos"}
        share = self.ledger.share(image, consumer)
        self._do(share, "offer", lambda: self.browser.post(path, form, htmx=True))

    def revoke(self, share: Share) -> None:
        page = self.browser.get(f"{self.home}/images/{share.image.id}/shares/")
        if found := page.find(rf"/shares/{_ID}/revoke/"):
            path = f"{self.home}/shares/{found}/revoke/"
            self._do(share, "revoke", lambda: self.browser.post(path, htmx=True))

    def answer(self, share: Share, what: str) -> None:
        page = self.browser.get(f"{self.home}/images/{share.image.id}/")
        if found := page.find(rf"/shares/{_ID}/"):
            path = f"{self.home}/shares/{found}/{what}/"
            self._do(share, what, lambda: self.browser.post(path, htmx=True))

    def remove(self, share: Share) -> None:
        path = f"{self.home}/images/{share.image.id}/remove/"
        self._do(share, "remove", lambda: self.browser.post(path, htmx=True))

    # Servers

    def base_image(self) -> UUID:
        path = f"{self.home}/servers/create/?region={self.account.region}"
        found = self.browser.get(path).find(rf'name="image"[^>]*value="{_ID}"')
        if not found:
            raise Cut(f"{path} offers no image")
        return UUID(found)

    def order(self, image: Thing | None) -> Thing:
        """A server from this image, or from a base image."""
        server = self._new("server")
        if image:
            server.source, server.region = image, image.region
        form = {
            "token": uuid4(),
            "region": server.region,
            "name": server.name,
            "image": image.id if image else self.base_image(),
            "flavor": "micro",
        }
        path = f"{self.home}/servers/create/"
        answer = self._do(
            server, "create", lambda: self.browser.post(path, form), success=201
        )
        if answer and answer.status == 201:
            server.id = UUID(answer.find(rf"/servers/{_ID}/"))
        return server

    def power(self, server: Thing, deed: str, **form: str) -> None:
        path = f"{self.home}/servers/{server.id}/{deed}/"
        self._do(server, deed, lambda: self.browser.post(path, form))

    def rebuild(self, server: Thing, image: Thing | None) -> None:
        """From this image, or from a base image."""
        form = {"image": image.id if image else self.base_image(), "is_sure": "on"}
        path = f"{self.home}/servers/{server.id}/rebuild/"
        self._do(server, "rebuild", lambda: self.browser.post(path, form), success=202)

    def create_image(self, server: Thing) -> Thing:
        image = self._new("image")
        image.source, image.region = server, server.region
        path = f"{self.home}/servers/{server.id}/create-image/"
        self._do(image, "create", lambda: self.browser.post(path, {"name": image.name}))
        return image

    def delete_server(self, server: Thing) -> None:
        path = f"{self.home}/servers/{server.id}/delete/"
        self._do(server, "delete", lambda: self.browser.post(path))

    def look_around(self) -> list[str]:
        """Every page that does not answer as it should."""
        found = []
        for page in ("images/", "servers/", "servers/create/", "offers/list/"):
            path = f"{self.home}/{page}"
            try:
                answer = self.browser.get(path)
            except Cut as cut:
                found.append(str(cut))
            else:
                if not answer.ok:
                    found.append(f"{path} answers {answer.status}")
        return found

    def _new(self, kind: str) -> Thing:
        name = f"{kind}-{next(_NUMBERS)}"
        account, region = self.account
        is_image = kind == "image"
        thing = Thing("image" if is_image else "server", name, account, region)
        return self.ledger.add(thing)

    def _do(
        self,
        of: Thing | Share,
        what: str,
        ask: Callable[[], Answer],
        *,
        success: int | None = None,
    ) -> Answer | None:
        """Ask once. Without an answer, or with a fault, nobody knows."""
        with self.ledger.deed(of, what) as deed:
            try:
                answer = ask()
            except Cut:
                return None
            if answer.status == success or (not success and answer.status < 400):
                deed.outcome = Outcome.DONE
            elif answer.status < 500:
                deed.outcome = Outcome.NOT_DONE
            return answer


class Crowd:
    """Visitors who act by chance until they are paused."""

    def __init__(self, visitors: list[Visitor], seed: int) -> None:
        self._visitors = visitors
        self._open = threading.Event()
        self._over = threading.Event()
        self._idle = [threading.Event() for _ in visitors]
        self.faults: list[str] = []
        for number, visitor in enumerate(visitors):
            dice = random.Random(f"{seed}-{number}")
            arguments = (visitor, dice, self._idle[number])
            threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def go_on(self) -> None:
        self._open.set()

    def pause(self) -> None:
        """Begin nothing new; `is_idle` when what was begun is over."""
        self._open.clear()

    def is_idle(self) -> bool:
        return all(idle.is_set() for idle in self._idle)

    def end(self) -> None:
        self._over.set()
        self._open.set()

    def _run(
        self, visitor: Visitor, dice: random.Random, idle: threading.Event
    ) -> None:
        while True:
            if not self._open.is_set():
                idle.set()
                self._open.wait()
            if self._over.is_set():
                return
            idle.clear()
            try:
                act(visitor, dice, self._visitors)
            except Cut:
                pass  # while it looked something up
            except Exception as error:
                self.faults.append(f"visitor of {visitor.account}: {error!r}")
            self._over.wait(dice.uniform(0.05, 0.6))


def act(visitor: Visitor, dice: random.Random, others: list[Visitor]) -> None:
    """One deed, chosen by chance among those that make sense now."""
    ledger, mine = visitor.ledger, visitor.account.number
    images = [each for each in ledger.things("image", mine) if each.is_there]
    servers = [each for each in ledger.things("server", mine) if each.is_there]
    theirs = sorted({each.account.number for each in others} - {mine})
    sent = [each for each in ledger.shares() if each.image in images]
    received = [
        each
        for each in ledger.shares()
        if each.consumer == mine and each.image.is_there
    ]
    bootable = [each for each in images if each.is_bootable]
    bootable += [each.image for each in received if each.image.is_bootable]
    deeds: list[tuple[float, Callable[[], object]]] = [(2, visitor.look_around)]
    if len(images) < MOST_IMAGES:
        deeds += [(3, lambda: _upload(visitor, dice))]
    if images:
        image = dice.choice(images)
        deeds += [(4, lambda: visitor.offer(image, dice.choice(theirs)))]
        gone = 3 if len(images) >= MOST_IMAGES else 0.5
        deeds += [(gone, lambda: visitor.delete_image(image))]
    if sent:
        deeds += [(1.5, lambda: visitor.revoke(dice.choice(sent)))]
    if received:
        share = dice.choice(received)
        deeds += [(4, lambda: visitor.answer(share, "accept"))]
        deeds += [(1, lambda: visitor.answer(share, "reject"))]
        deeds += [(1, lambda: visitor.remove(share))]
    if len(servers) < MOST_SERVERS:
        chosen = dice.choice([None, *bootable])
        deeds += [(4, lambda: visitor.order(chosen))]
    if servers:
        server = dice.choice(servers)
        gone = 1.5 if len(servers) >= MOST_SERVERS else 0.5
        near = [each for each in bootable if each.region == server.region]
        deeds += [
            (1.5, lambda: visitor.create_image(server)),
            (1, lambda: visitor.power(server, "power-on")),
            (0.7, lambda: visitor.power(server, "power-off")),
            (0.7, lambda: visitor.power(server, "reboot", how="hard")),
            (0.7, lambda: visitor.rebuild(server, dice.choice([None, *near]))),
            (0.7, lambda: visitor.power(server, "resize", flavor=dice.choice(FLAVORS))),
            (gone, lambda: visitor.delete_server(server)),
        ]
    weights, choices = zip(*deeds, strict=True)
    dice.choices(choices, weights)[0]()


def _upload(visitor: Visitor, dice: random.Random) -> None:
    disks = visitor.disks
    ways: list[Callable[..., Thing]] = [
        visitor.upload,
        partial(visitor.send, staged=False),
        partial(visitor.send, staged=True),
    ]
    way = dice.choice(ways)
    match dice.choice(["bootable", "small", "foreign"]):
        case "bootable":
            with disks.bootable() as file:
                way(file, is_bootable=True, is_kept=True)
        case "small":
            with disks.small() as file:
                way(file, is_bootable=False, is_kept=True)
        case _:
            way(disks.foreign(dice), is_bootable=False, is_kept=False)


def open_visitors(
    port: int, ledger: Ledger, disks: Disks, accounts: dict[str, Account]
) -> list[Visitor]:
    """One visitor for each of these users, with the account in which they work."""
    return [
        Visitor(
            Browser(port, username, PASSPHRASE),
            ApiClient(port, username, PASSPHRASE, account.number),
            ledger,
            disks,
            account,
        )
        for username, account in accounts.items()
    ]


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""

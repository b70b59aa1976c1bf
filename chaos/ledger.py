"""What was asked of the panel, and what it has acknowledged.

A deed is written down before it is asked for. An answer of success makes it DONE, a
refusal NOT_DONE; when the answer never came, or was a fault, nobody can tell.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal
from uuid import UUID


class Outcome(Enum):
    DONE = "done"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


@dataclass
class Deed:
    what: str
    outcome: Outcome = Outcome.UNKNOWN
    at: float = field(default_factory=time.monotonic)


class Asked:
    """Something that deeds were done to."""

    deeds: list[Deed]

    def count(self, what: str) -> tuple[int, int]:
        """How often it was done, at least and at most."""
        outcomes = [deed.outcome for deed in self.deeds if deed.what == what]
        done = outcomes.count(Outcome.DONE)
        return done, done + outcomes.count(Outcome.UNKNOWN)

    def well_since(self) -> float:
        """When it was made, or last started: a power-on that was not answered may
        have come to nothing, so harm of before it still shows.
        """
        known = [deed.at for deed in self.deeds if deed.what == "create"]
        known += [
            deed.at
            for deed in self.deeds
            if deed.what == "power-on" and deed.outcome is Outcome.DONE
        ]
        return max(known, default=float("-inf"))


@dataclass
class Thing(Asked):
    """An image or a server of a visitor's, under a name that nothing else has."""

    kind: Literal["image", "server"]
    name: str
    account: str
    region: str
    # Of the image that was uploaded, where its bytes are kept as they are.
    digest: str = ""
    is_bootable: bool = True
    # The image that a server was ordered from, the server an image was made from.
    source: "Thing | None" = None
    id: UUID | None = None
    deeds: list[Deed] = field(default_factory=list)
    # When something was done to it by which it may end in ERROR, with a reason.
    harmed_at: float = float("-inf")

    def __str__(self) -> str:
        return self.name

    @property
    def may_be_gone(self) -> bool:
        return self.count("delete")[1] > 0

    @property
    def is_there(self) -> bool:
        """As far as the visitors know."""
        return self.id is not None and not self.may_be_gone


@dataclass
class Share(Asked):
    image: Thing
    consumer: str
    deeds: list[Deed] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.image} to {self.consumer}"


class Ledger:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._things: list[Thing] = []
        self._shares: dict[tuple[str, str], Share] = {}
        # Harm that strikes all alike, such as a full disk: until when it may show.
        self.all_harmed_until = float("-inf")

    def add(self, thing: Thing) -> Thing:
        with self._lock:
            self._things.append(thing)
        return thing

    def things(self, kind: str, account: str = "") -> list[Thing]:
        with self._lock:
            return [
                thing
                for thing in self._things
                if thing.kind == kind and account in {"", thing.account}
            ]

    def share(self, image: Thing, consumer: str) -> Share:
        with self._lock:
            key = image.name, consumer
            return self._shares.setdefault(key, Share(image, consumer))

    def shares(self) -> list[Share]:
        with self._lock:
            return list(self._shares.values())

    def by_id(self, thing_id: UUID) -> Thing | None:
        with self._lock:
            return next((each for each in self._things if each.id == thing_id), None)

    def outcomes(self) -> Counter[tuple[str, str]]:
        """How many deeds came to which end."""
        with self._lock:
            every: list[Asked] = [*self._things, *self._shares.values()]
            return Counter(
                (deed.what, deed.outcome.value) for each in every for deed in each.deeds
            )

    @contextmanager
    def deed(self, of: Asked, what: str) -> Iterator[Deed]:
        """Written down first; the caller sets its outcome."""
        deed = Deed(what)
        with self._lock:
            of.deeds.append(deed)
        yield deed

    def may_be_broken(self, thing: Thing) -> bool:
        """Whether it was harmed since it was last asked to be well, or what it is
        made from was taken away."""
        asked_at = thing.well_since()
        if max(thing.harmed_at, self.all_harmed_until) >= asked_at:
            return True
        source = thing.source
        if source is None:
            return False
        with self._lock:
            share = self._shares.get((source.name, thing.account))
        withdrawn = share is not None and share.count("revoke")[1] > 0
        return withdrawn or source.may_be_gone or source.harmed_at >= asked_at

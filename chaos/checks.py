"""What must be true of the panel when it has come to rest.

Everything is read past the panel: rows by SQL, files and processes as they are.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

from chaos import processes
from chaos.ledger import Asked, Ledger, Share, Thing
from chaos.panel import Database

DAY = 24 * 60 * 60
# Data that nobody sends any more: what the panel does about it after ten minutes.
CUT_OFF = (
    "(status = 'saving' AND origin = 'upload' AND uploaded_format = ''"
    " OR status = 'queued' AND staged AND size = 0)"
)
# How a deed of the ledger is called among the events of a server.
SERVER_EVENTS = {
    "create": "create",
    "power-on": "power_on",
    "power-off": "power_off",
    "reboot": "reboot_hard",
    "rebuild": "rebuild",
    "resize": "resize",
    "delete": "delete",
}
# And as the move of a share, from and to.
SHARE_EVENTS = {
    "offer": ("", "pending"),
    "accept": ("pending", "accepted"),
    "reject": ("pending", "rejected"),
    "remove": ("accepted", "rejected"),
}


class Kind(StrEnum):
    LOST = "lost"
    DOUBLED = "doubled"
    ORPHANED = "orphaned"
    UNEXPLAINED = "unexplained"
    # Not at rest: of no harm if it ends by itself, and unexplained if it does not.
    UNFINISHED = "unfinished"


class Finding(NamedTuple):
    kind: Kind
    text: str


class World(Protocol):
    """What the checks look at beside the database; the panel, or a test's own."""

    data_dir: Path

    def qemus(self) -> Iterator[tuple[UUID, int]]: ...

    def qemu_imgs(self) -> list[int]: ...


class Checks:
    def __init__(self, world: World, database: Database, ledger: Ledger) -> None:
        self.world = world
        self.database = database
        self.ledger = ledger

    def all(self) -> list[Finding]:
        """Everything but the pages, which are looked at when this finds nothing."""
        self._adopt()
        return [
            *self.unfinished(),
            *self.images(),
            *self.servers(),
            *self.shares(),
            *self.processes(),
            *self.orders(),
            *self.blobs(),
            *self.leftovers(),
        ]

    def _adopt(self) -> None:
        """Learn the ids of what was made though its maker got no answer."""
        for kind, table in (("image", "images_image"), ("server", "servers_server")):
            nameless = [each for each in self.ledger.things(kind) if each.id is None]
            names = [each.name for each in nameless]
            query = f"SELECT name, id FROM {table} WHERE name = ANY(%s)"
            ids = dict(self.database.rows(query, names))
            for thing in nameless:
                thing.id = ids.get(thing.name)

    # At rest?

    def unfinished(self) -> Iterator[Finding]:
        for (name,) in self.database.rows(
            f"SELECT name FROM images_image WHERE status = 'saving' AND NOT {CUT_OFF}"
        ):
            yield Finding(Kind.UNFINISHED, f"{name} is still saving")
        for name, task in self.database.rows(
            "SELECT name, task FROM servers_server WHERE task <> ''"
        ):
            yield Finding(Kind.UNFINISHED, f"{name} is still {task}")
        for name, job in self.database.rows(
            "SELECT task_name, j.id FROM procrastinate_jobs j"
            " LEFT JOIN procrastinate_workers w ON w.id = worker_id"
            " WHERE status = 'doing' AND (w.id IS NULL"
            " OR w.last_heartbeat < now() - interval '15 seconds')"
        ):
            yield Finding(Kind.UNFINISHED, f"nobody works on {name} ({job})")
        for name, job in self.database.rows(
            "SELECT task_name, id FROM procrastinate_jobs WHERE status IN"
            " ('todo', 'doing') AND NOT args ? 'timestamp'"
            " AND task_name NOT LIKE '%%.screenshot'"
        ):
            yield Finding(Kind.UNFINISHED, f"{name} is still to be done ({job})")

    # What was acknowledged

    def images(self) -> Iterator[Finding]:
        rows = self.database.rows(
            "SELECT i.name, i.status, i.status_reason, b.digest"
            " FROM images_image i LEFT JOIN images_blob b ON b.id = i.blob_id"
            " WHERE owner_id IS NOT NULL"
        )
        states = {name: rest for name, *rest in rows}
        yield from self._counted("image", [name for name, *_ in rows])
        for image in self.ledger.things("image"):
            if image.name not in states:
                continue
            status, reason, digest = states[image.name]
            if status in ("error", "deactivated") and not reason:
                yield Finding(Kind.UNEXPLAINED, f"{image.name}: {status}, no reason")
            if status == "error" and not self.ledger.may_be_broken(image):
                yield Finding(Kind.LOST, f"{image.name} is in error: {reason}")
            if status == "queued" and image.count("create")[0]:
                yield Finding(Kind.LOST, f"{image.name} waits for data that was taken")
            if status == "active" and image.digest not in ("", digest):
                yield Finding(Kind.LOST, f"{image.name} has other bytes than were sent")

    def servers(self) -> Iterator[Finding]:
        rows = self.database.rows(
            "SELECT name, id, status, task, reason FROM servers_server"
        )
        states = {name: rest for name, *rest in rows}
        yield from self._counted("server", [name for name, *_ in rows])
        events = Counter(
            self.database.rows("SELECT server_name, what FROM servers_serverevent")
        )
        running = dict(self.world.qemus())
        for server in self.ledger.things("server"):
            for what, event in SERVER_EVENTS.items():
                yield from _as_often(server, what, events[server.name, event])
            if server.name in states:
                server_id, *state = states[server.name]
                yield from self._state_of(server, server_id, state, running)

    def _state_of(
        self,
        server: Thing,
        server_id: UUID,
        state: list[str],
        running: dict[UUID, int],
    ) -> Iterator[Finding]:
        name, (status, task, reason) = server.name, state
        broken = self.ledger.may_be_broken(server)
        if status == "ACTIVE" and not task and server_id not in running:
            yield Finding(Kind.ORPHANED, f"{name} is ACTIVE without a process")
        if status in ("SHUTOFF", "ERROR") and not task and server_id in running:
            yield Finding(Kind.ORPHANED, f"{name} is {status}, and its process runs")
        if status == "ERROR" and not reason:
            yield Finding(Kind.UNEXPLAINED, f"{name} is in ERROR without a reason")
        if status == "ERROR" and not broken:
            yield Finding(Kind.LOST, f"{name} is in ERROR: {reason}")
        if status == "SHUTOFF" and not (server.count("power-off")[1] or broken):
            yield Finding(Kind.LOST, f"{name} is SHUTOFF by nobody: {reason}")
        folder = self.world.data_dir / "servers" / str(server_id)
        if status in ("ACTIVE", "SHUTOFF") and not (folder / "disk.qcow2").exists():
            yield Finding(Kind.LOST, f"{name} has no disk")

    def _counted(self, kind: str, names: list[str]) -> Iterator[Finding]:
        there = Counter(names)
        for thing in self.ledger.things(kind):
            known, made = there[thing.name], thing.count("create")
            if made[0] and not known and not thing.may_be_gone:
                yield Finding(Kind.LOST, f"{thing.name} was acknowledged, and is gone")
            if known > made[1]:
                yield Finding(Kind.DOUBLED, f"{thing.name} is there {known} times")
            if known and thing.count("delete")[0]:
                yield Finding(Kind.LOST, f"{thing.name} was deleted, and is there")

    def shares(self) -> Iterator[Finding]:
        events: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for image, consumer, *move in self.database.rows(
            "SELECT image_id, consumer_number, from_status, to_status"
            " FROM sharing_shareevent ORDER BY id"
        ):
            events.setdefault((str(image), consumer), []).append((move[0], move[1]))
        states = {
            (str(image), consumer): status
            for image, consumer, status in self.database.rows(
                "SELECT image_id, consumer_number, status FROM sharing_imageshare"
            )
        }
        for share in self.ledger.shares():
            key = str(share.image.id), share.consumer
            moves = events.get(key, [])
            yield from _history_of(share, moves, states.get(key, ""))

    # Nothing is left behind

    def processes(self) -> Iterator[Finding]:
        known = {row[0] for row in self.database.rows("SELECT id FROM servers_server")}
        seen = Counter(server_id for server_id, _ in self.world.qemus())
        for server_id, times in seen.items():
            if server_id not in known:
                yield Finding(Kind.ORPHANED, f"QEMU of {server_id}, which has no row")
            if times > 1:
                yield Finding(Kind.DOUBLED, f"{times} QEMU run {server_id}")
        for pid in self.world.qemu_imgs():
            words = processes.command_line(pid).replace(b"\0", b" ").decode()
            yield Finding(Kind.UNFINISHED, f"still running: {words[-200:]}")

    def orders(self) -> Iterator[Finding]:
        """What is to become of a server stands in a row of its own until it is so."""
        for table, task in (
            ("servers_rebuild", "rebuilding"),
            ("servers_resize", "resizing"),
        ):
            query = (
                f"SELECT name FROM {table} o JOIN servers_server s ON s.id = server_id"
                " WHERE task NOT IN (%s, 'deleting')"
            )
            for (name,) in self.database.rows(query, task):
                yield Finding(Kind.ORPHANED, f"order of {name}, which is not {task}")

    def blobs(self) -> Iterator[Finding]:
        rows = self.database.rows("SELECT digest FROM images_blob")
        known = {digest for (digest,) in rows}
        files = {
            path.stem: path for path in self.world.data_dir.glob("images/blobs/??/*")
        }
        for digest in known - files.keys():
            yield Finding(Kind.LOST, f"blob {digest[:12]} has no file")
        for digest in files.keys() - known:
            yield Finding(Kind.ORPHANED, f"file of blob {digest[:12]} has no row")
        for (digest,) in self.database.rows(
            "SELECT digest FROM images_blob b WHERE"
            " NOT EXISTS (SELECT 1 FROM images_image WHERE blob_id = b.id) AND"
            " NOT EXISTS (SELECT 1 FROM servers_server WHERE blob_id = b.id) AND"
            " NOT EXISTS (SELECT 1 FROM servers_rebuild WHERE blob_id = b.id)"
        ):
            yield Finding(Kind.ORPHANED, f"nothing refers to blob {digest[:12]}")

    def damaged_blobs(self) -> Iterator[Finding]:
        """Slow: every byte is read."""
        for path in self.world.data_dir.glob("images/blobs/??/*"):
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
                yield Finding(Kind.LOST, f"blob {path.stem[:12]} has other bytes")

    def leftovers(self) -> Iterator[Finding]:
        rows = self.database.rows("SELECT id FROM servers_server")
        known = {str(server_id) for (server_id,) in rows}
        for path in self._folder("servers"):
            if path.name not in known:
                yield Finding(Kind.ORPHANED, f"servers/{path.name} has no row")
            for rest in (
                *path.glob("*.new"),
                *path.glob("rebuilt"),
                *path.glob("snapshot.qcow2"),
            ):
                yield Finding(Kind.ORPHANED, f"servers/{path.name}/{rest.name}")
        staged = self.database.rows("SELECT id FROM images_image WHERE staged")
        awaited = {f"{image_id}.data" for (image_id,) in staged}
        for path in (*self._folder("images/uploads"), *self._folder("snapshots")):
            if path.name not in awaited:
                yield Finding(Kind.ORPHANED, f"{path.parent.name}/{path.name}")
        for (name,) in self.database.rows(
            f"SELECT name FROM images_image WHERE {CUT_OFF}"
        ):
            yield Finding(Kind.ORPHANED, f"nobody sends the data of {name} any more")

    def age_leftovers(self) -> bool:
        """Let a day pass for what the panel sweeps later; is there any?"""
        old = time.time() - 2 * DAY
        cut_off = self.database.rows(
            "UPDATE images_image SET updated_at = now() - interval '2 days'"
            f" WHERE {CUT_OFF} RETURNING id"
        )
        found = (*self._folder("images/uploads"), *self._folder("snapshots"))
        for path in found:
            os.utime(path, (old, old))
        return bool(found or cut_off)

    def _folder(self, name: str) -> list[Path]:
        folder = self.world.data_dir / name
        return sorted(folder.iterdir()) if folder.exists() else []


def _as_often(of: Asked, what: str, times: int) -> Iterator[Finding]:
    """An event for each deed that was acknowledged, and none for one that was not."""
    name = str(of)
    least, most = of.count(what)
    if times < least:
        yield Finding(Kind.LOST, f"{name}: {times} events of {least} x {what}")
    if times > most:
        yield Finding(Kind.DOUBLED, f"{name}: {times} events of {most} x {what}")


def _history_of(
    share: Share, moves: list[tuple[str, str]], status: str
) -> Iterator[Finding]:
    name = str(share)
    for what, move in SHARE_EVENTS.items():
        yield from _as_often(share, what, moves.count(move))
    ends = sum(to == "" for _, to in moves)
    least, most = share.count("revoke")
    if ends < least:
        yield Finding(Kind.LOST, f"{name}: {ends} events of {least} x revoke")
    if ends > most + share.image.may_be_gone:
        yield Finding(Kind.DOUBLED, f"{name}: {ends} events of {most} x revoke")
    before = ""
    for from_status, to_status in moves:
        if from_status != before:
            yield Finding(Kind.LOST, f"{name}: no event from {before or 'none'}")
        before = to_status
    if before != status:
        told = before or "none"
        yield Finding(Kind.LOST, f"{name} is {status or 'none'}, its events say {told}")

"""What goes wrong: processes killed at any moment, and worse things one by one."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from chaos.client import Browser, Cut
from chaos.ledger import Ledger, Thing
from chaos.panel import Database, Panel, libfaketime
from chaos.visitors import Visitor

# qemu-img runs for a moment only: so long (in seconds) is waited for one.
HUNT = 4
Recovered = Callable[[], bool]


@dataclass
class Scene:
    """All that a fault may need."""

    panel: Panel
    database: Database
    ledger: Ledger
    browser: Browser
    visitor: Visitor
    dice: random.Random
    # Lets the visitors act, or not, for so many seconds.
    load: Callable[[float], None]
    # Asked once for all that wait for it: while the panel is down, each time takes
    # five seconds, in which nobody starts what has ended.
    has_answered: bool | None = None

    def answers(self) -> bool:
        """Whether a page that needs the database is there within five seconds."""
        if self.has_answered is None:
            try:
                page = self.browser.get(self.visitor.home + "/images/", seconds=5)
                self.has_answered = page.ok
            except Cut:
                self.has_answered = False
        return self.has_answered


# Processes that are killed


def kill_web_worker(scene: Scene) -> Recovered | None:
    panel = scene.panel
    pid = _kill_one_of(panel.web_workers(), scene.dice)
    if not pid:
        return None

    def recovered() -> bool:
        workers = panel.web_workers()
        return len(workers) == 2 and pid not in workers and scene.answers()

    return recovered


def kill_web_master(scene: Scene) -> Recovered | None:
    panel = scene.panel
    old = {*panel.web_workers(), panel.web.pid}
    if not _kill_one_of([panel.web.pid], scene.dice):
        return None

    def recovered() -> bool:
        workers = panel.web_workers()
        return len(workers) == 2 and not old & {*workers} and scene.answers()

    return recovered


def kill_worker(scene: Scene) -> Recovered | None:
    """Recovered when what it was doing is done, or begun anew by another."""
    is_done = _jobs_of_now(scene)
    since = scene.database.one("SELECT now()")
    if not _kill_one_of(scene.panel.workers(), scene.dice):
        return None

    def recovered() -> bool:
        query = "SELECT max(last_heartbeat) > %s FROM procrastinate_workers"
        return bool(scene.database.one(query, since)) and is_done()

    return recovered


def kill_qemu(scene: Scene) -> Recovered | None:
    """Recovered when its server is not called ACTIVE any more, or runs again."""
    found = sorted(scene.panel.qemus())
    if not found:
        return None
    server_id, pid = scene.dice.choice(found)
    harm(scene, server_id)
    if not _kill_one_of([pid], scene.dice):
        return None

    def recovered() -> bool:
        query = "SELECT status = 'ACTIVE' FROM servers_server WHERE id = %s"
        runs = server_id in dict(scene.panel.qemus())
        return runs or not scene.database.one(query, server_id)

    return recovered


def kill_qemu_img(scene: Scene) -> Recovered | None:
    """Recovered when the job that it worked for is done, or begun anew."""
    scene.panel.wait(HUNT, until=lambda: bool(scene.panel.qemu_imgs()))
    is_done = _jobs_of_now(scene)
    if not _kill_one_of(scene.panel.qemu_imgs(), scene.dice):
        return None
    return is_done


def kill_postgres(scene: Scene) -> Recovered | None:
    process = scene.panel.database.process
    if not process or not _kill_one_of([process.pid], scene.dice):
        return None
    return scene.answers


def kill_backend(scene: Scene) -> Recovered | None:
    """PostgreSQL ends them all when one of them dies so."""
    if not _kill_one_of(scene.panel.postgres_backends(), scene.dice):
        return None
    return scene.answers


@dataclass(frozen=True)
class Kill:
    name: str
    weight: float
    strike: Callable[[Scene], Recovered | None]


KILLS = [
    Kill("kill -9 web worker", 5, kill_web_worker),
    Kill("kill -9 web master", 2, kill_web_master),
    Kill("kill -9 job worker", 4, kill_worker),
    Kill("kill -9 QEMU", 4, kill_qemu),
    Kill("kill -9 qemu-img", 3, kill_qemu_img),
    Kill("kill -9 PostgreSQL backend", 2, kill_backend),
    Kill("kill -9 PostgreSQL", 2, kill_postgres),
]


def harm(scene: Scene, server_id: UUID) -> None:
    """Note that what becomes of the server is our fault."""
    # Read first: an order may be answered at this moment.
    unanswered = [each for each in scene.ledger.things("server") if each.id is None]
    thing = scene.ledger.by_id(server_id)
    for each in [thing] if thing else unanswered:
        each.harmed_at = time.monotonic()


def _kill_one_of(pids: list[int], dice: random.Random) -> int:
    """Which was killed; none if it was gone already."""
    if pids:
        pid = dice.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return pid
    return 0


def _jobs_of_now(scene: Scene) -> Recovered:
    query = "SELECT id, attempts FROM procrastinate_jobs WHERE status = 'doing'"
    before = set(scene.database.rows(query))
    return lambda: not before & set(scene.database.rows(query))


# What is done once, for a while


def postgres_restarted(scene: Scene) -> None:
    scene.load(4)
    if process := scene.panel.database.process:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def two_workers(scene: Scene) -> None:
    """Started by mistake beside the first one, on the same folder."""
    scene.panel.spare_worker.start()
    scene.load(18)
    scene.panel.end_spare_worker()


def worker_asleep(scene: Scene) -> None:
    """It stands still in the midst of its jobs, another takes them, it wakes up."""
    panel, busy = scene.panel, "SELECT 1 FROM procrastinate_jobs WHERE status = 'doing'"
    busy += " AND NOT args ? 'timestamp'"
    scene.load(1)
    panel.wait(20, until=lambda: scene.database.one(busy))
    sleeper = panel.worker.pid
    os.kill(sleeper, signal.SIGSTOP)
    panel.spare_worker.start()
    scene.load(45)
    with suppress(ProcessLookupError):
        os.kill(sleeper, signal.SIGCONT)
    scene.load(5)
    panel.end_spare_worker()


def full_disk(scene: Scene) -> None:
    filler = scene.panel.data_dir / "filler"
    _harm_all(scene)
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        scene.load(12)
        _harm_all(scene)
    finally:
        with suppress(OSError):
            filler.unlink()


def read_only_store(scene: Scene) -> None:
    images = scene.panel.data_dir / "images"
    # Not while somebody writes there: the kernel refuses it.
    scene.load(0)
    scene.panel.wait(60, until=lambda: scene.panel.remount(images, "ro"))
    _harm_all(scene)
    try:
        scene.load(12)
        _harm_all(scene)
    finally:
        scene.panel.remount(images, "rw")


def clock_jumps(scene: Scene) -> None:
    with scene.panel.own_clock() as set_clock:
        scene.load(4)
        for offset in ("+2d", "+2h", "-2h", "+0"):
            set_clock(offset)
            scene.load(7)
        # It is still noticed what goes wrong after that.
        kill_qemu(scene)
        scene.panel.wait(25, until=lambda: not _unnoticed(scene))
        problems = _unnoticed(scene)
    if problems:
        raise Unexpected("after the clock went back nobody looks after the servers")


def corrupted_overlay(scene: Scene) -> None:
    visitor = scene.visitor
    server = visitor.order(None)
    _wait_for(scene, server, "ACTIVE")
    visitor.power(server, "power-off")
    _wait_for(scene, server, "SHUTOFF")
    disk = _folder_of(scene, server) / "disk.qcow2"
    with disk.open("r+b") as file:
        file.write(random.Random(0).randbytes(1 << 16))
    server.harmed_at = float("inf")
    visitor.power(server, "power-on")
    _wait_for(scene, server, "ERROR")
    _explained(scene, server, "disk")
    visitor.delete_server(server)


def base_removed(scene: Scene) -> None:
    visitor = scene.visitor
    with visitor.disks.bootable() as file:
        image = visitor.upload(file, is_bootable=True, is_kept=True)
    _wait_for(scene, image, "active")
    running, stopped = visitor.order(image), visitor.order(image)
    for server in (running, stopped):
        _wait_for(scene, server, "ACTIVE")
    visitor.power(stopped, "power-off")
    _wait_for(scene, stopped, "SHUTOFF")

    blobs = scene.panel.data_dir / "images" / "blobs"
    (blob,) = blobs.glob(f"??/{image.digest}.*")
    aside = scene.panel.folder / blob.name
    aside.write_bytes(blob.read_bytes())
    blob.unlink()
    stopped.harmed_at = float("inf")
    visitor.power(stopped, "power-on")
    _wait_for(scene, stopped, "ERROR")
    _explained(scene, stopped, "image")
    late = visitor.order(image)
    late.harmed_at = float("inf")
    _wait_for(scene, late, "ERROR")
    _explained(scene, late, "image")
    _wait_for(scene, running, "ACTIVE")

    # Put back by hand, from a backup.
    blob.write_bytes(aside.read_bytes())
    blob.chmod(0o444)
    stopped.harmed_at = float("-inf")
    visitor.power(stopped, "power-on")
    _wait_for(scene, stopped, "ACTIVE")
    for server in (running, stopped, late):
        visitor.delete_server(server)
    visitor.delete_image(image)


class Unexpected(Exception):
    """The panel did not do what it has to do under this fault."""


@dataclass(frozen=True)
class Single:
    name: str
    happen: Callable[[Scene], None]
    needs: Callable[[Panel], str] = lambda panel: ""


def _own_disk(panel: Panel) -> str:
    return "" if panel.has_own_disk else "only root can mount a disk of its own"


def _own_clock(panel: Panel) -> str:
    return "" if libfaketime() else "the package libfaketime is not installed"


SINGLES = [
    Single("PostgreSQL restarted", postgres_restarted),
    Single("corrupted overlay", corrupted_overlay),
    Single("base file removed by hand", base_removed),
    Single("two workers by mistake", two_workers),
    Single("worker asleep for 45 s", worker_asleep),
    Single("clock jumps 2 d ahead, 2 h back", clock_jumps, _own_clock),
    Single("full disk", full_disk, _own_disk),
    Single("read-only store", read_only_store, _own_disk),
]


def _harm_all(scene: Scene) -> None:
    scene.ledger.all_harmed_until = time.monotonic()


def _folder_of(scene: Scene, server: Thing) -> Path:
    return scene.panel.data_dir / "servers" / str(server.id)


def _wait_for(scene: Scene, thing: Thing, status: str) -> None:
    if thing.id is None:
        raise Unexpected(f"{thing.name} was refused")
    table = "images_image" if thing.kind == "image" else "servers_server"
    query = f"SELECT status FROM {table} WHERE id = %s"
    if thing.kind == "server":
        query += " AND task = ''"

    def is_so() -> bool:
        return bool(scene.database.one(query, thing.id) == status)

    if not scene.panel.wait(90, until=is_so):
        found = scene.database.one(query, thing.id)
        raise Unexpected(f"{thing.name} is {found}, not {status}")


def _explained(scene: Scene, server: Thing, word: str) -> None:
    query = "SELECT reason FROM servers_server WHERE id = %s"
    reason = scene.database.one(query, server.id) or ""
    if word not in reason:
        raise Unexpected(f"the reason of {server.name} says nothing of it: {reason!r}")


def _unnoticed(scene: Scene) -> bool:
    running = dict(scene.panel.qemus())
    query = "SELECT id FROM servers_server WHERE status = 'ACTIVE' AND task = ''"
    return any(server_id not in running for (server_id,) in scene.database.rows(query))

"""Back up a panel's database and files, and restore them onto a fresh machine.

    python -m tools.backup save FOLDER       a new backup below FOLDER
    python -m tools.backup restore BACKUP    into an empty database and DATA_DIR

DATABASE_URL and DATA_DIR are those of the panel, PG_BIN the folder of pg_dump if it is
not the PATH's.

    FOLDER/blobs/ab/abcd….qcow2         image files, shared by all backups
    FOLDER/2026-11-24T03-00-00/         one backup; it has this name once it is whole
        database                        pg_dump's custom format
        servers/<id>/                   disks of the servers that were off

Image files are copied before the database, until none is new, and again after it, so
all that it names is there: what was deleted since, and what came meanwhile. (An image
would have to come and go again within the dump to be missed.) A file that is newer than
the database is one too many, which does no harm. Blobs never change and have their
digest as name, so each is copied once, and what is there need not be compared.

A copy whose digest is not its name is none, and neither is one that cannot be read to
its end: such a file is named, all else is saved, and the exit status is 1. So is the
disk of a server that is off, but is being worked on all the time. The disk of one that
runs changes while it is read, so it is left out and named.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict

from servers.compute import process
from servers.compute.base import ComputeError, ServerBusy, ServerNotFound
from servers.compute.disks import read_header
from servers.compute.folder import ServerFolder, all_folders

_DUMP = "database"
# Of a server; all else in its folder is made anew.
_KEPT = ("state.json", "disk.qcow2", "seed.tar", "order")
# How long a deed with a server is waited for, in seconds.
_PATIENCE = 60
# How often it is looked for new image files before the database is saved anyway.
_MOST_ROUNDS = 10
_CHUNK = 1 << 20
# What libpq calls the parts of an address in the environment.
_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}


class BackupError(RuntimeError):
    """Why there is no backup, or why it was not restored, in a sentence."""


class Saved(NamedTuple):
    backup: Path
    # Image files and servers that are not in it, though they are there.
    missing: set[str]


def save(url: str, data: Path, folder: Path) -> Saved:
    """Make one more backup; returns its folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        return _save(url, data, folder)


def _save(url: str, data: Path, folder: Path) -> Saved:
    backup = folder / time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
    draft = folder / f"{backup.name}.new"
    draft.mkdir(mode=0o700)
    blobs = data / "images" / "blobs", folder / "blobs"
    # Before, for what is deleted meanwhile; and after, for what comes meanwhile.
    count, missing = 0, set[str]()
    for _ in range(_MOST_ROUNDS):
        copied = _copy_blobs(*blobs, missing)
        count += copied
        if not copied:
            break
    _run(url, "pg_dump", "--format=custom", f"--file={draft / _DUMP}")
    count += _copy_blobs(*blobs, missing)
    say(f"database, and {count} image files that were not here yet")
    missing |= _save_servers(data / "servers", draft / "servers")
    _sync(draft)
    draft.rename(backup)
    _sync(folder)
    return Saved(backup, missing)


def restore(url: str, data: Path, backup: Path) -> set[str]:
    """Bring a backup back; raises BackupError before it would overwrite anything.

    Returns the image files and servers that are not brought back.
    """
    _check_empty(url, data, backup)
    _run(
        url,
        *("pg_restore", "--exit-on-error", "--single-transaction", "--no-owner"),
        *("--no-acl", f"--dbname={conninfo_to_dict(url).get('dbname', '')}"),
        str(backup / _DUMP),
    )
    data.mkdir(parents=True, exist_ok=True)
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT digest, disk_format FROM images_blob")
        names = [Path(digest[:2], f"{digest}.{form}") for digest, form in rows]
        rows = connection.execute(
            "SELECT s.id, b.digest FROM servers_server s"
            " LEFT JOIN images_blob b ON b.id = s.blob_id"
        )
        digests: dict[UUID, str | None] = dict(rows.fetchall())
    missing = {
        name.stem
        for name in names
        if not _restore_blob(name, backup.parent / "blobs", data / "images" / "blobs")
    }
    for server in all_folders(backup / "servers"):
        if server.id not in digests:  # it is newer than the database
            continue
        if not _restore_server(server, data / "servers", digests[server.id]):
            missing.add(str(server.id))
    say(f"database, {len(names)} image files, disks of servers")
    return missing


def _check_empty(url: str, data: Path, backup: Path) -> None:
    if not (backup / _DUMP).is_file():
        raise BackupError(f"{backup} is no backup.")
    for kept in ("images", "servers"):
        if any((data / kept).rglob("*")):
            raise BackupError(f"{data / kept} is not empty.")
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT FROM pg_tables WHERE schemaname = 'public'")
        if found.fetchone() is not None:
            raise BackupError("The database is not empty.")


# Files


def _copy_blobs(source: Path, target: Path, missing: set[str]) -> int:
    """Copy those that are new, and add to the missing ones what is no sound file."""
    count = 0
    for path in sorted(source.glob("??/*")):
        place = target / path.relative_to(source)
        if path.stem in missing or place.exists():
            continue
        try:
            _copy_blob(path, place)
        except FileNotFoundError:  # deleted with its image since we looked
            continue
        except _Unsound as problem:
            missing.add(path.stem)
            say(f"not in the backup: the image file {path.stem}: {problem}")
            continue
        count += 1
    return count


def _restore_blob(name: Path, source: Path, target: Path) -> bool:
    """False if it cannot be, which is told."""
    try:
        if not (source / name).is_file():
            raise _Unsound("it is not there")
        _copy_blob(source / name, target / name)
    except _Unsound as problem:
        say(f"not in the backup: the image file {name.stem}: {problem}")
        return False
    # As the store makes them, whatever our umask is.
    for folder in (target.parent, target, (target / name).parent):
        folder.chmod(0o755)
    return True


class _Unsound(Exception):
    """Why a file is not worth keeping, or cannot be."""


def _copy_blob(source: Path, target: Path) -> None:
    """Whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(target.name + ".new")
    # Of a run that was cut short, and perhaps read-only by now.
    draft.unlink(missing_ok=True)
    try:
        if _copy(source, draft) != source.stem:
            raise _Unsound("its data is damaged")
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.chmod(0o444)
    draft.rename(target)
    _sync(target.parent)


def _copy(source: Path, target: Path) -> str:
    """Returns the digest of what was copied; raises _Unsound if it cannot be read."""
    digest = hashlib.sha256()
    with _open(source) as original, target.open("xb") as copy:
        while chunk := _read(original):
            digest.update(chunk)
            copy.write(chunk)
    shutil.copymode(source, target)
    _sync(target)
    return digest.hexdigest()


def _open(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Unsound(f"it cannot be read ({error.strerror})") from error


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK)
    except OSError as error:
        raise _Unsound(f"it cannot be read ({error.strerror})") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of two backups into one folder each would take the other's drafts for its own."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"Another backup is being made into {folder}.") from None
        yield
    finally:
        os.close(descriptor)


def _save_servers(source: Path, target: Path) -> set[str]:
    """Save all that are off; returns the IDs of those that could not be saved."""
    servers = all_folders(source)
    # Who is being worked on has another chance when all others are saved.
    for _ in range(2):
        left: dict[ServerFolder, Exception] = {}
        for server in servers:
            try:
                _save_server(server, target / str(server.id))
            except ServerNotFound:
                pass  # deleted since we looked
            except (ServerBusy, _Unsound) as problem:
                left[server] = problem
        servers = list(left)
    for server, why in left.items():
        say(f"not in the backup: the disk of the server {server.id}: {why}")
    return {str(server.id) for server in left}


def _save_server(server: ServerFolder, target: Path) -> None:
    """Nothing of one that runs. Raises ServerBusy, ServerNotFound or _Unsound."""
    if _runs(server):
        return
    # Nobody starts it while its disk is read.
    with server.locked(patience=_PATIENCE):
        if _runs(server):
            return
        if process.find(server.pid, server.id):
            raise ServerBusy("A process that worked with its disk is still there.")
        target.mkdir(parents=True, mode=0o700)
        try:
            for name in _KEPT:
                with suppress(FileNotFoundError):
                    _copy(server.path / name, target / name)
        except BaseException:
            shutil.rmtree(target)
            raise


def _runs(server: ServerFolder) -> bool:
    noted = process.find(server.pid, server.id)
    runs = not noted.is_idle if noted else server.id in process.running_in(server.root)
    if runs:
        say(f"left out, since it runs: the disk of the server {server.id}")
    return runs


def _restore_server(server: ServerFolder, target: Path, digest: str | None) -> bool:
    """False if it cannot be, which is told."""
    draft = target / f"{server.id}.new"
    target.mkdir(mode=0o700, exist_ok=True)
    draft.mkdir(mode=0o700)
    try:
        for path in server.path.iterdir():
            _copy(path, draft / path.name)
        image = _image_of(draft / server.disk.name)
        if image and image != digest:
            raise _Unsound("it was rebuilt after the database was saved")
    except _Unsound as problem:
        shutil.rmtree(draft)
        say(f"not in the backup: the disk of the server {server.id}: {problem}")
        return False
    draft.rename(target / str(server.id))
    return True


def _image_of(disk: Path) -> str:
    """The digest of the image file that the disk rests on, empty if on none."""
    if not disk.exists():
        return ""
    try:
        return Path(read_header(disk).backing or "").stem
    except ComputeError:
        raise _Unsound("its data is damaged") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Database


def _run(url: str, program: str, *arguments: str) -> None:
    # By the environment, since every user of the host can read arguments.
    parts = conninfo_to_dict(url)
    address = {
        name: str(parts[key]) for key, name in _VARIABLES.items() if parts.get(key)
    }
    found = shutil.which(program, path=os.environ.get("PG_BIN"))
    if found is None:
        raise BackupError(f"{program} is not installed (package postgresql-client).")
    done = subprocess.run(
        [found, *arguments],
        env={**os.environ, **address},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackupError(f"{program} has failed: {done.stderr[-1000:].strip()}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.backup")
    parser.add_argument("what", choices=["save", "restore"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        url, data = os.environ["DATABASE_URL"], Path(os.environ["DATA_DIR"])
    except KeyError as unset:
        say(f"Set {unset.args[0]} in the environment.")
        return 1
    try:
        folder = arguments.folder.resolve()
        if arguments.what == "save":
            backup, missing = save(url, data, folder)
            print(backup)
        else:
            missing = restore(url, data, folder)
    except (BackupError, OSError, psycopg.Error) as error:
        say(str(error))
        return 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

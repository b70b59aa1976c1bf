"""Fill a database with accounts, images and shares by COPY.

Constraints are real, and so are the indexes: they are taken off before the load and
made anew from their own definitions after it, as one does with a large import.
"""

import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from accounts import numbers

ACCOUNTS = 1_000
SHARES_PER_IMAGE = 10
BIG_OWNER_PART = 0.1  # of all images belong to the account that is measured
REGIONS = {
    "DFW": "Dallas",
    "HKG": "Hong Kong",
    "IAD": "Northern Virginia",
    "LON": "London",
    "ORD": "Chicago",
    "SYD": "Sydney",
}
SYSTEMS = ["Debian 13", "Ubuntu 24.04", "Fedora 44", "FreeBSD 15", "Plan 9"]
START = datetime(2025, 1, 1, tzinfo=UTC)
TABLES = ["images_image", "sharing_imageshare", "sharing_shareevent"]


def account_number(n: int) -> str:
    digits = str(3_000_000 + n * 7)
    return digits + numbers.check_digit(digits)


PRODUCER, CONSUMER = account_number(0), account_number(1)


def load(
    connection: psycopg.Connection, images: int, say: Callable[[str], None]
) -> None:
    """Fill a migrated, empty database; the same figures give the same rows."""
    random.seed(images)
    with connection.transaction():
        # No foreign-key checks row by row: the rows below are known to fit.
        connection.execute("SET LOCAL session_replication_role = replica")
        _copy(connection, "accounts_region", _regions())
        _copy(connection, "accounts_account", _accounts())
        _copy(connection, "images_blob", _blobs())
        again = [
            statement for table in TABLES for statement in _bare(connection, table)
        ]
        say(f"{images:,} images")
        made = list(_images(images))
        _copy(connection, "images_image", made)
        say(f"{images * SHARES_PER_IMAGE:,} shares")
        _copy(connection, "sharing_imageshare", _shares(made))
        say("indexes")
        connection.execute("SET LOCAL maintenance_work_mem = '1GB'")
        connection.execute("SET LOCAL max_parallel_maintenance_workers = 2")
        for statement in again:
            connection.execute(statement)
        for table, column in [("images_blob", "id")]:
            connection.execute(
                sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), 100)").format(
                    table, column
                )
            )
    connection.autocommit = True
    say("vacuum")
    for table in [*TABLES, "accounts_account", "images_blob"]:
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))


def _bare(connection: psycopg.Connection, table: str) -> Iterator[sql.SQL]:
    """Take the indexes off a table; yields what makes them anew."""
    rows = connection.execute(
        """
        SELECT c.relname, pg_get_indexdef(i.indexrelid), k.conname,
               pg_get_constraintdef(k.oid)
          FROM pg_index i
          JOIN pg_class c ON c.oid = i.indexrelid
          LEFT JOIN pg_constraint k
            ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u')
         WHERE i.indrelid = %s::regclass
         ORDER BY k.contype IS NULL
        """,
        [table],
    ).fetchall()
    for index, definition, constraint, clause in rows:
        if constraint and clause.startswith("PRIMARY"):
            continue  # other tables refer to it
        if constraint:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
            yield sql.SQL(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {clause}")
        else:
            connection.execute(f"DROP INDEX {index}")
            yield sql.SQL(definition)


def _copy(
    connection: psycopg.Connection, table: str, rows: Iterable[dict[str, object]]
) -> None:
    """Rows as columns to text; all rows have the columns of the first."""
    rows = iter(rows)
    first = next(rows)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, first))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        lines = [_line(first)]
        for row in rows:
            lines.append(_line(row))
            if len(lines) == 5_000:
                copy.write("".join(lines))
                lines.clear()
        copy.write("".join(lines))


def _line(row: dict[str, object]) -> str:
    # No value here holds a tab, a line break or a backslash.
    return "\t".join([r"\N" if v is None else str(v) for v in row.values()]) + "\n"


def _regions() -> Iterator[dict[str, object]]:
    for code, name in REGIONS.items():
        yield {"code": code, "name": name, "backend": "local"}


def _accounts() -> Iterator[dict[str, object]]:
    for n in range(ACCOUNTS):
        yield {
            "number": account_number(n),
            "name": f"Customer {n}",
            "home_region_id": "IAD",
            "status": "active",
            "discoverable": n % 2 == 0,
            "created_at": START,
        }


def _blobs() -> Iterator[dict[str, object]]:
    for n in range(100):
        yield {
            "id": n + 1,
            "backend": "local",
            "digest": f"{n:064x}",
            "size": 17 << 20,
            "virtual_size": 64 << 20,
            "disk_format": "qcow2",
            "md5": "",
            "created_at": START,
        }


def _images(count: int) -> Iterator[dict[str, object]]:
    regions = list(REGIONS)
    for n in range(count):
        owner = 0 if random.random() < BIG_OWNER_PART else random.randrange(ACCOUNTS)
        system = SYSTEMS[n % len(SYSTEMS)]
        created = START + timedelta(seconds=n * 30)
        yield {
            "id": uuid.UUID(int=random.getrandbits(128), version=4),
            "owner_id": account_number(owner),
            "region_id": regions[random.randrange(len(regions))],
            "name": f"{system} for service {random.randrange(100_000)}, build {n}",
            "description": "",
            "tags": "{}",
            "os": system,
            "status": "active",
            "status_reason": "",
            "progress": 100,
            "protected": "f",
            "min_disk_gb": 0,
            "min_ram_mb": 0,
            "origin": "upload",
            "source_server_name": "",
            "uploaded_format": "qcow2",
            "disk_format": "qcow2",
            "container_format": "bare",
            "properties": "{}",
            "hidden": "f",
            "private": "f",
            "staged": "f",
            "unbootable_reason": "",
            "created_by": "bench",
            "blob_id": n % 100 + 1,
            "size": random.randrange(1 << 24, 1 << 32),
            "virtual_size": 64 << 20,
            "created_at": created,
            "updated_at": created,
        }


def _shares(images: Iterable[dict[str, object]]) -> Iterator[dict[str, object]]:
    statuses = ["pending", "accepted", "accepted", "accepted", "rejected"]
    for image in images:
        first = random.randrange(ACCOUNTS)
        for n in range(SHARES_PER_IMAGE):
            # Steps of 97 never meet again within 1,000 accounts, as 97 is prime.
            consumer = account_number((first + n * 97) % ACCOUNTS)
            if consumer == image["owner_id"]:
                continue
            status = statuses[random.randrange(len(statuses))]
            yield {
                "id": uuid.UUID(int=random.getrandbits(128), version=4),
                "image_id": image["id"],
                "consumer_number": consumer,
                "consumer_id": consumer,
                "status": status,
                "message": "",
                "offered_by": "bench",
                "region_id": image["region_id"],
                "image_name": image["name"],
                "image_size": image["size"],
                "image_created_at": image["created_at"],
                "created_at": image["created_at"],
                "updated_at": image["created_at"],
                "answered_at": None if status == "pending" else image["created_at"],
            }

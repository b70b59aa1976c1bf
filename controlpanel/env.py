"""Read settings from the environment: a missing or odd variable stops the start."""

import os
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict


def text(name: str, default: str | None = None) -> str:
    value = os.environ.get(name) or default
    if value is None:
        raise ImproperlyConfigured(f"Set {name} in the environment.")
    return value


def flag(name: str) -> bool:
    """Tell true from false; unset is false, and anything else is a mistake."""
    value = os.environ.get(name) or "false"
    if value not in {"true", "false"}:
        raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")
    return value == "true"


def number(name: str, default: int, *, least: int = 0) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isascii() or not value.isdigit() or int(value) < least:
        raise ImproperlyConfigured(
            f"{name} must be a whole number of at least {least}, not {value!r}."
        )
    return int(value)


def names(name: str, default: str | None = None) -> list[str]:
    """Read a list that is separated by commas."""
    return [part.strip() for part in text(name, default).split(",") if part.strip()]


def choice(name: str, default: str, *, of: set[str]) -> str:
    value = text(name, default)
    if value not in of:
        allowed = ", ".join(sorted(of))
        raise ImproperlyConfigured(f"{name} must be one of {allowed}, not {value!r}.")
    return value


def folder(name: str, default: Path | None = None) -> Path:
    return Path(text(name, str(default) if default else None)).resolve()


def ports(name: str) -> tuple[int, int]:
    """Read a range such as 22000-22999; unset is (0, 0), any free port."""
    value = os.environ.get(name) or "0-0"
    first, dash, last = value.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ImproperlyConfigured(
            f"{name} must be a range such as 22000-22999, not {value!r}."
        )
    return int(first), int(last)


def database(name: str) -> dict[str, Any]:
    """Read a PostgreSQL address, such as postgresql://app@localhost/panel."""
    address = conninfo_to_dict(text(name))
    known = {
        "NAME": address.pop("dbname", None),
        "USER": address.pop("user", None),
        "PASSWORD": address.pop("password", None),
        "HOST": address.pop("host", None),
        "PORT": address.pop("port", None),
    }
    pool = {
        "min_size": 1,
        "max_size": number("DATABASE_POOL_SIZE", 4, least=1),
        "timeout": 10,
    }
    return {
        "ENGINE": "django.db.backends.postgresql",
        # A database that was restarted has left the pool with dead connections.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**address, "pool": pool},
        **known,
    }

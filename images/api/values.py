"""What a client may say of an image: the names and values of the Image API, checked
and told in the panel's own terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import ValidationError

from controlpanel.api.faults import BadRequest, Forbidden, QuotaReached
from images.forms import (
    LONGEST_TAG,
    MOST_DISK_GB,
    MOST_RAM_MB,
    MOST_TAGS,
    ONE_LINE,
    refuse_control_characters,
)
from images.models import Changes

CONTAINER_FORMATS = ["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"]
DISK_FORMATS = [
    *("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso"),
    "ploop",
]
MOST_PROPERTIES = 128
LONGEST_NAME = 255
LONGEST_VALUE = 2048
MOST_PROPERTY_BYTES = 16 << 10

READ_ONLY = {
    *("created_at", "updated_at", "status", "checksum", "size", "virtual_size"),
    *("direct_url", "self", "file", "schema", "stores", "id"),
    *("os_hash_algo", "os_hash_value", "unbootable_reason"),
}
RESERVED = {"location", "deleted", "deleted_at"}
RESERVED_BEGINNING = "os_glance"
# Told as properties, and kept with what the panel knows.
TEXTS = {"description": 1000, "os": 100}


class Draft:
    """What becomes of an image, as the names that a client uses set it."""

    def __init__(self, number: str, properties: dict[str, str]) -> None:
        """For an image of the account of this number, with these properties."""
        self._number = number
        self.properties = dict(properties)
        self.changes: Changes = {}

    def set(self, name: str, value: Any) -> None:
        refuse_reserved(name)
        if name in _CHECKS:
            field, read = _CHECKS[name]
            self.changes[field] = read(name, value)  # type: ignore[literal-required]
        elif name == "owner":
            if value != self._number:
                raise Forbidden("You are not permitted to give images to others.")
        elif name == "locations":
            raise Forbidden(
                "It's not allowed to add locations if locations are invisible."
            )
        elif name in TEXTS:
            self.changes[name] = _text(  # type: ignore[literal-required]
                name, value, TEXTS[name]
            )
        else:
            self._set_property(name, value)

    def _set_property(self, name: str, value: Any) -> None:
        if not 0 < len(name) <= LONGEST_NAME:
            raise BadRequest(
                "Custom property should not be greater than 255 characters."
            )
        _refuse_characters("the name of a property", name, ONE_LINE)
        self.properties[name] = _text(name, value, LONGEST_VALUE)
        self.changes["properties"] = self.properties

    def remove_property(self, name: str) -> None:
        del self.properties[name]
        self.changes["properties"] = self.properties

    def finish(self) -> Changes:
        """All changes; raises QuotaReached if the properties are too many."""
        number = len(self.properties)
        if number > MOST_PROPERTIES:
            raise QuotaReached(
                "The limit has been exceeded on the number of allowed image "
                f"properties. Attempted: {number}, Maximum: {MOST_PROPERTIES}"
            )
        size = sum(
            len((name + value).encode()) for name, value in self.properties.items()
        )
        if size > MOST_PROPERTY_BYTES:
            raise QuotaReached(
                f"The properties of an image have at most {MOST_PROPERTY_BYTES} bytes, "
                f"and these would have {size}."
            )
        return self.changes


def refuse_reserved(name: str) -> None:
    if name in READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith(RESERVED_BEGINNING):
        raise Forbidden(f"Attribute '{name[:LONGEST_NAME]}' is reserved.")


def is_base(name: str) -> bool:
    """Every image has it, and it cannot be removed."""
    return name in _CHECKS or name in {"owner", "locations"}


def read_properties(given: dict[str, str]) -> dict[str, str]:
    """The properties of a new image, from whoever may set nothing else of it."""
    draft = Draft("", {})
    for name, value in given.items():
        if is_base(name) or name in TEXTS:
            raise BadRequest(f"The name '{name}' is not that of a property.")
        draft.set(name, value)
    draft.finish()
    return draft.properties


def read_tags(name: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _mismatch(name, "it is not a list")
    tags = list(dict.fromkeys(read_tag(tag) for tag in value))
    if len(tags) > MOST_TAGS:
        raise QuotaReached(
            "The limit has been exceeded on the number of allowed image tags. "
            f"Attempted: {len(tags)}, Maximum: {MOST_TAGS}"
        )
    return tags


def read_tag(value: Any) -> str:
    tag = _text("tags", value, LONGEST_TAG)
    _refuse_characters("tags", tag, ONE_LINE)
    if not tag.strip():
        raise _mismatch("tags", "a tag is empty")
    return tag


def _name(name: str, value: Any) -> str:
    """Empty for none: then the image is called by its ID."""
    if value is None:
        return ""
    text = _text(name, value, 255)
    _refuse_characters(name, text, ONE_LINE)
    return text


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(name, "it is not a boolean")
    return value


def _number(most: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _mismatch(name, "it is not an integer")
        if not 0 <= value <= most:
            raise _mismatch(name, f"it is not between 0 and {most}")
        return value

    return read


def _choice(choices: list[str]) -> Callable[[str, Any], str]:
    def read(name: str, value: Any) -> str:
        if value is None:
            return ""
        if value not in choices:
            raise _mismatch(name, f"it is not one of {', '.join(choices)}")
        return str(value)

    return read


def _private(name: str, value: Any) -> bool:
    if value not in ["public", "community", "shared", "private"]:
        raise _mismatch(name, "it is not one of community, public, private, shared")
    if value == "public":
        raise Forbidden("You are not authorized to complete publicize_image action.")
    if value == "community":
        raise Forbidden("You are not authorized to complete communitize_image action.")
    return bool(value == "private")


def _text(name: str, value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise _mismatch(name, "it is not a string")
    if len(value) > most:
        raise _mismatch(name, f"it is longer than {most} characters")
    _refuse_characters(name, value, [refuse_control_characters])
    return value


def _refuse_characters(
    name: str, text: str, validators: Sequence[Callable[[str], None]]
) -> None:
    for validate in validators:
        try:
            validate(text)
        except ValidationError as error:
            raise _mismatch(name, " ".join(error.messages)) from None


def _mismatch(name: str, why: str) -> BadRequest:
    return BadRequest(
        f"Provided object does not match schema 'image': {name[:LONGEST_NAME]}: {why}"
    )


_CHECKS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "name": ("name", _name),
    "visibility": ("private", _private),
    "protected": ("protected", _flag),
    "os_hidden": ("hidden", _flag),
    "container_format": ("container_format", _choice(CONTAINER_FORMATS)),
    "disk_format": ("disk_format", _choice(DISK_FORMATS)),
    "min_disk": ("min_disk_gb", _number(MOST_DISK_GB)),
    "min_ram": ("min_ram_mb", _number(MOST_RAM_MB)),
    "tags": ("tags", read_tags),
}

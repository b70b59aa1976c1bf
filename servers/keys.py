"""SSH public keys: what is one, and by which fingerprint people know it."""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

RSA_BITS = 2048
_CURVES = {
    "ecdsa-sha2-nistp256": (b"nistp256", 65),
    "ecdsa-sha2-nistp384": (b"nistp384", 97),
    "ecdsa-sha2-nistp521": (b"nistp521", 133),
}


class KeyRefused(ValueError):
    """The text is no key that we take; says why, as a sentence."""


@dataclass(frozen=True)
class PublicKey:
    kind: str
    blob: bytes
    comment: str

    @property
    def fingerprint(self) -> str:
        digest = base64.b64encode(hashlib.sha256(self.blob).digest())
        return f"SHA256:{digest.decode().rstrip('=')}"

    @property
    def line(self) -> str:
        """As it stands in authorized_keys."""
        encoded = base64.b64encode(self.blob).decode()
        return f"{self.kind} {encoded} {self.comment}".rstrip()


def read_public_key(text: str) -> PublicKey:
    """Read one line "type base64 comment"; raises KeyRefused for anything else."""
    text = text.strip()
    if "PRIVATE KEY" in text:
        raise KeyRefused(
            "This is a private key. Never give it away; paste the public key, "
            "from the file that ends in .pub."
        )
    if len(text.splitlines()) != 1 or not text.isprintable():
        raise KeyRefused("Paste one public key, all of it on a single line.")
    kind, _, rest = text.partition(" ")
    if kind not in {"ssh-rsa", "ssh-ed25519", *_CURVES}:
        raise KeyRefused(
            "A public key begins with ssh-ed25519, ecdsa-sha2-nistp256 or ssh-rsa. "
            "Options before the key are not taken."
        )
    encoded, _, comment = rest.strip().partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
        parts = _split(blob)
    except (binascii.Error, struct.error, ValueError):
        raise KeyRefused("The key is damaged: a part of it is missing.") from None
    _check(kind, parts)
    return PublicKey(kind, blob, comment.strip()[:100])


def _split(blob: bytes) -> list[bytes]:
    """The fields of a key: each is its length in four bytes, and its bytes."""
    parts, rest = [], blob
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        part, rest = rest[4 : 4 + length], rest[4 + length :]
        if len(part) != length:
            raise ValueError("cut off")
        parts.append(part)
    return parts


def _check(kind: str, parts: list[bytes]) -> None:
    if not parts or parts[0] != kind.encode():
        raise KeyRefused("The key is damaged: it is of another type than it says.")
    match kind, parts[1:]:
        case "ssh-ed25519", [point]:
            sound = len(point) == 32
        case "ssh-rsa", [exponent, modulus]:
            bits = int.from_bytes(modulus).bit_length()
            if bits < RSA_BITS:
                raise KeyRefused(
                    f"The RSA key has {bits} bits; at least {RSA_BITS} are needed."
                )
            sound = int.from_bytes(exponent) > 1 and bits <= 16384
        case _, [curve, point] if kind in _CURVES:
            name, length = _CURVES[kind]
            sound = curve == name and len(point) == length and point[0] == 4
        case _:
            sound = False
    if not sound:
        raise KeyRefused("The key is damaged: its numbers are not those of a key.")

"""A party to packages: an Ed25519 key that signs and an X25519 key that receives, two PEM blocks a file, which openssl reads too.

The kid, SHA-256 of both public keys, names the party everywhere. The private file is readable by its owner alone; nothing
here prints it.
"""

import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ...core.atomic import write_atomically
from ...core.errors import ConfigError, Denied

BLOCK = re.compile(rb"-----BEGIN [A-Z ]+-----\n.+?-----END [A-Z ]+-----\n", re.DOTALL)
LONGEST = 4096  # bytes of a key file; two blocks take some 250


class Rejected(Denied):
    """A package, licence or revocation list that does not hold: altered, foreign, expired, revoked, or not for this key."""


@dataclass(frozen=True)
class Public:
    """Who a package is for, or whom a signature is by."""

    signing: Ed25519PublicKey
    receiving: X25519PublicKey

    @cached_property
    def kid(self) -> str:
        raw = self.signing.public_bytes_raw() + self.receiving.public_bytes_raw()
        return hashlib.sha256(b"assay/identity/1\0" + raw).hexdigest()


@dataclass(frozen=True)
class Identity:
    """Both private keys. `repr` shows the kid."""

    signing: Ed25519PrivateKey
    receiving: X25519PrivateKey

    @staticmethod
    def fresh() -> "Identity":
        return Identity(Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @cached_property
    def public(self) -> Public:
        return Public(self.signing.public_key(), self.receiving.public_key())

    def __repr__(self) -> str:
        return f"Identity(kid={self.public.kid})"


def same(one: str, other: str) -> bool:
    """Of digests and kids, in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def save(identity: Identity, stem: Path) -> tuple[Path, Path]:
    """STEM.key and STEM.pub. ConfigError where one exists: a key that is overwritten is lost."""
    private, public = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.pub")
    for path in (private, public):
        if path.exists():
            raise ConfigError(f"{path} exists, and a key that is overwritten is lost; expected a new name")
    keys = (identity.signing, identity.receiving)
    secret = b"".join(k.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for k in keys)
    shown = (identity.public.signing, identity.public.receiving)
    open_ = b"".join(k.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for k in shown)
    write_atomically(private, secret, private=True)
    write_atomically(public, open_)
    return private, public


def load_identity(path: Path) -> Identity:
    """ConfigError for anything but STEM.key, and for a file that others can read."""
    signing, receiving = _blocks(path, _content(path), private=True)
    if not isinstance(signing, Ed25519PrivateKey) or not isinstance(receiving, X25519PrivateKey):
        raise ConfigError(f"{path} does not hold an Ed25519 and an X25519 private key, in this order")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others; expected mode 0600: chmod 600 {path}")
    return Identity(signing, receiving)


def load_public(path: Path) -> Public:
    signing, receiving = _blocks(path, _content(path), private=False)
    if not isinstance(signing, Ed25519PublicKey) or not isinstance(receiving, X25519PublicKey):
        raise ConfigError(f"{path} does not hold an Ed25519 and an X25519 public key, in this order")
    return Public(signing, receiving)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ConfigError(
            f"expected a key file, found nothing at {path}; `assay package keys NAME` makes one"
        )
    with path.open("rb") as file:
        return file.read(LONGEST)


def _blocks(path: Path, content: bytes, private: bool) -> tuple[Any, Any]:
    """The keys of both PEM blocks. What could not be read is not shown."""
    kind = "NAME.key, private" if private else "NAME.pub, public"
    blocks = BLOCK.findall(content)
    if len(blocks) == 2 and b"".join(blocks) == content:
        try:
            first, second = (
                load_pem_private_key(block, None) if private else load_pem_public_key(block)
                for block in blocks
            )
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError(f"{path} is no key file ({kind}): a block cannot be read") from None
        return first, second
    raise ConfigError(f"{path} is no key file ({kind}): expected two PEM blocks, found {len(blocks)}")

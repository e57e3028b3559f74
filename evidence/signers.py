"""Ed25519 keys with names, as logs and witnesses have them: `name+id+key` in text (C2SP signed-note), PEM on disk.

The id, 4 bytes, is a hint that binds name, kind of signature and key: SHA-256(name || 0x0A || kind || public key)[:4].
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..core.atomic import write_atomically
from ..core.errors import ConfigError

NOTE, COSIGNATURE = 1, 4
"""Kinds of signatures: of a note's text (signed-note), and of a checkpoint with a time (tlog-cosignature)."""
NAME = re.compile(r"[a-z0-9][a-z0-9./_-]{0,127}")
RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


@dataclass(frozen=True)
class Verifier:
    """A public key: its name, its kind, 32 bytes."""

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"expected a name of a-z 0-9 . / _ -, got {self.name[:80]!r}")
        if self.kind not in (NOTE, COSIGNATURE) or len(self.public) != 32:
            raise ConfigError(f"expected an Ed25519 key of kind {NOTE} or {COSIGNATURE} for {self.name}")

    @property
    def id(self) -> bytes:
        said = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(said).digest()[:4]

    @property
    def text(self) -> str:
        """name+id+key."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"

    @staticmethod
    def parse(text: str) -> "Verifier":
        """The inverse of `text`; ConfigError for damaged ones."""
        parts = text.strip().split("+", 2)
        raw = decoded(parts[2]) if len(parts) == 3 else b""
        if len(raw) != 33:
            raise ConfigError(f"expected a public key as name+id+key, got {text[:100]!r}")
        found = Verifier(parts[0], raw[0], raw[1:])
        if found.id.hex() != parts[1]:
            raise ConfigError(f"the id of {text[:100]!r} does not belong to its key: damaged")
        return found

    def accepts(self, signature: bytes, message: bytes) -> bool:
        return signed_by(self.public, signature, message)


class Signer:
    """A private key that is never printed."""

    __slots__ = ("_private", "verifier")

    def __init__(self, name: str, private: bytes, kind: int = NOTE) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self.verifier = Verifier(name, kind, self._private.public_key().public_bytes(*RAW))

    def __repr__(self) -> str:
        return f"Signer({self.verifier.text})"

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)

    @staticmethod
    def fresh(name: str, kind: int = NOTE) -> "Signer":
        return Signer(name, Ed25519PrivateKey.generate().private_bytes_raw(), kind)

    def save(self, path: Path) -> None:
        """PEM (PKCS 8), readable by the owner alone; the public key beside it, as text. A key that is there stays."""
        if path.exists():
            raise ConfigError(f"{path} holds a key already; name another folder")
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_atomically(path, self._private.private_bytes(*form), private=True)
        write_atomically(path.with_suffix(".pub"), f"{self.verifier.text}\n".encode())

    @staticmethod
    def load(path: Path) -> "Signer":
        """ConfigError for anything but a key and the public text that belongs to it."""
        if not path.is_file():
            raise ConfigError(f"expected a private key at {path}, found none")
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no private key in PEM: {error}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds another kind of key, expected Ed25519")
        public = load_verifier(path.with_suffix(".pub"))
        signer = Signer(public.name, private.private_bytes_raw(), public.kind)
        if signer.verifier != public:
            raise ConfigError(f"{path} and its .pub belong to different keys")
        return signer


def load_verifier(path: Path) -> Verifier:
    if not path.is_file():
        raise ConfigError(f"expected a public key at {path}, found none")
    return Verifier.parse(path.read_text(encoding="utf-8", errors="replace"))


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of this Ed25519 key signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def decoded(text: str) -> bytes:
    """Base64 in its one form; empty for anything else, also for spare bits that say nothing."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""

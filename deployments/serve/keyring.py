"""API keys of a served model: 32 random bytes, shown once; a file holds their hashes, so it opens nothing to who reads it.

A key is random, so SHA-256 without salt keeps it. Hashes are compared in constant time, for unknown accounts too.
"""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from ...core.atomic import write_atomically
from ...core.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
"""Of a key that was never issued: what an unknown account is compared with."""


@dataclass
class Keyring:
    """keys.json of a serving folder, read again when it changed: keys can be issued and replaced while it serves."""

    path: Path
    _stamp: tuple[int, int] | None = field(default=None, init=False, repr=False)
    _hashes: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def issue(self, account: str) -> str:
        """A new key; an older one of this account opens nothing from now on."""
        secret = secrets.token_urlsafe(32)
        self._write({named(account): _hash(secret)})
        return f"{account}.{secret}"

    def accounts(self) -> list[str]:
        return sorted(self._current())

    def account(self, key: str) -> str | None:
        """Whose key it is; None for nobody's."""
        account, _, secret = key.partition(".")
        kept = self._current().get(account)
        same = hmac.compare_digest(_hash(secret), kept if kept is not None else NOBODY)
        return account if same and kept is not None else None

    def _current(self) -> dict[str, str]:
        """A file that is replaced is another one: its number and time tell."""
        if not self.path.exists():
            return {}
        found = self.path.stat()
        if self._stamp != (found.st_ino, found.st_mtime_ns):
            self._hashes = _parsed(self.path)
            self._stamp = (found.st_ino, found.st_mtime_ns)
        return self._hashes

    def _write(self, new: dict[str, str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            known = _parsed(self.path) if self.path.exists() else {}
            write_atomically(self.path, json.dumps({**known, **new}, indent=1).encode(), private=True)


def named(account: str) -> str:
    if not NAME.fullmatch(account):
        raise ConfigError(f"expected an account of 1 to 64 letters, digits, - and _, got {account!r}")
    return account


def _parsed(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ConfigError(f"{path} is damaged; expected the hashes of API keys by account")
    return found


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

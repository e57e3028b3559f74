"""Revocation lists: licences that no longer hold, signed, numbered, with a date until which the list is current.

A list older than one that was seen is refused, and so are two lists of one number: what was seen is kept in a small file beside
the reader's key or the server's store. Whoever can change that file can show an old list again, up to its date.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock
from pydantic import Field as Limited
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ..package.header import CLOSED, Digest, hexadecimal
from ..package.identity import Identity, Public, Rejected, same
from .token import read_as, sign

KIND: Literal["wmpkg-revocations+jwt"] = "wmpkg-revocations+jwt"
Number = Annotated[str, hexadecimal(16)]


@dataclass(frozen=True, config=CLOSED)
class Revocations:
    """iss: the issuer's kid; sequence: 1, 2, ...; until: UTC seconds, when the next list is due; revoked: licences' jti, sorted."""

    iss: Digest
    sequence: Annotated[int, Limited(ge=1, le=2**53)]
    until: Annotated[int, Limited(ge=0, le=2**40)]
    revoked: tuple[Number, ...]

    def __post_init__(self) -> None:
        if tuple(sorted(set(self.revoked))) != self.revoked:
            raise ValueError("expected each licence once, in order")


@dataclass(frozen=True, config=CLOSED)
class Seen:
    """The newest list of an issuer that a reader has seen."""

    sequence: int
    digest: Digest


REVOCATIONS = TypeAdapter(Revocations)


def published(
    issuer: Identity, until: int, revoked: Sequence[str] = (), previous: Revocations | None = None
) -> str:
    """The next list: what the previous one holds stays revoked."""
    before = previous.revoked if previous is not None else ()
    sequence = previous.sequence + 1 if previous is not None else 1
    listed = Revocations(issuer.public.kid, sequence, until, tuple(sorted({*before, *revoked})))
    return sign(asdict(listed), KIND, issuer)


def read(token: str, issuer: Public) -> Revocations:
    """Rejected unless the issuer signed it. Readers who keep state use `newest`."""
    return read_as(REVOCATIONS, token, KIND, issuer)


def newest(token: str, issuer: Public, state: Path) -> Revocations:
    """The list, unless a newer one was seen; remembers it in `state`."""
    found = read(token, issuer)
    digest = hashlib.sha256(token.encode()).hexdigest()
    with FileLock(f"{state}.lock"):
        known = _known(state)
        last = known.get(found.iss)
        if last is not None and found.sequence < last.sequence:
            raise Rejected(
                f"the revocation list has number {found.sequence}, number {last.sequence} was seen before"
            )
        if last is not None and found.sequence == last.sequence and not same(digest, last.digest):
            raise Rejected(
                f"there are two revocation lists of number {found.sequence}: their issuer contradicts himself"
            )
        if last is None or found.sequence > last.sequence:
            known[found.iss] = Seen(found.sequence, digest)
            content: dict[str, Any] = {kid: asdict(seen) for kid, seen in known.items()}
            write_atomically(state, json.dumps(content, indent=1).encode(), private=True)
    return found


def _known(state: Path) -> dict[str, Seen]:
    """What was seen, by issuer. ConfigError for a damaged file: to begin anew would be a rollback."""
    if not state.exists():
        return {}
    try:
        return TypeAdapter(dict[str, Seen]).validate_json(state.read_bytes())
    except ValidationError:
        raise ConfigError(
            f"{state} is damaged; it says which revocation lists were seen. Remove it only if you accept an old list"
        ) from None

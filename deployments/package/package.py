"""What is done with a .wmpkg file: create, rewrap, inspect, open to a file or to memory.

A recipient opens a package with his private key and a licence of its issuer; the issuer himself is always a recipient and needs
no licence. What he opened he can copy: the bits of his own copy, not the cipher, answer that (docs/packages.md).
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...core.errors import ConfigError
from ...core.secret import Secret
from ..licence.licence import Licence, Operation, permit
from ..licence.revocation import Revocations
from .files import metadata, whole, why_no_model
from .header import MIB, TAG, Content, Header, check, read, signed
from .identity import Identity, Public, Rejected, same
from .seal import decrypt, digest, encrypt, fresh_key, unwrapped, wrapped

CHUNK = 4 * MIB


@dataclass(frozen=True)
class Proof:
    """What a recipient shows. revoked: the issuer's list, needed where the licence can be revoked."""

    key: Identity
    licence: str | None = None
    revoked: Revocations | None = None


@dataclass(frozen=True)
class Grantee:
    """A party for whom a package is wrapped; licence: the only one that is to open it, None: any of the issuer's for him."""

    party: Public
    licence: str | None = None

    @property
    def pinned(self) -> str | None:
        return None if self.licence is None else hashlib.sha256(self.licence.encode()).hexdigest()


def create(
    source: Path,
    target: Path,
    issuer: Identity,
    to: Sequence[Public] = (),
    buyer: int | None = None,
    chunk: int = CHUNK,
) -> Header:
    """Seals a safetensors file for these parties and the issuer. The target appears whole or not at all."""
    if not MIB <= chunk <= 16 * MIB:
        raise ConfigError(f"expected chunks of 1 to 16 MiB, got {chunk / MIB:g}; set --chunk=4")
    with _model(source) as file:
        found, size = digest(file, chunk)
        file.seek(0)
        nonce = secrets.token_bytes(8).hex()
        content = Content("wmpkg/1", "AES-256-GCM", found, size, chunk, nonce, issuer.public.kid, buyer)
        key = fresh_key()
        parties = {party.kid: party for party in (issuer.public, *to)}
        header = signed(content, [wrapped(key, content, p, None) for p in parties.values()], issuer)
        try:
            with whole(target) as (out, _):
                out.write(header.encoded())
                encrypt(file, content, key, out.write)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
    return header


@contextmanager
def _model(path: Path) -> Iterator[BinaryIO]:
    if not path.is_file():
        raise ConfigError(f"expected a model, found no file at {path}")
    why = why_no_model(path)
    if why is not None:
        raise ConfigError(f"{path} is {why}")
    with path.open("rb") as file:
        yield file


def rewrap(
    source: Path, target: Path, issuer: Identity, add: Sequence[Grantee] = (), drop: Sequence[str] = ()
) -> Header:
    """Other recipients, the same sealed content byte by byte. Whoever kept the file as it was can open that one still."""
    with _package(source) as (file, header):
        check(header, issuer.public)
        own = header.recipient(issuer.public.kid)
        if own is None or issuer.public.kid in drop:
            raise ConfigError("the issuer must stay a recipient: he could never rewrap the package again")
        known = {one.kid for one in header.recipients}
        if unknown := [kid for kid in drop if kid not in known]:
            raise ConfigError(
                f"{unknown[0][:16]} is no recipient of {source}; `assay package inspect` lists them"
            )
        key = unwrapped(own, header.content, issuer)
        gone = {*drop, *(one.party.kid for one in add)}
        kept = [one for one in header.recipients if one.kid not in gone]
        last = {one.party.kid: one for one in add}  # a header that names a party twice opens for nobody
        new = [wrapped(key, header.content, one.party, one.pinned) for one in last.values()]
        fresh = signed(header.content, [*kept, *new], issuer)
        with whole(target) as (out, _):
            out.write(fresh.encoded())
            shutil.copyfileobj(file, out, header.content.chunk)
    return fresh


def inspect(path: Path, issuer: Public | None = None) -> Header:
    """What a package says of itself; Rejected unless the issuer signed it, where one is given."""
    with _package(path) as (_, header):
        if issuer is not None:
            check(header, issuer)
        return header


def open_to(path: Path, target: Path, proof: Proof, issuer: Public, now: int | None = None) -> Licence | None:
    """The model as a file that its owner alone can read, whole or not at all: nothing is left of what is refused. The licence under
    which it was opened; None for the issuer. now: UTC seconds, the clock's where None."""
    with _package(path) as (file, header):
        licence, key = _admitted(header, proof, issuer, "weights", now)
        with whole(target, private=True) as (out, place):
            decrypt(file, header.content, key, out.write)
            out.flush()
            why = why_no_model(place)
            if why is not None:
                raise Rejected(f"the package holds {why}")
    return licence


def tensors(
    path: Path, proof: Proof, issuer: Public, operation: Operation = "query", now: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str], Licence | None]:
    """The model in memory, for a process that answers queries; no file is written. Its tensors, its metadata, and the licence."""
    with _package(path) as (file, header):
        return unsealed(file, header, proof, issuer, operation, now)


def unsealed(
    file: BinaryIO, header: Header, proof: Proof, issuer: Public, operation: Operation, now: int | None
) -> tuple[dict[str, Tensor], dict[str, str], Licence | None]:
    """Of a file that stands at the first chunk."""
    licence, key = _admitted(header, proof, issuer, operation, now)
    plain = BytesIO()
    decrypt(file, header.content, key, plain.write)
    content = plain.getvalue()  # no copy
    try:
        found = load(content)
    except (SafetensorError, ValueError) as error:
        raise Rejected(f"the package holds no whole safetensors file ({error})") from None
    return found, metadata(content), licence


@contextmanager
def _package(path: Path) -> Iterator[tuple[BinaryIO, Header]]:
    """The header is read, the file stands at the first chunk; its length is the one the header says."""
    if not path.is_file():
        raise ConfigError(f"expected a package, found no file at {path}")
    with path.open("rb") as file:
        yield file, begun(file, path.stat().st_size)


def begun(file: BinaryIO, size: int) -> Header:
    """The header of a package of so many bytes."""
    header = read(file)
    expected = file.tell() + header.content.size + TAG * header.content.chunks
    if size != expected:
        raise Rejected(f"the package has {size} bytes, its header says {expected}: cut off or extended")
    return header


def _admitted(
    header: Header, proof: Proof, issuer: Public, operation: Operation, now: int | None
) -> tuple[Licence | None, Secret]:
    """The licence by which this party may do this, None for the issuer, who needs none; and the data key."""
    check(header, issuer)
    kid = proof.key.public.kid
    entry = header.recipient(kid)
    if entry is None:
        raise Rejected(f"{kid[:16]} is no recipient of this package")
    if same(kid, issuer.kid):
        return None, unwrapped(entry, header.content, proof.key)
    if proof.licence is None:
        raise Rejected("expected a licence: every recipient but the issuer needs one")
    licence = permit(
        proof.licence,
        issuer,
        package=header.content.id,
        licensee=kid,
        operation=operation,
        pinned=entry.licence,
        revoked=proof.revoked,
        now=now,
    )
    return licence, unwrapped(entry, header.content, proof.key)

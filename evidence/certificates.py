"""Certificates: statements that somebody signs and the log keeps. Canonical JSON under an Ed25519 signature; never a secret.

A certificate shows who said what, and with the log, before what. It does not show that what was said is true.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ConfigError
from .canonical import canonical, fields, parsed
from .merkle import digest_of
from .signers import Signer, signed_by

VERSION = "assay-certificate/v1"
CONTEXT = b"assay-certificate/v1\n"  # before what is signed: no other signature of the same key can be taken for one
WHOLE = 10_000  # basis points
NEEDS: dict[str, tuple[str, ...]] = {
    "key": ("commitment",),
    "model": ("subjects", "previous"),
    "work": ("subjects",),
    "licence": ("subjects", "terms"),
    "infringement": ("subjects", "previous"),
    "revocation": ("previous",),
    "transfer": ("previous", "shares"),
}
"""Kinds, and the fields that may not be empty in them."""
FACTS: dict[str, set[str]] = {
    "key": {"n", "scheme", "alpha", "subsets"},
    "model": {"claim"},
    "infringement": {"report", "outcome"},
    "revocation": {"reason"},
}
"""Facts that a kind has exactly; other kinds may have any."""


@dataclass(frozen=True)
class Certificate:
    """kind: one of NEEDS. issuer: an Ed25519 public key, hex. subjects: SHA-256 of what it is about. dna: content or model DNA, by
    name. terms: SHA-256 of the terms' text. shares: (holder, basis points), 10,000 in all. previous: ids of certificates."""

    kind: str
    issuer: str
    subjects: tuple[str, ...] = ()
    dna: dict[str, Any] | None = None
    commitment: str | None = None
    terms: str | None = None
    shares: tuple[tuple[str, int], ...] = ()
    previous: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    signature: str = ""

    def body(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "version": VERSION,
            "kind": self.kind,
            "issuer": self.issuer,
            "subjects": list(self.subjects),
            "dna": self.dna,
            "commitment": self.commitment,
            "terms": self.terms,
            "shares": [list(share) for share in self.shares],
            "previous": list(self.previous),
            "facts": self.facts,
        }

    @property
    def content(self) -> bytes:
        """The certificate as it is kept."""
        return canonical({**self.body(), "signature": self.signature})

    @property
    def id(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def issued(issuer: Signer, kind: str, **said: Any) -> Certificate:
    """Signed by the issuer; ConfigError for what a certificate of this kind cannot say."""
    draft = Certificate(kind, issuer.verifier.public.hex(), **said)
    checked(draft)
    return Certificate(
        kind, draft.issuer, **said, signature=issuer.sign(CONTEXT + canonical(draft.body())).hex()
    )


def read(content: bytes, what: str = "the certificate") -> Certificate:
    """ConfigError for anything but a well-formed certificate whose signature is its issuer's."""
    names = {*Certificate("", "").body(), "signature"}
    values = fields(parsed(content, what), names, what)
    if values.pop("version") != VERSION:
        raise ConfigError(f"{what} is of another version, expected {VERSION}")
    try:
        values["shares"] = tuple((holder, points) for holder, points in values["shares"])
        values |= {name: tuple(values[name]) for name in ("subjects", "previous")}
    except (TypeError, ValueError):
        raise ConfigError(f"{what}: expected lists of subjects, previous and (holder, points)") from None
    found = Certificate(**values)
    checked(found, what)
    if found.content != content:  # "" or {} in place of an empty list: one statement, one text
        raise ConfigError(f"{what}: expected lists of subjects, previous and shares")
    signature, public = found.signature, digest_of(found.issuer, f"{what}'s issuer")
    if not isinstance(signature, str) or len(signature) != 128 or signature != signature.lower():
        raise ConfigError(f"{what}: expected a signature of 128 hexadecimal digits")
    if not signed_by(public, _bytes(signature), CONTEXT + canonical(found.body())):
        raise ConfigError(f"{what}: the signature is not its issuer's: forged, or changed since")
    return found


def checked(said: Certificate, what: str = "the certificate") -> None:
    """ConfigError names the first field that is wrong for this kind."""
    if not isinstance(said.kind, str) or said.kind not in NEEDS:
        raise ConfigError(f"{what}: expected a kind of {', '.join(NEEDS)}, got {str(said.kind)[:80]!r}")
    for name in NEEDS[said.kind]:
        if not getattr(said, name):
            raise ConfigError(f"{what}: a {said.kind} certificate needs {name}")
    single = [("issuer", said.issuer), ("commitment", said.commitment), ("terms", said.terms)]
    several = [(name, value) for name in ("subjects", "previous") for value in getattr(said, name)]
    for name, value in [*single, *several]:
        if value is not None:
            digest_of(value, f"{what}: {name}")
    if not isinstance(said.facts, dict) or not isinstance(said.dna, (dict, type(None))):
        raise ConfigError(f"{what}: expected facts and dna as objects")
    if said.kind in FACTS:
        fields(said.facts, FACTS[said.kind], f"{what}: facts")
    _shares(said.shares, what)


def _shares(shares: tuple[tuple[str, int], ...], what: str) -> None:
    for holder, points in shares:
        if type(points) is not int or not 0 < points <= WHOLE or not isinstance(holder, str) or not holder:
            raise ConfigError(
                f"{what}: expected shares of (holder, 1 to {WHOLE} points), got {holder!r}, {points!r}"
            )
    if shares and (sum(points for _, points in shares) != WHOLE or len(dict(shares)) != len(shares)):
        raise ConfigError(f"{what}: shares of different holders must make {WHOLE} points together")


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""

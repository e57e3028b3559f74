"""Deposits in two steps, so that nobody chooses triggers or labels and the null is exact (docs/evidence.md).

1. The owner commits to keys (a certificate of kind `key`), and the log and its witness sign the checkpoint that ends with it. That
   signature, R1, did not exist before, and the owner cannot draw it twice.
2. Keys are derived from the committed ones under R1, a model is trained with them, a certificate of kind `model` states its digest.

Whoever deposits m keys has m draws: tests are made at alpha / m, and every deposit in the log counts, by its owner and over all.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from ..core.secret import Secret, hkdf
from . import certificates, notes
from .certificates import Certificate, issued
from .commitment import MOST, Opening
from .log import Log
from .signers import Signer, Verifier

OWNER = "assay.owner"
"""The name of every owner's key: an owner is known by the key itself."""


def owner_signer(secret: Secret) -> Signer:
    """The owner's signing key: one 32-byte secret is all that an owner keeps."""
    return Signer(OWNER, secret.derive("evidence/signature", 32))


def deposit_key(
    log: Log, owner: Signer, commitment: str, scheme: str, n: int, alpha: str, subsets: int
) -> tuple[Certificate, int]:
    """Step 1: the certificate and its index in the log. n: triggers (bits, ...) of a subset; alpha: the declared rate, as text."""
    said = issued(owner, "key", commitment=commitment, facts=key_facts(scheme, n, alpha, subsets))
    return said, log.append(said.content)


def deposit_model(
    log: Log, owner: Signer, key: Certificate, digest: str, dna: dict[str, Any] | None, claim: str
) -> tuple[Certificate, int]:
    """Step 2: digest is the SHA-256 of the model's file, dna what tracing finds copies by, claim a sentence."""
    said = issued(owner, "model", subjects=(digest,), dna=dna, previous=(key.id,), facts={"claim": claim})
    return said, log.append(said.content)


def key_facts(scheme: str, n: int, alpha: str, subsets: int) -> dict[str, Any]:
    """ConfigError for counts out of range and for a rate outside (0, 1)."""
    if type(n) is not int or type(subsets) is not int or n < 1 or not 1 <= subsets <= MOST:
        raise ConfigError(f"a deposit has n >= 1 triggers and 1 to {MOST} subsets, got {n!r} and {subsets!r}")
    if not isinstance(scheme, str) or not scheme:
        raise ConfigError(f"a deposit names its scheme, got {scheme!r}")
    rate(alpha)
    return {"scheme": scheme, "n": n, "alpha": alpha, "subsets": subsets}


def rate(text: object) -> float:
    """A false-positive rate from its decimal text."""
    try:
        found = float(text) if isinstance(text, str) and len(text) <= 24 else math.nan
    except ValueError:
        found = math.nan
    if not 0 < found < 1:
        raise ConfigError(
            f"expected a false-positive rate between 0 and 1 as text, got {text!r}; set --alpha 1e-6"
        )
    return found


def beacon(note: bytes, log: Verifier, witness: Verifier | None) -> bytes:
    """R1, 32 bytes: the checkpoint together with the signature on it that nobody could know before. Without a witness it is the
    log's own, and then grinding is free for whoever runs the log."""
    checkpoint, _ = notes.opened(note, log, witness)
    payload = notes.cosigned(note, witness or log)
    return hashlib.sha256(b"assay-beacon/v1\n" + checkpoint.body + payload).digest()


def derived(key: Secret, beacon_: bytes, index: int, subset: int) -> Secret:
    """The secret from which the scheme draws this subset's triggers and labels: HKDF(committed key, salt = R1 || index)."""
    salt = beacon_ + index.to_bytes(8, "big")
    return Secret(hkdf(key.raw, salt, f"assay/derived/v1/{subset}".encode(), 32))


def derived_key(opening: Opening, note: bytes, index: int, log: Verifier, witness: Verifier | None) -> Secret:
    """The same, from what is in a bundle. ConfigError unless the note is the checkpoint that ends with the deposit: of later
    ones an owner could choose."""
    size = notes.parse(note).size
    if size != index + 1:
        raise ConfigError(
            f"keys of entry {index} are derived from the checkpoint of size {index + 1}, got {size}"
        )
    return derived(opening.key, beacon(note, log, witness), index, opening.subset)


@dataclass(frozen=True)
class Count:
    """Deposits of keys, each subset a draw, in the log up to some size."""

    owner: int
    everybody: int


def counted(entries: Iterable[bytes], owner: str) -> Count:
    """The draws that tests must be corrected for. Entries that are no certificates are nobody's."""
    found = [said for said in map(read_or_none, entries) if said is not None and said.kind == "key"]
    draws = [(said.issuer, subsets_of(said)) for said in found]
    return Count(sum(n for issuer, n in draws if issuer == owner), sum(n for _, n in draws))


def subsets_of(said: Certificate) -> int:
    """Draws of a key deposit; facts that say none count as one. More than MOST open nothing, and count as MOST: or one entry of
    2^53 would spend everybody's alpha."""
    number = said.facts.get("subsets")
    return min(number, MOST) if type(number) is int and number > 0 else 1


def read_or_none(entry: bytes) -> Certificate | None:
    try:
        return certificates.read(entry, "an entry")
    except ConfigError:
        return None


def log10_corrected(alpha: float, draws: int) -> float:
    """log10 of alpha / m (Bonferroni): the best of m draws falls below it no more often than alpha. By logarithms, for the smallest
    alpha that a deposit can declare has no half."""
    if draws < 1:
        raise ValueError(f"expected at least one deposit, got {draws}")
    return math.log10(alpha) - math.log10(draws)

"""Text by MinHash of its runs of five words (Broder 1997), in the form that keeps every hash below a bound: containment of an
excerpt in a long work is then estimated as well as resemblance of two whole works (FracMinHash, Irber et al. 2022). Tables of
labels, which models answered or people gave, by their rows.

What it does not see: paraphrase, translation, and copies of fewer than five words in a row.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError

WORDS = 5
KEPT = 4
"""One in so many runs is kept, chosen by its hash: the same in every text."""
WORD = re.compile(r"\w+")
Hashes = NDArray[np.uint64]


def words(text: str) -> list[str]:
    """Letters and digits alone, without case or accents' spelling: what survives another typesetting."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def runs(text: str) -> set[str]:
    """The different runs of WORDS words. ConfigError for a text with none."""
    found = words(text)
    if len(found) < WORDS:
        raise ConfigError(f"expected a text of at least {WORDS} words, got {len(found)}")
    return {" ".join(found[i : i + WORDS]) for i in range(len(found) - WORDS + 1)}


def hashed(strings: Iterable[str]) -> Hashes:
    """Sorted 64-bit BLAKE2b hashes."""
    raw = b"".join(hashlib.blake2b(string.encode(), digest_size=8).digest() for string in strings)
    return np.sort(np.frombuffer(raw, dtype="<u8").astype(np.uint64))


def fingerprint(text: str) -> bytes:
    """Of any length: little-endian hashes below 2^64 / KEPT; of a text so short that none is, its lowest one."""
    every = hashed(runs(text))
    kept = every[every < np.uint64(2**64 // KEPT)]
    return (kept if len(kept) else every[:1]).astype("<u8").tobytes()


def table_fingerprint(rows: Iterable[tuple[str, str]]) -> bytes:
    """Of (input, label) rows, where an input is named by an id or a digest that both sides know. ConfigError for an empty table."""
    found = hashed({f"{name}\x1f{label}" for name, label in rows})
    if not len(found):
        raise ConfigError("expected a table of at least one row, got none")
    return found.astype("<u8").tobytes()


def hashes(fingerprint: bytes) -> Hashes:
    return np.frombuffer(fingerprint, dtype="<u8").astype(np.uint64)


def containment(part: bytes, whole: bytes) -> float:
    """The share of the part's runs that the whole has, estimated from the hashes kept."""
    wanted, held = hashes(part), hashes(whole)
    return len(np.intersect1d(wanted, held, assume_unique=True)) / len(wanted)


def distance(query: bytes, work: bytes) -> float:
    """1 less the larger containment of one in the other: an excerpt of the work, or a text that quotes it whole."""
    return 1 - max(containment(query, work), containment(work, query))

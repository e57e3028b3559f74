"""Synonyms by Princeton's WordNet 3.0 (Miller, CACM 38(11), 1995), read from the plain files that Debian's wordnet-base installs.

Formats: wndb(5WN). Of the part of speech in which a word has most attested senses, the first sense that has another single word
gives the synonyms; senses stand by frequency. Inflected forms are no lemmas, so they stay.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ...core.errors import ConfigError
from .edits import sample

PARTS = ("noun", "verb", "adj", "adv")
SHORTEST = 4  # letters: "in" is an inch and "as" is arsenic
SENSES = 2  # at most: rarer ones are other words
WORD = re.compile(rf"[A-Za-z]{{{SHORTEST},}}")


@dataclass(frozen=True)
class Part:
    """Of speech: the index's lines, in the order of their bytes, and the data file, into which they point."""

    lines: list[bytes]
    data: bytes

    def entry(self, lemma: bytes) -> list[bytes]:
        """The fields of its line in the index; none where there is no such lemma."""
        at = bisect_left(self.lines, lemma + b" ")
        found = self.lines[at].split() if at < len(self.lines) else []
        return found if found and found[0] == lemma else []

    def words(self, offset: int) -> list[str]:
        """Of one sense, in the order of the file, without marks of syntax."""
        fields = self.data[offset : self.data.index(b"\n", offset)].split()
        count = int(fields[3], 16)
        return [re.sub(r"\(.*\)$", "", raw.decode("ascii")) for raw in fields[4 : 4 + 2 * count : 2]]


def senses(entry: list[bytes]) -> tuple[int, list[int]]:
    """How many senses are attested in texts, and where all of them stand, the most frequent first."""
    count = int(entry[2])
    return int(entry[-count - 1]), [int(field) for field in entry[-count:]]


@lru_cache(maxsize=2)
def wordnet(folder: str) -> tuple[Part, ...]:
    """ConfigError without the files."""
    try:
        return tuple(
            Part(
                (Path(folder) / f"index.{part}").read_bytes().splitlines(),
                (Path(folder) / f"data.{part}").read_bytes(),
            )
            for part in PARTS
        )
    except OSError as error:
        raise ConfigError(
            f"synonyms come from WordNet's files, and {folder} cannot be read: {error}; "
            "apt install wordnet-base, or set attack.wordnet=FOLDER"
        ) from None


def synonyms(word: str, net: tuple[Part, ...]) -> list[str]:
    """Lower case; none for what is no lemma."""
    lemma = word.lower()
    entries = [(part, entry) for part in net if (entry := part.entry(lemma.encode("ascii")))]
    if not entries:
        return []
    part, entry = max(entries, key=lambda found: senses(found[1])[0])
    for offset in senses(entry)[1][:SENSES]:
        others = [w for w in part.words(offset) if w.isalpha() and w.islower() and w != lemma]
        if others:
            return others
    return []


def replaced(text: str, share: float, net: tuple[Part, ...], generator: torch.Generator) -> str:
    """The share of words that have synonyms, each by one of them at random; a capital stays a capital."""
    found = [(m, others) for m in WORD.finditer(text) if (others := synonyms(m.group(), net))]
    out, at = [], 0
    for i in sample(len(found), share, generator).sort().values.tolist():
        match, others = found[i]
        other = others[int(torch.randint(len(others), (1,), generator=generator))]
        out += [text[at : match.start()], other.capitalize() if match.group()[0].isupper() else other]
        at = match.end()
    return "".join([*out, text[at:]])

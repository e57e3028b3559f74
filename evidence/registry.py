"""An append-only registry of fingerprints, of models ("DNA") or of works, and what a match in it is worth.

Beside what is registered stand strangers: independent models or works that belong to nobody who asks. The distance from each
stranger to the nearest entry is kept, and a suspect's p is the rank of its own nearest distance among them (core/statistics.py). It
is exact when suspect and strangers are exchangeable, whatever the number of entries, for the minimum over entries is what is
compared; so thresholds are measured, and a registry with too few strangers decides nothing.

One SQLite file: an entry appears whole or not at all, and triggers refuse every change and removal.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError
from ..core.statistics import randomisation_log10_p
from .sqlite import transaction

FILE = "registry.sqlite"
FORMAT = 1
TABLES = {
    "entries": "number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, stranger INTEGER NOT NULL, "
    "about TEXT NOT NULL, added TEXT NOT NULL",
    "prints": "number INTEGER NOT NULL REFERENCES entries, view TEXT NOT NULL, kin TEXT NOT NULL, stranger INTEGER NOT NULL, "
    "print BLOB NOT NULL, PRIMARY KEY (view, kin, stranger, number)",
    "nearest": "view TEXT NOT NULL, stranger INTEGER NOT NULL REFERENCES entries, entry INTEGER NOT NULL REFERENCES entries, "
    "distance REAL NOT NULL, PRIMARY KEY (view, stranger, entry)",
}
Distances = NDArray[np.float64]
Metric = Callable[[Sequence[bytes], Sequence[bytes]], Distances]
"""(queries, entries) of two lists of fingerprints of one view and kin; smaller is nearer."""


@dataclass(frozen=True)
class Print:
    """A fingerprint: `kin` says which others it can be compared with, the shapes of a network's layers, say."""

    view: str
    kin: str
    content: bytes


@dataclass(frozen=True)
class Entry:
    """id: a digest of what is registered. about: plain values, never secrets."""

    number: int
    id: str
    title: str
    stranger: bool
    about: dict[str, Any]


@dataclass(frozen=True)
class Match:
    """log10_p: of a distance as small as this to any entry, from a stranger."""

    number: int
    distance: float
    log10_p: float


@dataclass(frozen=True)
class Found:
    """The nearest entries first; `strangers` whose distances p comes from; `compared` entries; typical: the strangers' median
    distance to their nearest entry, without strangers the suspect's to all."""

    matches: tuple[Match, ...]
    strangers: int
    compared: int
    typical: float


New = tuple[str, str, Sequence[Print], dict[str, Any], bool]
"""id, title, prints, about, stranger."""


class Registry:
    """Of a folder. ConfigError when `create` is false and there is none."""

    def __init__(self, folder: Path, metrics: Mapping[str, Metric], create: bool = False) -> None:
        self.path, self.metrics = folder / FILE, metrics
        if not create and not self.path.is_file():
            raise ConfigError(f"expected a registry in {folder}, found none: add something to it first")
        folder.mkdir(parents=True, exist_ok=True)
        with closing(self._connected()) as book:
            if book.execute("PRAGMA user_version").fetchone()[0] not in (0, FORMAT):
                raise ConfigError(f"{self.path} is of another version: this one reads {FORMAT}")
            if create:
                _prepare(book)

    def add(
        self, id: str, title: str, prints: Sequence[Print], about: dict[str, Any], stranger: bool = False
    ) -> Entry:
        """The entry, or the one that is there already under this id. ConfigError where that one has another role."""
        with self._writing() as book:
            return self._put(book, (id, title, prints, about, stranger))

    def extend(self, entries: Iterable[New]) -> None:
        """Many at once: all of them, or none."""
        with self._writing() as book:
            for new in entries:
                self._put(book, new)

    def _put(self, book: sqlite3.Connection, new: New) -> Entry:
        id, title, prints, about, stranger = new
        known = _entry(book.execute(f"{SELECT} WHERE id = ?", (id,)).fetchone())
        if known is not None:
            if known.stranger != stranger:
                role = "stranger" if known.stranger else "entry of its owner"
                raise ConfigError(f"{title} is in the registry already, as a {role}: it cannot be both")
            return known
        row = (id, title, int(stranger), json.dumps(about, sort_keys=True), _now())
        columns = "(id, title, stranger, about, added) VALUES (?, ?, ?, ?, ?)"
        number = book.execute(f"INSERT INTO entries {columns}", row).lastrowid
        assert number is not None
        for one in prints:
            self._measure(book, one, number, stranger)
            row_of_print = (number, one.view, one.kin, int(stranger), one.content)
            book.execute("INSERT INTO prints VALUES (?, ?, ?, ?, ?)", row_of_print)
        return Entry(number, id, title, stranger, about)

    def _measure(self, book: sqlite3.Connection, one: Print, number: int, stranger: bool) -> None:
        """Keeps the new distances between strangers and entries that are a stranger's lowest so far."""
        numbers, others = _prints(book, one.view, one.kin, not stranger)
        if not others:
            return
        metric = self.metrics[one.view]
        if stranger:
            found = metric([one.content], others)[0]
            place = int(found.argmin())
            book.execute(NEAREST, (one.view, number, numbers[place], float(found[place])))
            return
        lowest = dict(
            book.execute(
                "SELECT stranger, min(distance) FROM nearest WHERE view = ? GROUP BY stranger", (one.view,)
            )
        )
        for other, distance in zip(numbers, metric(others, [one.content])[:, 0].tolist(), strict=True):
            if distance < lowest.get(other, np.inf):
                book.execute(NEAREST, (one.view, other, number, distance))

    def find(self, query: Print, top: int = 5) -> Found:
        """The `top` nearest entries of the query's view and kin."""
        with closing(self._connected()) as book:
            numbers, contents = _prints(book, query.view, query.kin, False)
            sql = (
                "SELECT min(distance) FROM prints JOIN nearest ON nearest.view = prints.view AND nearest.stranger = number "
                "WHERE prints.view = ? AND kin = ? AND prints.stranger = 1 GROUP BY number"
            )
            null = [row[0] for row in book.execute(sql, (query.view, query.kin))]
        if not numbers:
            return Found((), len(null), 0, np.nan)
        distances = self.metrics[query.view]([query.content], contents)[0]
        order = np.argsort(distances, kind="stable")[:top]
        log10_p = randomisation_log10_p(-distances[order], np.tile(-np.array(null), (len(order), 1)))
        rows = zip(order, distances[order].tolist(), log10_p.tolist(), strict=True)
        matches = tuple(Match(numbers[i], d, p) for i, d, p in rows)
        return Found(matches, len(null), len(numbers), float(np.median(null or distances)))

    def entry(self, number: int) -> Entry:
        with closing(self._connected()) as book:
            found = _entry(book.execute(f"{SELECT} WHERE number = ?", (number,)).fetchone())
        if found is None:
            raise ConfigError(f"there is no entry {number} in {self.path}")
        return found

    def counts(self) -> tuple[int, int]:
        """Entries, and strangers."""
        with closing(self._connected()) as book:
            owned = book.execute("SELECT count(*), coalesce(sum(stranger), 0) FROM entries").fetchone()
        return int(owned[0] - owned[1]), int(owned[1])

    def _connected(self) -> sqlite3.Connection:
        book = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            book.execute("PRAGMA foreign_keys = ON")
            book.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError as error:
            book.close()
            raise ConfigError(f"{self.path} is no registry: {error}") from None
        return book

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with closing(self._connected()) as book, transaction(book):
            yield book


SELECT = "SELECT number, id, title, stranger, about FROM entries"
NEAREST = "INSERT INTO nearest (view, stranger, entry, distance) VALUES (?, ?, ?, ?)"


def _prepare(book: sqlite3.Connection) -> None:
    book.execute("PRAGMA journal_mode = WAL")
    for name, columns in TABLES.items():
        book.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) STRICT")
        for change in ("UPDATE", "DELETE"):
            book.execute(
                f"CREATE TRIGGER IF NOT EXISTS {name}_{change.lower()} BEFORE {change} ON {name} BEGIN "
                "SELECT raise(ABORT, 'the registry is append-only'); END"
            )
    book.execute(f"PRAGMA user_version = {FORMAT}")


def _prints(book: sqlite3.Connection, view: str, kin: str, stranger: bool) -> tuple[list[int], list[bytes]]:
    sql = "SELECT number, print FROM prints WHERE view = ? AND kin = ? AND stranger = ?"
    rows = book.execute(sql, (view, kin, int(stranger))).fetchall()
    return [row[0] for row in rows], [row[1] for row in rows]


def _entry(row: tuple[Any, ...] | None) -> Entry | None:
    if row is None:
        return None
    return Entry(int(row[0]), str(row[1]), str(row[2]), bool(row[3]), json.loads(row[4]))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

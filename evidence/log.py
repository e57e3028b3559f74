"""The append-only log of deposits: entries and tree nodes in SQLite, a signed and cosigned checkpoint for every size.

An entry is acknowledged once its own checkpoint (size = index + 1) is stored. Before that a crash may lose or keep it, and the
same entry sent again is the same entry: its leaf hash is unique. The witness's signature on that very checkpoint salts what is
derived from a deposit (evidence/deposit.py), so every size gets one, in order.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ..core.errors import ConfigError
from . import merkle, notes
from .signers import Signer, Verifier
from .sqlite import transaction
from .witness import Ask, asked

LARGEST = 65536  # bytes of an entry
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE leaves (place INTEGER PRIMARY KEY, entry BLOB NOT NULL, hash BLOB NOT NULL UNIQUE);
CREATE TABLE nodes (level INTEGER, place INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, place)) WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Log:
    """One log in one folder: log.db, log.pem (its key), log.pub. `witness`: whose cosignature every checkpoint needs."""

    folder: Path
    signer: Signer
    witness: Verifier | None
    ask: Ask | None
    """How the witness is reached; None: what is there can be read, nothing appended."""

    @staticmethod
    def create(folder: Path, signer: Signer, witness: Verifier | None, ask: Ask | None) -> "Log":
        """An empty log; ConfigError when the folder holds one."""
        path = folder / "log.db"
        if path.exists():
            raise ConfigError(f"{path} is a log already; name another folder")
        notes.admitted(signer.verifier, witness)
        signer.save(folder / "log.pem")
        with closing(sqlite3.connect(path)) as db:
            # One transaction: a log that lost its witness's name would ask for none.
            db.executescript(f"BEGIN;{SCHEMA}")
            db.execute("INSERT INTO meta VALUES ('witness', ?)", ("" if witness is None else witness.text,))
            db.commit()
        return Log(folder, signer, witness, ask)

    @staticmethod
    def load(folder: Path, ask: Ask | None = None) -> "Log":
        if not (folder / "log.db").is_file():
            raise ConfigError(
                f"expected a log in {folder}, found none; `assay evidence init {folder}` makes one"
            )
        signer = Signer.load(folder / "log.pem")
        with _reading(folder) as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'witness'").fetchone()
        if found is None:
            raise ConfigError(f"{folder / 'log.db'} does not say who its witness is: damaged")
        (text,) = found
        return Log(folder, signer, Verifier.parse(text) if text else None, ask)

    def append(self, entry: bytes) -> int:
        """The entry's index, once it is durable and its own checkpoint is stored. The same entry twice is one entry."""
        if not 0 < len(entry) <= LARGEST:
            raise ConfigError(f"expected an entry of 1 to {LARGEST} bytes, got {len(entry)}")
        with FileLock(self.folder / "log.lock"):
            self.settle()
            with _writing(self.folder) as db:
                index = _place(db, entry)
            self.settle()
        return index

    def settle(self) -> None:
        """Sign, and have the witness sign, every size that has no checkpoint yet; under the lock of `append`."""
        with _reading(self.folder) as db:
            size = _size(db)
            (last,) = db.execute("SELECT coalesce(max(size), 0) FROM checkpoints").fetchone()
            for number in range(last + 1, size + 1):
                note = self._noted(db, last, number)
                with _writing(self.folder) as other:
                    other.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?)", (number, note))
                last = number

    def _noted(self, db: sqlite3.Connection, old: int, size: int) -> bytes:
        tree = nodes_of(db)
        note = notes.signed(
            notes.Checkpoint(self.signer.verifier.name, size, merkle.root(tree, size)), self.signer
        )
        if self.witness is None:
            return note
        if self.ask is None:
            raise ConfigError("this log needs its witness's signature; say how to reach it with --witness")
        proof: Callable[[int], list[bytes]] = lambda seen: merkle.consistency(tree, seen, size)  # noqa: E731
        note += asked(self.ask, note, old, proof).encode()
        notes.opened(note, self.signer.verifier, self.witness)
        return note

    @property
    def size(self) -> int:
        with _reading(self.folder) as db:
            return _size(db)

    def entries(self) -> list[bytes]:
        with _reading(self.folder) as db:
            return [entry for (entry,) in db.execute("SELECT entry FROM leaves ORDER BY place")]

    def entry(self, index: int) -> bytes:
        with _reading(self.folder) as db:
            found = db.execute("SELECT entry FROM leaves WHERE place = ?", (index,)).fetchone()
        if found is None:
            raise ConfigError(f"the log has no entry {index}, it holds {self.size}")
        return bytes(found[0])

    def checkpoint(self, size: int | None = None) -> bytes:
        """The note of this size, of the largest when None."""
        with _reading(self.folder) as db:
            number = _size(db) if size is None else size
            found = db.execute("SELECT note FROM checkpoints WHERE size = ?", (number,)).fetchone()
        if found is None:
            raise ConfigError(f"the log has no checkpoint of size {number}; an empty log has none")
        return bytes(found[0])

    def checkpoints(self) -> list[bytes]:
        with _reading(self.folder) as db:
            return [note for (note,) in db.execute("SELECT note FROM checkpoints ORDER BY size")]

    def inclusion(self, index: int, size: int) -> list[bytes]:
        with _reading(self.folder) as db:
            return merkle.inclusion(nodes_of(db), index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        with _reading(self.folder) as db:
            return merkle.consistency(nodes_of(db), old, new)

    def root(self, size: int) -> bytes:
        with _reading(self.folder) as db:
            return merkle.root(nodes_of(db), size)


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """sqlite3's errors are ConfigErrors: a damaged file is bad input."""
    with closing(sqlite3.connect(folder / "log.db", timeout=60, isolation_level=None)) as db:
        try:
            yield db
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{folder / 'log.db'} cannot be used: {error}") from None


@contextmanager
def _writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """One transaction: whole or not at all, on the disk when it is over."""
    with _reading(folder) as db:
        db.execute("PRAGMA synchronous = EXTRA")
        with transaction(db):
            yield db


def nodes_of(db: sqlite3.Connection) -> merkle.Node:
    def node(level: int, place: int) -> bytes:
        found = db.execute("SELECT hash FROM nodes WHERE level = ? AND place = ?", (level, place)).fetchone()
        if found is None:
            raise ConfigError(
                f"the log lacks the node {place} of level {level}: damaged, or shorter than asked for"
            )
        return bytes(found[0])

    return node


def _size(db: sqlite3.Connection) -> int:
    (size,) = db.execute("SELECT count(*) FROM leaves").fetchone()
    return int(size)


def _place(db: sqlite3.Connection, entry: bytes) -> int:
    """The entry's index, new or old; with a new leaf the whole subtrees that it completes."""
    found = merkle.leaf_hash(entry)
    known = db.execute("SELECT place FROM leaves WHERE hash = ?", (found,)).fetchone()
    if known is not None:
        return int(known[0])
    index = _size(db)
    db.execute("INSERT INTO leaves VALUES (?, ?, ?)", (index, entry, found))
    level, place, node = 0, index, nodes_of(db)
    db.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, place, found))
    while place & 1:
        found = merkle.node_hash(node(level, place - 1), found)
        level, place = level + 1, place >> 1
        db.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, place, found))
    return index

"""The gateway's book in SQLite: accounts with budgets in samples, and a chain of hashes over everything that was answered.

A turn is one transaction that no other process or thread shares: whether an account may still ask, what it is answered and the
entry that says so are one step. So budgets hold to the sample, and no answer stands behind a revocation.
An entry hashes its predecessor. It says what happened in order, and no time. A chain shows that an entry was changed; that the last
ones were cut off shows only beside a `Head` that somebody kept.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ConfigError

Kind = Literal["open", "answer", "degraded", "alarm", "revoke"]
"""open: samples is the budget, -1 without one; answer, degraded: samples answered; alarm, revoke: samples answered before."""
NOTHING = bytes(32)
KINDS = ("f4", "i8", "f8")  # of numbers in a request: inputs, labels, hours
PATIENCE = 60.0  # seconds that a turn waits for others
TABLES = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, budget INTEGER NOT NULL, used INTEGER NOT NULL, alarmed INTEGER NOT NULL, revoked INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chain (
    number INTEGER PRIMARY KEY, account TEXT NOT NULL, kind TEXT NOT NULL, samples INTEGER NOT NULL,
    inputs BLOB NOT NULL, answers BLOB NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, account TEXT NOT NULL, shape TEXT NOT NULL, inputs BLOB NOT NULL, labels BLOB NOT NULL,
    hours BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS request_of ON requests (account, number);
"""


class Broken(ValueError):
    """The book is not the one that was written."""


@dataclass(frozen=True)
class Standing:
    """An account. budget: samples in all, None: no limit."""

    name: str
    budget: int | None = None
    used: int = 0
    alarmed: bool = False
    revoked: bool = False

    @property
    def left(self) -> int | None:
        return None if self.budget is None else max(0, self.budget - self.used)


@dataclass(frozen=True)
class Entry:
    number: int
    account: str
    kind: Kind
    samples: int
    inputs: bytes
    """SHA-256 of what was asked, and of what was answered; zeros where nothing was."""
    answers: bytes
    previous: bytes
    hash: bytes = NOTHING

    def digest(self) -> bytes:
        plain = [self.inputs.hex(), self.answers.hex(), self.previous.hex()]
        text = json.dumps(["assay-book/v1", self.number, self.account, self.kind, self.samples, *plain])
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True)
class Head:
    """The last entry's number and hash: who keeps it sees whether entries were cut off."""

    number: int = 0
    hash: bytes = NOTHING


@dataclass(frozen=True)
class Asked:
    """A request as monitors see it: inputs (N, ...) float32, the model's own labels (N,), hours since whatever (N,) float64."""

    inputs: Tensor
    labels: Tensor
    hours: Tensor

    def first(self, count: int) -> "Asked":
        return Asked(self.inputs[:count], self.labels[:count], self.hours[:count])


def tensor_digest(tensor: Tensor) -> bytes:
    """SHA-256 of type, shape and values."""
    about = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(about + tensor.detach().cpu().contiguous().numpy().tobytes()).digest()


@dataclass
class Book:
    """path: a file that several processes share; None: memory, for one gateway."""

    path: Path | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)
    _database: sqlite3.Connection | None = field(default=None, init=False, repr=False)
    _process: int = field(default=0, init=False, repr=False)

    def _connected(self) -> sqlite3.Connection:
        """Opened when it is first needed, and again in a forked child, whose parent's connection is not its own."""
        if self._database is None or self._process != os.getpid():
            place = ":memory:" if self.path is None else str(self.path)
            found = sqlite3.connect(place, PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                found.execute("PRAGMA journal_mode=WAL")
                found.execute("PRAGMA synchronous=FULL")
                found.executescript(TABLES)
            except sqlite3.DatabaseError as error:
                found.close()
                raise ConfigError(f"{place} cannot be used as a gateway's book: {error}") from None
            self._database, self._process = found, os.getpid()
        return self._database

    @contextmanager
    def turn(self) -> Iterator["Turn"]:
        """Everything within is written together, or, where it raises, not at all."""
        with self._lock:
            database = self._connected()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield Turn(database)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def open(self, account: str, budget: int | None) -> None:
        """A new account, or another budget for one that there is."""
        with self.turn() as turn:
            turn.open(account, budget)

    def revoke(self, account: str) -> None:
        """Nothing is answered to it after this returns."""
        with self.turn() as turn:
            turn.revoke(account)

    def standing(self, account: str) -> Standing:
        """KeyError for an account that was never opened."""
        with self.turn() as turn:
            found = turn.standing(account)
        if found is None:
            raise KeyError(f"there is no account {account!r}")
        return found

    def entries(self) -> list[Entry]:
        with self.turn() as turn:
            return turn.entries()

    def head(self) -> Head:
        with self.turn() as turn:
            return turn.head()

    def verify(self, head: Head | None = None) -> Head:
        """Broken unless every entry follows from the one before, the accounts say what the chain says, and `head`, as it was kept
        earlier, lies on the chain. The head as it is now."""
        with self.turn() as turn:
            entries, accounts = turn.entries(), turn.accounts()
        return verified(entries, accounts, head)

    def close(self) -> None:
        with self._lock:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = None


def verified(entries: list[Entry], accounts: dict[str, Standing], head: Head | None) -> Head:
    last, kept = Head(), head is None or head == Head()
    replayed: dict[str, Standing] = {}
    for entry in entries:
        if (entry.number, entry.previous) != (last.number + 1, last.hash) or entry.hash != entry.digest():
            raise Broken(f"entry {entry.number} does not follow from entry {last.number}: one was changed")
        last = Head(entry.number, entry.hash)
        kept = kept or last == head
        replayed[entry.account] = after(replayed.get(entry.account), entry)
    if not kept:
        raise Broken(f"the head that was kept, entry {head.number if head else 0}, is not on this chain")
    if replayed != accounts:
        wrong = sorted(n for n in {*replayed, *accounts} if replayed.get(n) != accounts.get(n))
        raise Broken(f"the chain says otherwise of the accounts {', '.join(wrong)}")
    return last


def after(standing: Standing | None, entry: Entry) -> Standing:
    """What an account is after the entry. Broken for an order of events that no gateway makes."""
    if entry.kind == "open":
        budget = None if entry.samples < 0 else entry.samples
        return replace(standing or Standing(entry.account), budget=budget)
    if standing is None or standing.revoked:
        raise Broken(f"entry {entry.number}: {entry.kind} for an account that is not open")
    if entry.kind in ("answer", "degraded"):
        if standing.left is not None and entry.samples > standing.left:
            raise Broken(f"entry {entry.number}: more was answered than the budget allows")
        return replace(standing, used=standing.used + entry.samples)
    return replace(standing, alarmed=True) if entry.kind == "alarm" else replace(standing, revoked=True)


@dataclass(frozen=True)
class Turn:
    """Of one transaction; use it only within `Book.turn`."""

    database: sqlite3.Connection

    def standing(self, account: str) -> Standing | None:
        row = self.database.execute("SELECT * FROM accounts WHERE name = ?", (account,)).fetchone()
        return None if row is None else _standing(row)

    def accounts(self) -> dict[str, Standing]:
        return {row[0]: _standing(row) for row in self.database.execute("SELECT * FROM accounts")}

    def open(self, account: str, budget: int | None) -> Standing:
        if budget is not None and budget < 0:
            raise ValueError(f"expected a budget of samples >= 0 or none, got {budget}")
        return self._note(account, "open", -1 if budget is None else budget)

    def revoke(self, account: str) -> None:
        """Once; an account that was never opened is opened and revoked."""
        standing = self.standing(account) or self.open(account, None)
        if not standing.revoked:
            self._note(account, "revoke", standing.used)

    def alarm(self, account: str) -> None:
        """Once an account."""
        standing = self.standing(account)
        assert standing is not None
        if not standing.alarmed:
            self._note(account, "alarm", standing.used)

    def answered(self, account: str, kind: Kind, inputs: Tensor, answers: Tensor) -> None:
        if len(inputs):
            self._note(account, kind, len(inputs), tensor_digest(inputs), tensor_digest(answers))

    def _note(
        self, account: str, kind: Kind, samples: int, inputs: bytes = NOTHING, answers: bytes = NOTHING
    ) -> Standing:
        last = self.head()
        entry = Entry(last.number + 1, account, kind, samples, inputs, answers, last.hash)
        found = after(self.standing(account), entry)
        row = (*vars(replace(entry, hash=entry.digest())).values(),)
        self.database.execute("INSERT INTO chain VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        budget = -1 if found.budget is None else found.budget
        row = (account, budget, found.used, found.alarmed, found.revoked)
        self.database.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)", row)
        return found

    def head(self) -> Head:
        row = self.database.execute("SELECT number, hash FROM chain ORDER BY number DESC LIMIT 1").fetchone()
        return Head() if row is None else Head(*row)

    def entries(self) -> list[Entry]:
        return [Entry(*row) for row in self.database.execute("SELECT * FROM chain ORDER BY number")]

    def see(self, account: str, asked: Asked) -> int:
        """Keeps a request for the monitors of other processes; its number."""
        inputs = asked.inputs.float()
        raw = [part.cpu().contiguous().numpy().tobytes() for part in (inputs, asked.labels, asked.hours)]
        row = (account, json.dumps(list(inputs.shape)), *raw)
        found = self.database.execute("INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?)", row).lastrowid
        assert found is not None
        return found

    def seen(self, account: str, since: int) -> list[tuple[int, Asked]]:
        """The account's requests after the one of this number, each with its own."""
        words = "SELECT * FROM requests WHERE account = ? AND number > ? ORDER BY number"
        return [(row[0], _asked(*row[2:])) for row in self.database.execute(words, (account, since))]


def _standing(row: tuple[str, int, int, int, int]) -> Standing:
    name, budget, used, alarmed, revoked = row
    return Standing(name, None if budget < 0 else budget, used, bool(alarmed), bool(revoked))


def _asked(shape: str, *raw: bytes) -> Asked:
    inputs, labels, hours = (np.frombuffer(one, kind).copy() for one, kind in zip(raw, KINDS, strict=True))
    whole = torch.from_numpy(inputs).reshape(json.loads(shape))
    return Asked(whole, torch.from_numpy(labels), torch.from_numpy(hours))

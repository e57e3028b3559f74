"""A book of rights in SQLite: offers, purchases, resales, revenue shares, metered queries. One transaction per operation.

Payments are pulled: a purchase enters what everybody is due, and each account withdraws its own. At any time, what was paid in less
what was withdrawn is what is due. Every operation has the caller's own request id: asked again it gives the first answer and
changes nothing, so a caller that was killed before it heard asks again, whenever. A request id with other contents is refused.

The book keeps accounts, not money: it says who is owed what, under rules that anyone can replay from `events`. Who may speak for an
account is the caller's to check.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .canonical import canonical
from .rights_rules import Licence, Refused, Terms, bounded, named, parts, resale, usable
from .sqlite import transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, request TEXT NOT NULL UNIQUE, asked BLOB NOT NULL, answer INTEGER
    NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS offers (id INTEGER PRIMARY KEY, seller TEXT NOT NULL, terms BLOB NOT NULL, open INTEGER NOT NULL
    CHECK (open IN (0, 1))) STRICT;
CREATE TABLE IF NOT EXISTS licences (id INTEGER PRIMARY KEY, offer INTEGER NOT NULL REFERENCES offers, holder TEXT NOT NULL,
    quota INTEGER NOT NULL, used INTEGER NOT NULL CHECK (used BETWEEN 0 AND quota), expires INTEGER NOT NULL, status TEXT NOT NULL
    CHECK (status IN ('active', 'exhausted', 'expired', 'revoked')), asked INTEGER CHECK (asked >= 0), buyer TEXT) STRICT;
CREATE TABLE IF NOT EXISTS due (account TEXT PRIMARY KEY, amount INTEGER NOT NULL CHECK (amount >= 0)) STRICT;
CREATE TABLE IF NOT EXISTS till (one INTEGER PRIMARY KEY CHECK (one = 1), paid INTEGER NOT NULL, withdrawn INTEGER NOT NULL
    CHECK (withdrawn <= paid)) STRICT;
INSERT OR IGNORE INTO till VALUES (1, 0, 0);
"""
COLUMNS = "id, offer, holder, quota, used, expires, status, asked, buyer"
FULL = 2**62
"""All payments together stay below it: SQLite's integers end at 2^63."""
Work = Callable[[sqlite3.Connection], int]


class Rights:
    """Of one file; several processes may use it at once. Every method but the readers returns a whole number: an id, an amount, or
    queries left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        begin(path, SCHEMA, foreign="transactions")

    def offer(self, request: str, seller: str, terms: Terms) -> int:
        """The new offer's id."""

        def work(book: sqlite3.Connection) -> int:
            row = (named(seller), canonical(terms.plain()))
            return _id(book.execute("INSERT INTO offers (seller, terms, open) VALUES (?, ?, 1)", row))

        return self._once(request, ["offer", seller, terms.plain()], work)

    def close(self, request: str, seller: str, offer: int) -> int:
        """No more purchases; licences that were bought stay. Its id."""

        def work(book: sqlite3.Connection) -> int:
            _sellers(book, offer, seller)
            book.execute("UPDATE offers SET open = 0 WHERE id = ?", (offer,))
            return offer

        bounded(offer=offer)
        return self._once(request, ["close", seller, offer], work)

    def buy(self, request: str, buyer: str, offer: int, payment: int, now: int) -> int:
        """The new licence's id. The payment must be the price."""

        def work(book: sqlite3.Connection) -> int:
            _, terms, is_open = _offer(book, offer)
            if not is_open:
                raise Refused(f"offer {offer} is closed")
            if payment != terms.price:
                raise Refused(f"offer {offer} costs {terms.price}, got {payment}")
            row = (offer, named(buyer), terms.quota, now + terms.seconds)
            _paid(book, payment, parts(payment, terms.shares))
            columns = "(offer, holder, quota, used, expires, status) VALUES (?, ?, ?, 0, ?, 'active')"
            return _id(book.execute(f"INSERT INTO licences {columns}", row))

        bounded(now=now, payment=payment, offer=offer)
        return self._once(request, ["buy", buyer, offer, payment], work, now)

    def ask(self, request: str, holder: str, licence: int, price: int, buyer: str, now: int) -> int:
        """The holder lets `buyer` take the licence at a price; a later ask replaces it. Its id."""

        def work(book: sqlite3.Connection) -> int:
            found = _licence(book, licence)
            _holders(found, holder)
            usable(found, now)
            book.execute(
                "UPDATE licences SET asked = ?, buyer = ? WHERE id = ?", (price, named(buyer), licence)
            )
            return licence

        bounded(price=price, now=now, licence=licence)
        return self._once(request, ["ask", holder, licence, price, buyer], work, now)

    def take(self, request: str, buyer: str, licence: int, payment: int, now: int) -> int:
        """The licence changes hands with what is left of it: the royalty goes to the offer's shares, the rest to the holder. The
        licence's id."""

        def work(book: sqlite3.Connection) -> int:
            found = _licence(book, licence)
            usable(found, now)
            if found.asked is None or found.buyer != buyer:
                raise Refused(f"licence {licence} is not for sale to {buyer}")
            if payment != found.asked:
                raise Refused(f"licence {licence} costs {found.asked}, got {payment}")
            _, terms, _ = _offer(book, found.offer)
            _paid(book, payment, resale(payment, terms, found.holder))
            change = "holder = ?, asked = NULL, buyer = NULL"
            book.execute(f"UPDATE licences SET {change} WHERE id = ?", (named(buyer), licence))
            return licence

        bounded(now=now, payment=payment, licence=licence)
        return self._once(request, ["take", buyer, licence, payment], work, now)

    def revoke(self, request: str, seller: str, licence: int) -> int:
        """By the seller of its offer; what was paid stays paid. Its id."""

        def work(book: sqlite3.Connection) -> int:
            _sellers(book, _licence(book, licence).offer, seller)
            book.execute("UPDATE licences SET status = 'revoked' WHERE id = ?", (licence,))
            return licence

        bounded(licence=licence)
        return self._once(request, ["revoke", seller, licence], work)

    def meter(self, request: str, holder: str, licence: int, queries: int, now: int) -> int:
        """Counts queries before they are answered: all of them, or Refused and none. What is left."""

        def work(book: sqlite3.Connection) -> int:
            found = _licence(book, licence)
            _holders(found, holder)
            usable(found, now)
            left = found.quota - found.used - queries
            if left < 0:
                raise Refused(f"licence {licence} has {found.quota - found.used} queries left, got {queries}")
            status = "active" if left else "exhausted"
            change = "UPDATE licences SET used = used + ?, status = ? WHERE id = ?"
            book.execute(change, (queries, status, licence))
            return left

        bounded(1, queries=queries)
        bounded(now=now, licence=licence)
        return self._once(request, ["meter", holder, licence, queries], work, now)

    def expire(self, now: int) -> int:
        """Marks licences past their time, which no longer answer in any case; how many."""
        with self._changing() as book:
            change = "UPDATE licences SET status = 'expired' WHERE status = 'active' AND expires < ?"
            return book.execute(change, (now,)).rowcount

    def withdraw(self, request: str, account: str) -> int:
        """All that the account is due; how much."""

        def work(book: sqlite3.Connection) -> int:
            row = book.execute("SELECT amount FROM due WHERE account = ?", (named(account),)).fetchone()
            if row is None or not row[0]:
                raise Refused(f"{account} is due nothing")
            book.execute("UPDATE due SET amount = 0 WHERE account = ?", (account,))
            book.execute("UPDATE till SET withdrawn = withdrawn + ?", row)
            return int(row[0])

        return self._once(request, ["withdraw", account], work)

    def licence(self, licence: int) -> Licence:
        bounded(licence=licence)
        with closing(connected(self.path)) as book:
            return _licence(book, licence)

    def due(self) -> dict[str, int]:
        with closing(connected(self.path)) as book:
            return dict(book.execute("SELECT account, amount FROM due WHERE amount > 0 ORDER BY account"))

    def till(self) -> tuple[int, int]:
        """Paid in, and withdrawn."""
        with closing(connected(self.path)) as book:
            paid, withdrawn = book.execute("SELECT paid, withdrawn FROM till").fetchone()
            return int(paid), int(withdrawn)

    def events(self) -> list[tuple[str, list[Any], int]]:
        """(request id, what was asked, the answer) of every change, in order."""
        with closing(connected(self.path)) as book:
            rows = book.execute("SELECT request, asked, answer FROM events ORDER BY number").fetchall()
        return [(request, json.loads(asked), answer) for request, asked, answer in rows]

    def _once(self, request: str, asked: list[Any], work: Work, now: int | None = None) -> int:
        """The answer to a request, worked out at its first time only. `now` is kept with it, and is no part of its contents."""
        content = canonical(asked if now is None else [*asked, now])
        with self._changing() as book:
            row = book.execute(
                "SELECT asked, answer FROM events WHERE request = ?", (named(request),)
            ).fetchone()
            if row is not None and json.loads(row[0])[: len(asked)] != asked:
                raise Refused(f"request {request} was another one before: every request needs its own id")
            if row is not None:
                return int(row[1])
            answer = work(book)
            event = (request, content, answer)
            book.execute("INSERT INTO events (request, asked, answer) VALUES (?, ?, ?)", event)
            return answer

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time."""
        with closing(connected(self.path)) as book, transaction(book):
            yield book


def connected(path: Path) -> sqlite3.Connection:
    book = sqlite3.connect(path, timeout=60, isolation_level=None)
    book.execute("PRAGMA foreign_keys = ON")
    book.execute("PRAGMA synchronous = FULL")  # an acknowledged change survives a power cut
    return book


def begin(path: Path, schema: str, foreign: str) -> None:
    """Makes the tables where there are none. foreign: a table that only the other kind of book has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(connected(path)) as book:
            if book.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (foreign,)).fetchone():
                raise ConfigError(f"{path} was begun with another --ledger, which it keeps")
            book.execute("PRAGMA journal_mode = WAL")
            book.executescript(schema)
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"expected a book of rights at {path}: {error}") from None


def _id(done: sqlite3.Cursor) -> int:
    assert done.lastrowid is not None
    return done.lastrowid


def _offer(book: sqlite3.Connection, offer: int) -> tuple[str, Terms, bool]:
    row = book.execute("SELECT seller, terms, open FROM offers WHERE id = ?", (offer,)).fetchone()
    if row is None:
        raise Refused(f"there is no offer {offer}")
    return str(row[0]), Terms.of(json.loads(row[1])), bool(row[2])


def _sellers(book: sqlite3.Connection, offer: int, seller: str) -> None:
    if _offer(book, offer)[0] != seller:
        raise Refused(f"offer {offer} is not {seller}'s")


def _licence(book: sqlite3.Connection, licence: int) -> Licence:
    row = book.execute(f"SELECT {COLUMNS} FROM licences WHERE id = ?", (licence,)).fetchone()
    if row is None:
        raise Refused(f"there is no licence {licence}")
    return Licence(*row)


def _holders(licence: Licence, holder: str) -> None:
    if licence.holder != holder:
        raise Refused(f"licence {licence.id} is not {holder}'s")


def _paid(book: sqlite3.Connection, payment: int, to: Sequence[tuple[str, int]]) -> None:
    """Enters a payment, and to whom it is due."""
    (before,) = book.execute("SELECT paid FROM till").fetchone()
    if before + payment >= FULL:
        raise Refused(
            f"the book is full: expected payments of less than 2^62 in all, got {before} and {payment}"
        )
    book.execute("UPDATE till SET paid = paid + ?", (payment,))
    for account, amount in to:
        change = "INSERT INTO due VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET amount = amount + excluded.amount"
        book.execute(change, (account, amount))

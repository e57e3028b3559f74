"""The twin of rights.py: the same book, kept by a contract (rights.vy) on an EVM in this process (evm.py). Needs the extra `chain`.

What is kept is the list of transactions; a book that is opened runs them again, and refuses a file whose answers differ. Several
processes may use it at once, and in each of them one thread.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args

from ..core.errors import ConfigError
from .canonical import canonical
from .evm import Contract, Reverted
from .rights import begin, connected
from .rights_rules import Licence, Refused, Status, Terms, bounded, named
from .sqlite import transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS transactions (number INTEGER PRIMARY KEY, request TEXT UNIQUE, asked BLOB NOT NULL, answer INTEGER
    NOT NULL) STRICT;
"""
SOURCE = Path(__file__).with_name("rights.vy")
STATUSES: tuple[Status, ...] = get_args(Status)
TIMED = {"buy", "ask", "take", "meter", "expire"}
PAYING = {"buy", "take"}
ANYBODY = "anybody"


class Chain:
    """Of one file; a `Book`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()
        begin(path, SCHEMA, foreign="offers")

    def offer(self, request: str, seller: str, terms: Terms) -> int:
        return self._sent(request, ["offer", seller, terms.plain()])

    def close(self, request: str, seller: str, offer: int) -> int:
        bounded(offer=offer)
        return self._sent(request, ["close", seller, offer])

    def buy(self, request: str, buyer: str, offer: int, payment: int, now: int) -> int:
        bounded(now=now, payment=payment, offer=offer)
        return self._sent(request, ["buy", buyer, offer, payment, now])

    def ask(self, request: str, holder: str, licence: int, price: int, buyer: str, now: int) -> int:
        bounded(now=now, price=price, licence=licence)
        return self._sent(request, ["ask", holder, licence, price, buyer, now])

    def take(self, request: str, buyer: str, licence: int, payment: int, now: int) -> int:
        bounded(now=now, payment=payment, licence=licence)
        return self._sent(request, ["take", buyer, licence, payment, now])

    def revoke(self, request: str, seller: str, licence: int) -> int:
        bounded(licence=licence)
        return self._sent(request, ["revoke", seller, licence])

    def meter(self, request: str, holder: str, licence: int, queries: int, now: int) -> int:
        bounded(1, queries=queries)
        bounded(now=now, licence=licence)
        return self._sent(request, ["meter", holder, licence, queries, now])

    def withdraw(self, request: str, account: str) -> int:
        return self._sent(request, ["withdraw", account])

    def expire(self, now: int) -> int:
        """A transaction for each licence that is to be marked."""
        bounded(now=now)
        with self._current():
            (sold,) = self._read("sold")
        found = [self.licence(number) for number in range(1, sold + 1)]
        late = [licence.id for licence in found if licence.status == "active" and now > licence.expires]
        return sum(self._sent(None, ["expire", ANYBODY, number, now]) for number in late)

    def licence(self, licence: int) -> Licence:
        bounded(licence=licence)
        with self._current():
            offer, holder, quota, used, expires, status, asked, buyer = self._read("licences", licence)
        if not holder:
            raise Refused(f"there is no licence {licence}")
        names = {address: name for name, address in self.contract.accounts.items()}
        sale = (asked, names[buyer]) if buyer else (None, None)
        return Licence(licence, offer, names[holder], quota, used, expires, STATUSES[status], *sale)

    def due(self) -> dict[str, int]:
        with self._current():
            accounts = sorted(self.contract.accounts.items())
            found = {name: self._read("due", address)[0] for name, address in accounts}
        return {name: amount for name, amount in found.items() if amount}

    def till(self) -> tuple[int, int]:
        with self._current():
            return self._read("paid")[0], self._read("withdrawn")[0]

    def events(self) -> list[tuple[str, list[Any], int]]:
        text = "SELECT request, asked, answer FROM transactions WHERE request IS NOT NULL ORDER BY number"
        with closing(connected(self.path)) as file:
            return [(request, json.loads(asked), answer) for request, asked, answer in file.execute(text)]

    def _start(self) -> None:
        self.contract, self._height = Contract(SOURCE), 0

    @contextmanager
    def _current(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time, after what others wrote meanwhile. What the file did not take is forgotten."""
        try:
            with closing(connected(self.path)) as file, transaction(file):
                text = (
                    "SELECT number, request, asked, answer FROM transactions WHERE number > ? ORDER BY number"
                )
                for row in file.execute(text, (self._height,)).fetchall():
                    self._repeated(*row)
                yield file
        except Refused:
            raise
        except BaseException:
            self._start()
            raise

    def _repeated(self, number: int, request: str | None, asked: bytes, answer: int) -> None:
        try:
            found: int | str = self._called(request, json.loads(asked))
        except (ValueError, TypeError, LookupError, OverflowError) as problem:
            found = str(problem)
        if found != answer:
            text = f"{self.path}: transaction {number} was answered by {answer}, and now: {found}"
            raise ConfigError(f"{text}. The file was changed, or written under other rules")
        self._height = number

    def _sent(self, request: str | None, asked: list[Any]) -> int:
        """The contract's answer; a transaction that it refuses is not kept, nor one that it had answered before."""
        row = (request if request is None else named(request), canonical(asked))
        with self._current() as file:
            answer = self._called(request, asked)
            text = "INSERT INTO transactions (request, asked, answer) VALUES (?, ?, ?) ON CONFLICT (request) DO NOTHING"
            self._height += file.execute(text, (*row, answer)).rowcount
        return answer

    def _called(self, request: str | None, asked: list[Any]) -> int:
        verb, who, *rest = asked
        if verb in TIMED:
            self.contract.at(rest.pop())
        value = rest.pop() if verb in PAYING else 0
        words = [] if request is None else [int(hashlib.sha256(request.encode()).hexdigest(), 16)]
        words += [word for argument in rest for word in self._words(argument)]
        try:
            return self.contract.call(named(who), verb, words, value)[0]
        except Reverted as reverted:
            raise Refused(f"{verb}: {reverted}") from None

    def _read(self, getter: str, *words: int) -> list[int]:
        return self.contract.call(ANYBODY, getter, words)

    def _words(self, argument: Any) -> list[int]:
        """As the contract's interface has it: numbers, accounts, and an offer's terms with the shares behind all else."""
        if isinstance(argument, int):
            return [argument]
        if isinstance(argument, str):
            return [self.contract.account(named(argument))]
        digests = [int(argument[name], 16) for name in ("certificate", "conditions")]
        fields = [*digests, *(argument[name] for name in ("price", "quota", "seconds", "royalty"))]
        shares = [(self.contract.account(account), points) for account, points in argument["shares"]]
        behind = 32 * (1 + len(fields) + 1)
        return [*fields, behind, len(shares), *(word for share in shares for word in share)]

"""`assay rights`: offers, purchases, resales, metered queries and withdrawals in a book (evidence/rights.py, chain.py)."""

import argparse
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError

if TYPE_CHECKING:
    from ...evidence.rights_rules import Book

NEEDS: dict[str, tuple[str, ...]] = {
    "offer": ("account", "certificate", "conditions", "price", "quota", "days", "share"),
    "close": ("account", "offer"),
    "buy": ("account", "offer", "price"),
    "ask": ("account", "licence", "price", "to"),
    "take": ("account", "licence", "price"),
    "revoke": ("account", "licence"),
    "meter": ("account", "licence", "queries"),
    "withdraw": ("account",),
    "show": (),
}
"""What every action must be told."""
DAY = 86_400


def rights(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    action, path = arguments.action_, Path(arguments.book)
    if rest:
        raise ConfigError(f"expected no further words, got {' '.join(rest)}")
    missing = [name for name in NEEDS[action] if getattr(arguments, name) is None]
    if missing:
        raise ConfigError(f"rights {action} needs --{missing[0]}")
    if action != "offer" and not path.is_file():
        raise ConfigError(f"expected a book of rights at {path}, found none; `rights offer` begins one")
    book = _opened(path, arguments.ledger)
    if action == "show":
        _show(book, arguments, console)
        return 0
    request = arguments.request or secrets.token_hex(16)
    answer = _done(book, request, arguments)
    if arguments.json:
        print(json.dumps({"request": request, "answer": answer}))  # noqa: T201
    else:
        console.print(escape(f"{action}: {ANSWERS.get(action, action)} {answer} (request {request})"))
    return 0


def _opened(path: Path, ledger: str) -> "Book":
    if ledger == "chain":
        from ...evidence.chain import Chain

        return Chain(path)
    from ...evidence.rights import Rights

    return Rights(path)


ANSWERS = {"buy": "licence", "ask": "licence", "take": "licence", "revoke": "licence", "close": "offer"}
ANSWERS |= {"meter": "queries left", "withdraw": "paid out"}
"""What the number means that an action returns."""


def _done(book: "Book", request: str, given: argparse.Namespace) -> int:
    now, who, licence, price = int(time.time()), given.account, given.licence, given.price
    actions: dict[str, Callable[[], int]] = {
        "offer": lambda: book.offer(request, who, _terms(given)),
        "close": lambda: book.close(request, who, given.offer),
        "buy": lambda: book.buy(request, who, given.offer, price, now),
        "ask": lambda: book.ask(request, who, licence, price, given.to, now),
        "take": lambda: book.take(request, who, licence, price, now),
        "revoke": lambda: book.revoke(request, who, licence),
        "meter": lambda: book.meter(request, who, licence, given.queries, now),
        "withdraw": lambda: book.withdraw(request, who),
    }
    return actions[given.action_]()


def _terms(given: argparse.Namespace) -> Any:
    from ...evidence.rights_rules import Terms

    shares = []
    for text in given.share:
        account, colon, points = text.rpartition(":")
        if not colon or not points.isdecimal():
            raise ConfigError(f"expected --share ACCOUNT:BASIS_POINTS, got {text!r}")
        shares.append((account, int(points)))
    seconds = given.days * DAY
    values = given.certificate, given.conditions, given.price, given.quota, seconds, given.royalty
    return Terms(*values, tuple(shares))


def _show(book: "Book", given: argparse.Namespace, console: Console) -> None:
    """One licence, or what everybody is due; past their time, licences are marked."""
    book.expire(int(time.time()))
    paid, withdrawn = book.till()
    found: dict[str, Any] = {
        "paid": paid,
        "withdrawn": withdrawn,
        "due": book.due(),
        "events": len(book.events()),
    }
    if given.licence is not None:
        found = asdict(book.licence(given.licence))
    if given.json:
        print(json.dumps(found, indent=1))  # noqa: T201
        return
    for name, value in found.items():
        console.print(escape(f"{name}: {value}"), highlight=False)

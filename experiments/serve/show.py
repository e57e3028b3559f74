"""`assay serve`: a gateway over HTTP, its keys, revocation, and its book."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from ...core.errors import ConfigError
from ..actions import REFUSED, Action, acted
from ..show import plain_table, terminal

if TYPE_CHECKING:
    from ...deployments.serve.wire import Limits
    from .serve import Place, Sealed


def serve(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """0 done, 1 refused: a package that does not open, a book that was changed."""
    return acted(ACTIONS, ("start",), arguments, rest, console)


def start(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """uvicorn logs paths and addresses; a key travels in a header, which it does not log."""
    try:
        import uvicorn

        from ...deployments.serve.app import app
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'assay[serve]'") from None
    from .serve import Place, service

    made = service(
        Path(arguments.model), Place(Path(arguments.folder)), rest, _limits(arguments), _sealed(arguments)
    )
    if not made.keyring.accounts():
        console.print(
            f"no account has a key yet: assay serve key ACCOUNT --folder {escape(arguments.folder)}"
        )
    uvicorn.run(app(made), host=arguments.host, port=arguments.port, server_header=False)
    return 0


def key(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.serve.keyring import named
    from .serve import Place

    place = Place(Path(arguments.folder))
    if arguments.budget is not None and not 0 <= arguments.budget <= 2**53:
        raise ConfigError(f"expected a budget of 0 to 2^53 samples, got {arguments.budget}")
    named(arguments.account)
    if arguments.budget is not None:  # before the key, which must not open without it
        place.folder.mkdir(parents=True, exist_ok=True)
        place.book.open(arguments.account, arguments.budget)
    made = place.keyring.issue(arguments.account)
    print(made)  # noqa: T201 - the one time it is shown
    return 0


def revoke(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    """In the book, which every answer asks; the key stays, so that the account is told why."""
    place = _existing(arguments)
    if arguments.account not in place.keyring.accounts():
        raise ConfigError(f"there is no account {arguments.account!r}; `assay serve status` lists them")
    place.book.revoke(arguments.account)
    console.print(f"revoked: {arguments.account}")
    return 0


def status(arguments: argparse.Namespace, rest: Sequence[str], console: Console) -> int:
    from ...deployments.book import Broken

    place = _existing(arguments)
    book, named = place.book, set(place.keyring.accounts())
    try:
        head = book.verify()
    except Broken as error:
        terminal(stderr=True).print(f"[red]the book was changed:[/] {escape(str(error))}", soft_wrap=True)
        return REFUSED
    with book.turn() as turn:
        accounts = turn.accounts()
    rows = [
        {"account": name, "used": one.used, "left": one.left, "alarmed": one.alarmed, "revoked": one.revoked}
        for name, one in sorted(accounts.items())
    ]
    rows += [
        {"account": name, "used": 0, "left": None, "alarmed": False, "revoked": False}
        for name in sorted(named - set(accounts))
    ]
    if arguments.json:
        print(json.dumps({"head": [head.number, head.hash.hex()], "accounts": rows}, indent=1))  # noqa: T201
        return 0
    table = plain_table(f"{len(rows)} accounts, {head.number} entries, head {head.hash.hex()[:16]}")
    for column in ("account", "used", "left", "alarmed", "revoked"):
        table.add_column(column, justify="left" if column == "account" else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    console.print(table)
    return 0


def _existing(arguments: argparse.Namespace) -> "Place":
    from .serve import Place

    place = Place(Path(arguments.folder))
    if not place.folder.is_dir():
        raise ConfigError(
            f"there is no service in {arguments.folder}; expected --folder with its keys and book"
        )
    return place


def _limits(arguments: argparse.Namespace) -> "Limits":
    from ...deployments.serve.wire import Limits

    if arguments.body < 1 or arguments.samples < 1:
        raise ConfigError(
            f"expected limits of at least 1, got --body {arguments.body} --samples {arguments.samples}"
        )
    return Limits(arguments.body * 2**20, arguments.samples)


def _sealed(arguments: argparse.Namespace) -> "Sealed | None":
    from .serve import Sealed

    given = [arguments.key, arguments.issuer]
    if not any(given) and arguments.licence is None and arguments.revoked is None:
        return None
    if not all(given):
        raise ConfigError("a package is opened with --key NAME.key and --issuer OWNER.pub")
    licence, revoked = (Path(path) if path else None for path in (arguments.licence, arguments.revoked))
    return Sealed(Path(arguments.key), Path(arguments.issuer), licence, revoked)


ACTIONS: dict[str, Action] = {"start": start, "key": key, "revoke": revoke, "status": status}

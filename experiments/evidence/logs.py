"""`assay evidence init` and `witness`: a log, and the process that watches it."""

import argparse
from pathlib import Path

from rich.console import Console

from ...core.errors import ConfigError
from ...evidence.log import Log
from ...evidence.reach import reached, server
from ...evidence.signers import Signer, Verifier, load_verifier
from ...evidence.witness import Witness
from ..verbs import nothing_left

ADDRESS = "witness.address"


def init(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    nothing_left(rest)
    folder, signer = Path(arguments.log), Signer.fresh(arguments.origin)
    if (folder / "log.db").exists():
        raise ConfigError(f"{folder} holds a log already; name another folder")
    if arguments.no_witness:
        Log.create(folder, signer, None, None)
        console.print(
            "no witness: whoever holds this log can rewrite it, and try keys for free", soft_wrap=True
        )
    else:
        witness = _watched_by(arguments, signer)
        Log.create(folder, signer, witness, None)
        (folder / ADDRESS).write_text(f"{arguments.witness}\n", encoding="utf-8")
        console.print(f"witness: {witness.text}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"log: {signer.verifier.text}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _watched_by(arguments: argparse.Namespace, log: Signer) -> Verifier:
    where = arguments.witness
    if where.startswith(("http://", "https://")):
        if arguments.witness_key is None:
            raise ConfigError("a witness on a network is known by its key: pass --witness-key FILE.pub")
        return load_verifier(Path(arguments.witness_key))
    witness = Witness.load(Path(where))
    witness.watch(log.verifier)
    return witness.signer.verifier


def opened(folder: str) -> Log:
    """The log, with the way to its witness."""
    address = Path(folder) / ADDRESS
    where = address.read_text(encoding="utf-8").strip() if address.is_file() else ""
    return Log.load(Path(folder), reached(where) if where else None)


def witness(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    nothing_left(rest)
    folder = Path(arguments.folder)
    if arguments.action_ == "init":
        found = Witness.create(folder, arguments.name)
        console.print(found.signer.verifier.text, soft_wrap=True, highlight=False, markup=False)
        return 0
    found = Witness.load(folder)
    if arguments.action_ == "watch":
        if arguments.log_key is None:
            raise ConfigError("name the log's public key: assay evidence witness watch FOLDER LOG/log.pub")
        found.watch(load_verifier(Path(arguments.log_key)))
        return 0
    with server(found, arguments.host, arguments.port) as http:
        console.print(f"answering at http://{arguments.host}:{http.server_address[1]}", soft_wrap=True)
        http.serve_forever()
    return 0

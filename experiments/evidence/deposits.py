"""`assay evidence owner`, `deposit`, `embed` and `prove`: the owner's side of a two-step deposit.

A deposit has a folder: deposit.json, its state, and key-J.safetensors, which `assay verify` reads. The label by which keys follow
from the owner's secret is written before anything is sent, so a deposit that was interrupted is the same when it is repeated.
"""

import argparse
import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ...core.atomic import write_atomically
from ...core.errors import ConfigError
from ...core.secret import Secret
from ...evidence import bundle
from ...evidence import deposit as two_step
from ...evidence.canonical import canonical
from ...evidence.certificates import Certificate
from ...evidence.certificates import read as read_certificate
from ...evidence.commitment import Opening, openings, root_of
from ...evidence.log import Log
from ...evidence.verify import digest_of_file
from ..verbs import nothing_left
from .logs import opened


@dataclass(frozen=True)
class State:
    """settings: what keys are made from, JSON text that the commitment covers. key, model: places in the log."""

    label: str
    scheme: str
    settings: str
    subsets: int
    alpha: str
    n: int
    key: int | None = None
    model: int | None = None

    def save(self, folder: Path) -> None:
        write_atomically(
            folder / "deposit.json", (json.dumps(asdict(self), indent=1) + "\n").encode(), private=True
        )

    @staticmethod
    def load(folder: Path) -> "State":
        path = folder / "deposit.json"
        if not path.is_file():
            raise ConfigError(
                f"expected a deposit in {folder}, found none; `assay evidence deposit key` makes one"
            )
        try:
            return State(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged: {error}") from None

    def openings(self, owner: Secret) -> list[Opening]:
        return openings(owner, self.label, self.scheme, {"settings": self.settings}, self.subsets)


def owner(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    nothing_left(rest)
    path = Path(arguments.file)
    if path.exists():
        raise ConfigError(f"{path} exists; a secret is never overwritten")
    secret = Secret.fresh()
    write_atomically(path, f"{secret.raw.hex()}\n".encode(), private=True)
    console.print(
        f"owner: {two_step.owner_signer(secret).verifier.public.hex()}; keep {path}, show it to nobody",
        soft_wrap=True,
    )
    return 0


def secret_in(path: str | None) -> Secret:
    """ConfigError for anything but an owner's file; no message shows what is in it."""
    if path is None or not Path(path).is_file():
        raise ConfigError(
            f"expected an owner's secret at {path}; `assay evidence owner FILE` makes one, --owner FILE names it"
        )
    text = Path(path).read_text(encoding="utf-8", errors="replace").strip()
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ConfigError(f"{path} does not hold an owner's secret: expected 64 hexadecimal digits")
    return Secret(bytes.fromhex(text))


def deposit(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    log, mine, folder = opened(arguments.log), secret_in(arguments.owner), Path(arguments.folder)
    if arguments.action_ == "model":
        nothing_left(rest)
        return _model(arguments, log, mine, folder, console)
    state = _prepared(arguments, rest, folder)
    _owned(state, log, mine, folder)
    found = state.openings(mine)
    facts = (state.scheme, state.n, state.alpha, state.subsets)
    _, index = two_step.deposit_key(log, two_step.owner_signer(mine), root_of(found), *facts)
    state = replace(state, key=index)
    state.save(folder)
    _write_keys(state, found, log, index, folder)
    console.print(
        f"entry {index}: {state.scheme}, {state.subsets} subset(s) of {state.n}; keys under R1 in {folder}",
        soft_wrap=True,
    )
    return 0


def _prepared(arguments: argparse.Namespace, rest: list[str], folder: Path) -> State:
    """The deposit that was begun in this folder, or a new one."""
    if (folder / "deposit.json").exists():
        nothing_left(rest)
        return State.load(folder)
    from .keys import settled

    two_step.rate(arguments.alpha)
    scheme, settings, n = settled(rest, arguments.subsets)
    state = State(secrets.token_hex(8), scheme, settings, arguments.subsets, arguments.alpha, n)
    state.save(folder)
    return state


def _owned(state: State, log: Log, mine: Secret, folder: Path) -> Certificate | None:
    """The deposit's key certificate, None before there is one. ConfigError for another owner's: his keys would replace these."""
    if state.key is None:
        return None
    key = read_certificate(log.entry(state.key), f"entry {state.key}")
    if (key.issuer, key.commitment) != (_issuer(mine), root_of(state.openings(mine))):
        raise ConfigError(
            f"the deposit in {folder} is of {key.issuer[:16]}, and --owner is {_issuer(mine)[:16]}: "
            "pass the secret that made it, or a new folder"
        )
    return key


def _issuer(mine: Secret) -> str:
    return two_step.owner_signer(mine).verifier.public.hex()


def _write_keys(state: State, found: list[Opening], log: Log, index: int, folder: Path) -> None:
    from .keys import save

    note = log.checkpoint(index + 1)
    for opening in found:
        secret = two_step.derived_key(opening, note, index, log.signer.verifier, log.witness)
        place = {"log": log.signer.verifier.name, "entry": index, "subset": opening.subset}
        save(folder / f"key-{opening.subset}.safetensors", state.settings, secret, place)


def _model(arguments: argparse.Namespace, log: Log, mine: Secret, folder: Path, console: Console) -> int:
    state = State.load(folder)
    if state.key is None or arguments.model is None:
        raise ConfigError(
            "expected a deposited key and a model: assay evidence deposit model LOG FOLDER MODEL, after step key"
        )
    key = _owned(state, log, mine, folder)
    assert key is not None
    digest = digest_of_file(_content(arguments.model))
    dna = None if arguments.dna is None else _object(arguments.dna)
    signer = two_step.owner_signer(mine)
    _, index = two_step.deposit_model(log, signer, key, digest, dna, arguments.claim)
    replace(state, model=index).save(folder)
    console.print(f"entry {index}: model {digest}", soft_wrap=True)
    return 0


def embed(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    from .keys import marked

    folder = Path(arguments.folder)
    state = State.load(folder)
    paths = [folder / f"key-{i}.safetensors" for i in range(state.subsets)]
    marked(state.settings, paths, Path(arguments.output), rest)
    console.print(f"marked model: {arguments.output}", soft_wrap=True)
    return 0


def prove(arguments: argparse.Namespace, rest: list[str], console: Console) -> int:
    nothing_left(rest)
    log, state = opened(arguments.log), State.load(Path(arguments.folder))
    if state.key is None:
        raise ConfigError(
            f"{arguments.folder} holds no deposited key yet: assay evidence deposit key LOG {arguments.folder}"
        )
    opening = None if arguments.open is None else _opening(arguments, state, log)
    made = bundle.collect(log, [state.key] if state.model is None else [state.key, state.model])
    if arguments.stamp is not None:
        made = replace(made, stamps=(_stamp(arguments.stamp, made.head),))
    bundle.save(made, Path(arguments.output))
    console.print(f"bundle: {arguments.output}", soft_wrap=True)
    if opening is not None:
        path = Path(f"{arguments.output}.opening.json")
        write_atomically(path, opening.content, private=True)
        console.print(f"opening: {path}, for a judge alone: it holds the subset's key", soft_wrap=True)
    return 0


def _opening(arguments: argparse.Namespace, state: State, log: Log) -> Opening:
    mine = secret_in(arguments.owner)
    _owned(state, log, mine, Path(arguments.folder))
    found, subset = state.openings(mine), int(arguments.open)
    if not 0 <= subset < len(found):
        raise ConfigError(f"expected --open below {len(found)}, got {subset}")
    return found[subset]


def _stamp(where: str, note: bytes) -> bytes:
    from ...evidence import local_tsa, timestamp

    if where.startswith(("http://", "https://")):
        return timestamp.from_authority(where, note)
    if not (Path(where) / "tsa.key").exists():
        local_tsa.create(Path(where))
    return local_tsa.token(Path(where), timestamp.query(note))


def _content(path: str) -> bytes:
    if not Path(path).is_file():
        raise ConfigError(f"expected a file at {path}, found none")
    return Path(path).read_bytes()


def _object(path: str) -> dict[str, Any]:
    try:
        found = json.loads(_content(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    try:
        canonical(found)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be signed: {error}; write fractions as text") from None
    return found

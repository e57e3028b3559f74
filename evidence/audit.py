"""Auditing a whole log: all is computed again from the entries, and compared with what was signed, and with what others saw."""

from collections.abc import Sequence

from ..core.errors import ConfigError
from . import merkle, notes
from .certificates import Certificate
from .deposit import read_or_none, subsets_of
from .log import Log
from .verify import Check


def audit(log: Log, seen: Sequence[bytes] = ()) -> list[Check]:
    """`seen`: checkpoints that others were given, signed by this log: with a rewritten log or a split view they do not fit."""
    hashes = [merkle.leaf_hash(entry) for entry in log.entries()]
    tree = merkle.in_memory(hashes)
    return [
        _stored(log, tree, len(hashes)),
        _signed(log, tree, len(hashes)),
        *(_against(log, tree, len(hashes), note) for note in seen),
        _contents(log),
    ]


def _stored(log: Log, tree: merkle.Node, size: int) -> Check:
    """The nodes in the table, from which proofs are made, are those of the entries."""
    try:
        same = all(log.root(n) == merkle.root(tree, n) for n in range(size + 1))
    except ConfigError as error:
        return Check("tree", False, str(error))
    return Check("tree", same, f"{size} entries" + ("" if same else ": the stored nodes are not theirs"))


def _signed(log: Log, tree: merkle.Node, size: int) -> Check:
    """Every size has its checkpoint, signed by log and witness, over the entries as they are."""
    found = log.checkpoints()
    if len(found) != size:
        return Check("checkpoints", False, f"expected one for each of {size} sizes, found {len(found)}")
    for number, note in enumerate(found, 1):
        wrong = _wrong(log, tree, size, note)
        if wrong or notes.parse(note).size != number:
            return Check("checkpoints", False, f"size {number}: {wrong or 'another size is stored'}")
    who = "the log" if log.witness is None else f"the log and {log.witness.name}"
    return Check("checkpoints", True, f"{len(found)}, signed by {who}")


def _against(log: Log, tree: merkle.Node, size: int, note: bytes) -> Check:
    wrong = _wrong(log, tree, size, note)
    return Check(
        "checkpoint seen elsewhere", not wrong, wrong or f"size {notes.parse(note).size}: the same history"
    )


def _wrong(log: Log, tree: merkle.Node, size: int, note: bytes) -> str:
    """Why the note does not belong to these entries; empty when it does."""
    try:
        said, _ = notes.opened(note, log.signer.verifier, log.witness)
    except ConfigError as error:
        return str(error)
    if said.size > size:
        return f"{said.size} entries were signed, {size} are here: entries were cut off"
    if merkle.root(tree, said.size) != said.root:
        return f"the first {said.size} entries had another root: rewritten, or a split view. Keep both checkpoints as proof"
    return ""


def _contents(log: Log) -> Check:
    found = [read_or_none(entry) for entry in log.entries()]
    bad = [i for i, said in enumerate(found) if said is None]
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(tally(found).items())) or "none"
    return Check("certificates", not bad, kinds + (f"; no valid certificates: {bad[:10]}" if bad else ""))


def tally(found: Sequence[Certificate | None]) -> dict[str, int]:
    kinds = [said.kind for said in found if said is not None]
    return {kind: kinds.count(kind) for kind in set(kinds)}


def owners(log: Log) -> dict[str, int]:
    """Draws deposited by each owner."""
    out: dict[str, int] = {}
    for said in map(read_or_none, log.entries()):
        if said is not None and said.kind == "key":
            out[said.issuer] = out.get(said.issuer, 0) + subsets_of(said)
    return out

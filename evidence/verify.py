"""Checking a bundle: one line for each check, and what the reader must trust for it to mean anything. No network is asked.

What stands at the end is who signed what, and that it stood in the log before the head was cosigned. Not that it is true.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from ..core.errors import ConfigError, printable
from . import merkle, notes
from .bundle import Bundle
from .certificates import Certificate
from .certificates import read as read_certificate
from .commitment import MOST, Opening
from .deposit import beacon, counted, key_facts, read_or_none
from .signers import Verifier


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it holds, and what was found or is wrong."""

    name: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Result:
    checks: tuple[Check, ...]
    assumptions: tuple[str, ...]
    head: notes.Checkpoint | None = None
    time: int | None = None
    """When the witness says it signed the head, seconds since 1970."""
    draws: int = field(default=0)
    """Keys deposited by anybody up to the head: counted where the bundle carries the log, else the most there can be."""

    @property
    def valid(self) -> bool:
        return all(check.holds for check in self.checks)


def verify(
    bundle: Bundle,
    log: Verifier | None = None,
    witness: Verifier | None = None,
    opening: Opening | None = None,
    digests: Sequence[str] = (),
) -> Result:
    """log, witness: the keys that the reader got elsewhere and trusts; without them the bundle's own are taken, and the result says
    so. opening: of one of the bundle's key deposits. digests: of model files that must be deposited."""
    checks = [*_trusted(bundle, log, witness), _check("head", partial(_head, bundle))]
    if not all(check.holds for check in checks):
        return Result(tuple(checks), tuple(_assumptions(bundle, log, witness)))
    head, time = notes.opened(bundle.head, bundle.log, bundle.witness)
    for number, item in enumerate(bundle.items):
        checks.append(_check(f"entry {item.index}", partial(_entry, bundle, number, head)))
    for number, one in enumerate(bundle.beacons):
        checks.append(_check(f"beacon of entry {one.size - 1}", partial(_beacon, bundle, number, head)))
    draws = head.size * MOST
    if bundle.everything is not None:
        checks.append(_check("whole log", partial(_whole, bundle, head)))
        draws = counted(bundle.everything, "").everybody
    if all(check.holds for check in checks):
        checks += [_check("deposits in order", partial(_ordered, bundle)), *_revoked(bundle)]
        checks += [_check(f"model {digest[:16]}", partial(_model, bundle, digest)) for digest in digests]
        if opening is not None:
            checks.append(_check("opening", partial(_opening, bundle, opening)))
    return Result(tuple(checks), tuple(_assumptions(bundle, log, witness)), head, time, draws)


def _check(name: str, look: Callable[[], str]) -> Check:
    """What `look` finds, or why it is refused: on one line, for some of its words are a stranger's."""
    try:
        return Check(name, True, printable(look()))
    except ConfigError as error:
        return Check(name, False, printable(str(error)))


def _trusted(bundle: Bundle, log: Verifier | None, witness: Verifier | None) -> list[Check]:
    pairs = [("log's key", log, bundle.log), ("witness's key", witness, bundle.witness)]
    return [
        Check(
            name,
            given == own,
            f"{given.text}"
            if given == own
            else f"expected {given.text}, the bundle names {own and own.text}",
        )
        for name, given, own in pairs
        if given is not None
    ]


def _head(bundle: Bundle) -> str:
    checkpoint, time = notes.opened(bundle.head, bundle.log, bundle.witness)
    seen = "no witness" if time is None else f"witnessed {shown(time)}"
    return f"{checkpoint.origin}, {checkpoint.size} entries, root {checkpoint.root.hex()[:16]}, {seen}"


def _entry(bundle: Bundle, number: int, head: notes.Checkpoint) -> str:
    item = bundle.items[number]
    said = read_certificate(item.entry, f"entry {item.index}")
    if said.kind == "key":
        key_facts(said.facts["scheme"], said.facts["n"], said.facts["alpha"], said.facts["subsets"])
        if bundle.beacon_of(item.index) is None:
            raise ConfigError(
                f"the checkpoint that ends with entry {item.index} is missing: nothing can be derived from it"
            )
    if not merkle.included(item.entry, item.index, head.size, item.path, head.root):
        raise ConfigError(
            f"entry {item.index} is not in the log of the head: a foreign proof, or changed since"
        )
    return f"a {said.kind} certificate of {said.issuer[:16]}, signed by it, in the log"


def _beacon(bundle: Bundle, number: int, head: notes.Checkpoint) -> str:
    one = bundle.beacons[number]
    checkpoint, time = notes.opened(one.note, bundle.log, bundle.witness)
    if checkpoint.size != one.size:
        raise ConfigError(f"the checkpoint has size {checkpoint.size}, expected {one.size}")
    if not merkle.consistent(checkpoint.size, checkpoint.root, head.size, head.root, one.path):
        raise ConfigError("the checkpoint is not a prefix of the head: the log was rewritten in between")
    value = beacon(one.note, bundle.log, bundle.witness).hex()[:16]
    return f"R1 {value}, a prefix of the head" + ("" if time is None else f", witnessed {shown(time)}")


def _whole(bundle: Bundle, head: notes.Checkpoint) -> str:
    entries = bundle.everything or ()
    node = merkle.in_memory([merkle.leaf_hash(entry) for entry in entries])
    if len(entries) != head.size or merkle.root(node, len(entries)) != head.root:
        raise ConfigError("the entries are not those of the head")
    keys = sum(said is not None and said.kind == "key" for said in map(read_or_none, entries))
    return f"all {len(entries)} entries make the head's root; {keys} deposits of keys"


def _ordered(bundle: Bundle) -> str:
    """Every model names a key of its own issuer, deposited before."""
    keys = {said.id: (index, said) for index, said in bundle.of_kind("key")}
    models = bundle.of_kind("model")
    for index, said in models:
        named = [keys[one] for one in said.previous if one in keys]
        if not named:
            raise ConfigError(f"the key deposit that entry {index} names is not in the bundle")
        for place, key in named:
            if place >= index or key.issuer != said.issuer:
                raise ConfigError(f"entry {index} names the key {place}, which is later or somebody else's")
    return f"{len(keys)} keys, {len(models)} models, each after its key and by the same owner"


def _revoked(bundle: Bundle) -> list[Check]:
    """That no issuer took back what the bundle shows: in the whole log where it is there, else in what is."""
    entries, where = bundle.everything, "log"
    if entries is None:
        entries, where = tuple(item.entry for item in bundle.items), "bundle"
    shown_ids = {said.id: said.issuer for _, said in bundle.certificates()}
    found = [said for said in map(read_or_none, entries) if said is not None and said.kind == "revocation"]
    lost = [one for said in found for one in said.previous if shown_ids.get(one) == said.issuer]
    told = f"revoked by the issuer: {', '.join(lost)}" if lost else f"{len(found)} revocations in the {where}"
    return [Check("not revoked", not lost, told)]


def _model(bundle: Bundle, digest: str) -> str:
    for index, said in bundle.of_kind("model"):
        if digest in said.subjects:
            return f"deposited as entry {index}: {said.facts['claim']}"
    raise ConfigError(f"no model with the digest {digest} is deposited in this bundle")


def _opening(bundle: Bundle, opening: Opening) -> str:
    index, said = opened_by(bundle, opening)
    if opening.scheme != said.facts["scheme"] or opening.subsets != said.facts["subsets"]:
        raise ConfigError("the opening has another scheme or number of subsets than the deposit")
    return f"opens subset {opening.subset} of {opening.subsets} of entry {index}"


def opened_by(bundle: Bundle, opening: Opening) -> tuple[int, Certificate]:
    """The key deposit that this opening belongs to; ConfigError when there is none."""
    for index, said in bundle.of_kind("key"):
        if said.commitment is not None and opening.opens(said.commitment):
            return index, said
    raise ConfigError(
        "the opening belongs to none of the bundle's key deposits: another key, or changed since"
    )


def _assumptions(bundle: Bundle, log: Verifier | None, witness: Verifier | None) -> list[str]:
    out = ["SHA-256 has no collisions and Ed25519 signatures cannot be forged."]
    if bundle.witness is None:
        out.append(
            f"No witness: whoever holds the key of {bundle.log.name} can rewrite it, show different logs, and try keys for free."
        )
    else:
        out.append(
            f"The witness {bundle.witness.name} (key {bundle.witness.id.hex()}) is independent of the log and of owners, keeps its "
            "memory, and its clock is right: the log is tamper-evident given this witness."
        )
    for name, given, own in (("log", log, bundle.log), ("witness", witness, bundle.witness)):
        if given is None and own is not None:
            out.append(f"The {name}'s key is the bundle's own word: get it elsewhere and pass --{name}-key.")
    if bundle.everything is None:
        out.append(
            "Deposits are bounded by the log's size, not counted, and a revocation that the bundle leaves out is not seen: "
            "it does not carry the log."
        )
    out.append(
        "Deposits are counted up to the head, which is the claimant's choice; what was deposited after it counts not."
    )
    out.append(
        "A certificate shows who signed what and that it was in the log before the head; not that it is true, nor who holds a key."
    )
    return out


def shown(time: int) -> str:
    """UTC."""
    return (
        datetime.fromtimestamp(min(time, 253402300799), UTC)
        .isoformat(timespec="seconds")
        .replace("+00:00", "Z")
    )


def digest_of_file(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

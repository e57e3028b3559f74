"""Attacks on the log itself: back-dating, rewriting, split views, foreign proofs. The attacker holds the log and its key.

Each is tried with a witness and without one. What counts as success is that a reader who verifies offline accepts it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...core.errors import ConfigError
from ...core.secret import Secret
from ...evidence import merkle, notes
from ...evidence.bundle import Bundle, collect
from ...evidence.certificates import issued
from ...evidence.commitment import openings, root_of
from ...evidence.deposit import deposit_key, derived_key, key_facts, owner_signer
from ...evidence.log import Log
from ...evidence.signers import Signer
from ...evidence.verify import verify
from ...evidence.witness import OK, Witness, request
from .rows import Row, Tried, timed

ENTRIES = 8  # in the honest log before the attack
WITNESSED, ALONE = "witness", "no witness"


class Place:
    """An honest log with a few deposits, and the victim's among them."""

    def __init__(self, folder: Path, watched: bool) -> None:
        self.folder, self.signer = folder, Signer.fresh("attacked.local/log")
        self.witness = Witness.create(folder / "witness", "honest.local/witness") if watched else None
        if self.witness is not None:
            self.witness.watch(self.signer.verifier)
        self.log = self.fresh("log")
        self.victim = self.deposit(self.log, "victim")
        for i in range(ENTRIES - 1):
            self.deposit(self.log, f"other {i}")
        self.seen = self.log.checkpoint()

    def fresh(self, name: str) -> Log:
        """An empty log with the attacker's key, under the same witness."""
        if self.witness is None:
            return Log.create(self.folder / name, self.signer, None, None)
        public = self.witness.signer.verifier
        return Log.create(self.folder / name, self.signer, public, self.witness.answer)

    @staticmethod
    def deposit(log: Log, who: str) -> int:
        secret = Secret.simulated(0, who)
        root = root_of(openings(secret, who, "adi_derived", {}, 1))
        return deposit_key(log, owner_signer(secret), root, "adi_derived", 100, "1e-6", 1)[1]


def attacks(folder: Path) -> Iterator[Row]:
    for watched, name in ((False, ALONE), (True, WITNESSED)):
        for attack, work in (
            ("back-dating", back_dating),
            ("log rewrite", log_rewrite),
            ("split view", split_view),
        ):
            place = Place(folder / f"{attack} {name}", watched)
            yield timed(attack, name, lambda work=work, place=place: work(place))  # type: ignore[misc]
    yield timed("split view", "witness, its key not known to the reader", lambda: own_witness(folder / "own"))
    yield timed("back-dating by another's R1", "any", lambda: foreign_beacon(Place(folder / "beacon", False)))
    yield timed("foreign proof", "any", lambda: foreign_proof(Place(folder / "proof", False)))


def back_dating(place: Place) -> Tried:
    """Writes the log anew with the attacker's deposit before the victim's, and signs it."""
    return _other_history(
        place, [_statement("thief"), *place.log.entries()], "the thief's deposit now stands first"
    )


def log_rewrite(place: Place) -> Tried:
    """Replaces the victim's deposit by another's, at its place."""
    entries = place.log.entries()
    return _other_history(
        place,
        [*entries[: place.victim], _statement("thief"), *entries[place.victim + 1 :]],
        "the victim's deposit is gone",
    )


def _other_history(place: Place, entries: list[bytes], success: str) -> Tried:
    """The same log with other entries, checkpoints signed again; accepted by one who has only the new bundle?"""
    forged = Log.create(place.folder / "forged", place.signer, None, None)
    for entry in entries:
        forged.append(entry)
    if place.witness is not None:
        return _persuaded(place.witness, forged)
    index = entries.index(_statement("thief"))
    result = verify(collect(forged, [index]), place.signer.verifier)
    kept = _contradicts(place.seen, forged)
    why = f"{success}; only who kept an older checkpoint can tell" if kept else success
    return Tried(result.valid, 1, why, "the log's key: nothing more")


def _persuaded(witness: Witness, forged: Log) -> Tried:
    """Asks the witness for its signature on the other history at its size and at later ones, each with every proof there is."""
    tries, why = 0, ""
    for padding in range(3):
        for old in range(forged.size + 1):
            tries += 1
            status, body = witness.answer(
                request(forged.checkpoint(), old, forged.consistency(old, forged.size))
            )
            if status == OK:
                return Tried(True, tries, "the witness signed another history")
            why = body.decode().strip() if old == ENTRIES else why
        forged.append(f"padding {padding}".encode())
    return Tried(False, tries, f"the witness refuses: {why}", "the witness's key, or its memory")


def _contradicts(note: bytes, log: Log) -> bool:
    """Whether a checkpoint that somebody kept shows the forgery."""
    said = notes.parse(note)
    return log.size < said.size or log.root(said.size) != said.root


def split_view(place: Place) -> Tried:
    """Two logs of one size under one name: the victim's is in the one shown to him, and missing in the other."""
    return _other_history(
        place, [_statement("thief"), *place.log.entries()[1:]], "two readers verify two histories"
    )


def own_witness(folder: Path) -> Tried:
    """The attacker runs a witness of his own under the honest one's name; the reader takes the bundle's word for its key."""
    place = Place(folder, True)
    assert place.witness is not None
    liar = Witness.create(folder / "liar", place.witness.signer.verifier.name)
    liar.watch(place.signer.verifier)
    forged = Log.create(folder / "forged", place.signer, liar.signer.verifier, liar.answer)
    forged.append(_statement("thief"))
    bundle = collect(forged, [0])
    unknown = verify(bundle, place.signer.verifier).valid
    known = verify(bundle, place.signer.verifier, place.witness.signer.verifier).valid
    assert not known
    return Tried(unknown, 1, "a reader who passes --witness-key refuses it", "a key pair: nothing more")


def foreign_beacon(place: Place) -> Tried:
    """Derives keys under every other checkpoint than the one that ends with the own deposit, to have more draws or an older one."""
    secret = Secret.simulated(0, "other 3")
    opening = openings(secret, "other 3", "adi_derived", {}, 1)[0]
    index, accepted = 4, 0
    others = [note for i, note in enumerate(place.log.checkpoints()) if i != index]
    for note in others:
        try:
            derived_key(opening, note, index, place.signer.verifier, None)
        except ConfigError:
            continue
        accepted += 1
    return Tried(
        accepted > 0,
        len(others),
        f"{accepted} of {len(others)} other checkpoints were accepted",
        "impossible: R1 is one per entry",
    )


def foreign_proof(place: Place) -> Tried:
    """The thief's certificate under every honest entry's place and path, whole, cut, and with each hash replaced by his own."""
    bundle, tries, accepted = collect(place.log, range(ENTRIES)), 0, 0
    statement = issued(owner_signer(Secret.simulated(0, "thief")), "work", subjects=("11" * 32,)).content
    for forged in _proofs(bundle, statement):
        tries += 1
        accepted += verify(forged, place.signer.verifier).valid
    return Tried(accepted > 0, tries, f"{accepted} of {tries} proofs were accepted", "a collision of SHA-256")


def _proofs(bundle: Bundle, statement: bytes) -> Iterator[Bundle]:
    own = merkle.leaf_hash(statement)  # a work certificate: nothing but its place is in question
    for item in bundle.items:
        paths = [item.path, item.path[:-1], item.path[1:], (*item.path, own), ()]
        paths += [(*item.path[:i], own, *item.path[i + 1 :]) for i in range(len(item.path))]
        for path in paths:
            for index in {item.index, 0, ENTRIES - 1}:
                forged = replace(item, index=index, entry=statement, path=path)
                yield replace(bundle, items=(forged,), beacons=(), everything=None)


def _statement(who: str) -> bytes:
    """A key deposit."""
    secret = Secret.simulated(0, who)
    facts = key_facts("adi_derived", 100, "1e-6", 1)
    root = root_of(openings(secret, who, "adi_derived", {}, 1))
    return issued(owner_signer(secret), "key", commitment=root, facts=facts).content

"""What attacks on marks are tried in: an owner with a deposited key and model, a thief with a copy, an accuser with models of his
own, and models of nobody. Log and witness have keys that follow from the seed, so R1 and every number can be repeated.
"""

import copy
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ...core.contracts import Task
from ...core.errors import ConfigError
from ...core.key import Key
from ...core.secret import Secret, seed_for
from ...core.statistics import Floats
from ...core.suspects import Suspects
from ...evidence import deposit as two_step
from ...evidence.commitment import openings, root_of
from ...evidence.dispute import INDEPENDENT, Party
from ...evidence.log import Log
from ...evidence.signers import COSIGNATURE, NOTE, Signer
from ...evidence.witness import Witness
from ..population import population
from ..trial import Trial

BLOCK = 100  # keys scored together
TIME = 1_767_225_600  # the witness's clock: 2026, so that cosignatures can be repeated


@dataclass(frozen=True)
class Deposited:
    """One owner's deposit: the place of its key, and the key that follows from it under R1."""

    name: str
    entry: int
    key: Any


class World:
    """Everything is trained when it is first asked for. alpha: the declared rate. tries: keys that grinders try."""

    def __init__(self, trial: Trial, folder: Path, alpha: float = 1e-6, tries: int = 1000) -> None:
        self.trial, self.alpha, self.tries = trial, alpha, tries
        self.scheme, self.task = trial.watermark, trial.task
        probe = self.scheme.score(
            Suspects([self.task.fresh(None)]), [self.key(Secret.simulated(0, "length"))]
        )
        if probe.trials is None or probe.log10_p_MK is None:
            raise ConfigError(
                f"{trial.spec.choices['watermark']} has no exact tail; set watermark=adi_derived"
            )
        self.trials = probe.trials
        signer = _signer(trial.seed, "log", NOTE)
        witness = Witness.create(folder / "witness", "", _signer(trial.seed, "witness", COSIGNATURE))
        self.witness = replace(witness, clock=lambda: TIME)
        self.witness.watch(signer.verifier)
        self.log = Log.create(folder / "log", signer, self.witness.signer.verifier, self.witness.answer)
        self.owner, self.thief, self.accuser = map(self.deposit, ("owner", "thief", "accuser"))

    def deposit(self, who: str) -> Deposited:
        """Step 1, as anybody makes it."""
        secret = Secret.simulated(self.trial.seed, "evidence", who)
        found = openings(secret, who, self.trial.spec.choices["watermark"], {}, 1)
        owner = two_step.owner_signer(secret)
        facts = (self.trial.spec.choices["watermark"], self.trials, f"{self.alpha:.0e}", 1)
        _, entry = two_step.deposit_key(self.log, owner, root_of(found), *facts)
        note = self.log.checkpoint(entry + 1)
        drawn = two_step.derived_key(found[0], note, entry, self.log.signer.verifier, self.log.witness)
        return Deposited(who, entry, self.key(drawn))

    def key(self, secret: Secret) -> Key:
        return self.scheme.keygen(self.task, secret, self.task.fresh(None))

    @property
    def draws(self) -> int:
        """m, of the whole log."""
        return two_step.counted(self.log.entries(), "").everybody

    @cached_property
    def marked(self) -> nn.Module:
        """The owner's model. A scheme that starts from the trained victim gets it."""
        victim = self.trial.trainer("victim")(self.task.fresh(None), self.task.owner, label="unmarked")
        return self.scheme.embed(victim, self.owner.key, self.task, self.trial.trainer("victim"))

    @cached_property
    def overwritten(self) -> nn.Module:
        """The thief's copy of the owner's model, with his own derived mark trained in on his own data."""
        stolen = self.marked

        def fresh(seed: int | None) -> nn.Module:
            return copy.deepcopy(stolen) if seed is None else self.task.fresh(seed)

        data = self.task.attacker
        task = Task("stolen", self.task.classes, data, data, data, self.task.recipe, fresh)
        return self.scheme.embed(stolen, self.thief.key, task, self.trial.trainer("overwrite"))

    @cached_property
    def decoy(self) -> nn.Module:
        """Another model of the thief's, marked with his key: nothing in it was stolen."""
        data, start = self.task.attacker, seed_for(self.trial.seed, "decoy")

        def begun(seed: int | None) -> nn.Module:
            return self.task.fresh(start if seed is None else seed)

        task = replace(self.task, owner=data, fresh=begun)
        fresh = self.trial.trainer("decoy")(task.fresh(None), data, label="decoy")
        return self.scheme.embed(fresh, self.thief.key, task, self.trial.trainer("decoy"))

    @cached_property
    def independents(self) -> list[nn.Module]:
        wanted = replace(self.trial.settings.verification, null_models=INDEPENDENT)
        return population(replace(self.trial, settings=replace(self.trial.settings, verification=wanted)))

    @cached_property
    def accusers(self) -> list[nn.Module]:
        """Two models and a third by which the accuser chooses, on his own data."""
        seeds = [seed_for(self.trial.seed, "accuser", i) for i in range(3)]
        trainer = self.trial.trainer("accuser")
        found = [trainer(self.task.fresh(s), self.task.attacker, label="accuser's model") for s in seeds]
        return [model.requires_grad_(False) for model in found]

    @cached_property
    def best_of_tries(self) -> float:
        """The smallest log10 p of so many derived keys in the owner's model."""
        source, best = Secret.simulated(self.trial.seed, "grinder"), 0.0
        for start in range(0, self.tries, BLOCK):
            numbers = range(start, min(start + BLOCK, self.tries))
            keys = [self.key(Secret(source.derive(f"try/{i}", 32))) for i in numbers]
            best = min(best, float(self.log10_p(keys, [self.marked]).min()))
        return best

    def log10_p(self, keys: list[Key], models: list[nn.Module]) -> Floats:
        """(M, K)."""
        found = self.scheme.score(Suspects(models), keys).log10_p_MK
        assert found is not None  # a scheme without an exact tail makes no world
        return found

    def party(self, who: Deposited, model: nn.Module) -> Party:
        """Models are deposited after all keys, in the order of those."""
        log, entry = self.log.signer.verifier.text, who.entry
        return Party(who.name, self.scheme, who.key, log, entry, model, entry + self.log.size)


def _signer(seed: int, who: str, kind: int) -> Signer:
    private = hashlib.sha256(f"assay/world/{seed}/{who}".encode()).digest()
    return Signer(f"world.local/{who}", private, kind)

"""The marked model in its deployment, and what the deployment saw of the thief (docs/deployments.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import Denied
from ..core.examples import Ledger
from ..core.secret import seed_for
from ..core.suspects import logits
from ..deployments.book import Entry
from ..deployments.customers import KINDS, customers, pools
from ..deployments.gateway import classes
from ..deployments.guard import Guard
from ..deployments.home import Home
from ..deployments.monitors import Monitor, Watch
from ..deployments.thief import Thief
from ..zoo.files import load_tensors, save_tensors
from .author import author
from .cache import code_digest
from .people import Owner, scheme_of
from .trial import Trial

CUSTOMERS = 20
"""Of each kind, other ones than those that calibrated the monitor, asking about pictures of the test split."""
Record = dict[str, Any]


def admit(trial: Trial) -> None:
    """Denied unless the deployment grants this thief what his attack needs."""
    grants = trial.deployment.granted(trial.settings.adversary.licensed)
    if trial.attack.needs not in grants:
        told = " and ".join(grants) or "nothing"
        raise Denied(
            f"{trial.spec.choices['attack']} needs {trial.attack.needs}, the deployment grants {told}"
        )


@dataclass(frozen=True)
class Exposure:
    """One deployment of one model."""

    trial: Trial
    model: nn.Module
    key: str
    """The fingerprint of the key it is marked with."""

    @cached_property
    def home(self) -> Home:
        it = self.trial
        return Home(it.task, self.model, it.trainer("deployment"), it.seed, it.hardware.device)

    @cached_property
    def guard(self) -> Guard:
        deployment = self.trial.deployment
        watch = None if self.calibration is None else self.calibration[0]
        return deployment.guarded(self.home, watch)

    @cached_property
    def calibration(self) -> tuple[Watch, Tensor] | None:
        """The monitor with its threshold, and the largest suspicion of each of the further customers, kinds in turn. The numbers
        are kept in the cache."""
        trial = self.trial
        monitor: Monitor | None = trial.deployment.monitor
        if monitor is None:
            return None

        def make(path: Path, identity: dict[str, Any]) -> tuple[Watch, Tensor]:
            watch = monitor.calibrated(self.home)
            seed = seed_for(trial.seed, "further customers")
            _, pool = pools(trial.task)
            others = customers(pool, self.model, CUSTOMERS, seed, self.home.device)
            largest_U = monitor.largest(watch.known, others)
            found = {"threshold": torch.tensor([watch.threshold], dtype=torch.float64), "largest": largest_U}
            save_tensors(path, "watch", found, {"identity": identity})
            return watch, largest_U

        def read(path: Path) -> tuple[Watch, Tensor]:
            found, _ = load_tensors(path, "watch")
            known = monitor.learnt(monitor.reference_of(self.home))
            return Watch(monitor, known, float(found["threshold"])), found["largest"]

        own = trial.spec.config["deployment"]["monitor"]
        config = {**scheme_of(trial, trial.seed), "key": self.key, "monitor": own, "customers": CUSTOMERS}
        return trial.cache.kept("watches", config, code_digest(type(monitor), Exposure), read, make)

    def thief(self) -> Thief:
        """His way in, by as many accounts as he has."""
        trial, means = self.trial, self.trial.settings.adversary
        gateway = trial.deployment.expose(
            self.model, trial.hardware.device, guard=self.guard, licensed=means.licensed
        )
        return Thief(gateway, means.accounts, means.pace)


def exposed(trial: Trial, mine: Owner) -> Thief:
    """The marked model in its deployment; an API mark answers there."""
    scheme = trial.watermark

    def answer(inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        return scheme.answer(mine.key, inputs, scores, ledger)

    thief = Exposure(trial, mine.marked, mine.key.fingerprint).thief()
    thief.gateway.writer = author(trial, mine)
    thief.gateway.answer = answer if scheme.answers else None
    return thief


def answered(trial: Trial, mine: Owner) -> Record:
    """Of a mark in answers, the accuracy of the labels that customers are told on the test split, without filters; of others
    nothing."""
    scheme, test = trial.watermark, trial.task.test
    if not scheme.answers:
        return {}
    scores_NC = torch.softmax(logits(mine.marked, test.inputs, trial.hardware.device), 1)
    told_N = classes(scheme.answer(mine.key, test.inputs, scores_NC, Ledger()))
    return {"answered": float((told_N == test.targets).double().mean())}


def untimed(trial: Trial, curve: list[Record]) -> list[Record]:
    """The curve, without seconds where the deployment is only played."""
    if trial.deployment.simulation is None:
        return curve
    return [{**point, "cost": {**point["cost"], "seconds": None}} for point in curve]


def deployed(trial: Trial, mine: Owner, thief: Thief, curve: Sequence[Record]) -> Record | None:
    """The record's `deployment`; None where the thief had the weights at once."""
    if trial.attack.needs == "weights":
        return None
    exposure, means = Exposure(trial, mine.marked, mine.key.fingerprint), trial.settings.adversary
    plain = trial.deployment.plain and means.accounts == 1  # one theft may serve several schemes (stolen.py)
    head = None if plain else thief.gateway.book.verify()
    return {
        "accounts": means.accounts,
        "licensed": means.licensed,
        "simulation": trial.deployment.simulation,
        "stopped": thief.reason if not thief.alive else None,
        "clone": clone(curve),
        "alarm": None if trial.deployment.monitor is None else alarm(trial, thief),
        "benign": benign(exposure),
        "utility": None if trial.deployment.plain_answers else utility(trial, mine.marked, thief),
        "book": None if head is None else {"entries": head.number, "head": head.hash.hex()},
    }


def clone(curve: Sequence[Record]) -> Record | None:
    """The last surrogate: what the thief has when he asks no more."""
    if not curve:
        return None
    last = curve[-1]
    return {
        "queries": last["cost"]["queries"],
        "accuracy": last["accuracy"],
        "fidelity": last["agreement"],
        "log10_p": last["log10_p"],
        "detected": last["detected"],
    }


def alarm(trial: Trial, thief: Thief) -> Record:
    """queries: samples answered to all accounts when the first raised the alarm; leaked: answered later, in full; degraded: later,
    through the filter of alarmed accounts."""
    entries = thief.gateway.book.entries()
    watch = thief.gateway.guard.watch
    assert watch is not None
    first = next((i for i, entry in enumerate(entries) if entry.kind == "alarm"), None)
    later = [] if first is None else entries[first:]
    return {
        "monitor": type(watch.monitor).__name__.lower(),
        "on_alarm": trial.deployment.on_alarm,
        "threshold": watch.threshold,
        "queries": None if first is None else _samples(entries[:first]),
        "accounts": sum(entry.kind == "alarm" for entry in entries),
        "leaked": _samples([entry for entry in later if entry.kind == "answer"]),
        "degraded": _samples([entry for entry in later if entry.kind == "degraded"]),
    }


def _samples(entries: Sequence[Entry]) -> int:
    return sum(entry.samples for entry in entries if entry.kind in ("answer", "degraded"))


def benign(exposure: Exposure) -> Record | None:
    """How many further customers of every kind the monitor accuses; the worst kind is the one accused most often."""
    if exposure.calibration is None:
        return None
    watch, largest_U = exposure.calibration
    alarmed_U = (largest_U > watch.threshold).tolist()
    kinds = {kind: alarmed_U[i :: len(KINDS)] for i, kind in enumerate(KINDS)}
    rates = {kind: sum(found) / len(found) for kind, found in kinds.items()}
    worst = max(rates, key=lambda kind: rates[kind])
    return {
        "fpr": watch.monitor.fpr,
        "customers": len(alarmed_U),
        "alarmed": sum(alarmed_U),
        "kinds": {kind: {"customers": len(found), "alarmed": sum(found)} for kind, found in kinds.items()},
        "worst": {"kind": worst, "rate": rates[worst]},
    }


def utility(trial: Trial, model: nn.Module, thief: Thief) -> Record:
    """What the filters cost an honest customer, on the test split and without the mark: accuracy of the answered labels, the share
    of labels that are not the model's, and the mean total variation between answered scores and the model's. `degraded`: the same
    for a customer who was falsely accused."""
    test = trial.task.test
    scores_NC = torch.softmax(logits(model, test.inputs, trial.hardware.device), 1)
    own_N = classes(scores_NC)

    def told(degraded: bool) -> Record:
        gateway = thief.gateway
        altered_NC = gateway.guard.altered(test.inputs, scores_NC, degraded)
        answered_NC = gateway.rounded(gateway.guard.coarsened(test.inputs, altered_NC, degraded))
        labels_N = classes(altered_NC)
        return {
            "accuracy": float((labels_N == test.targets).double().mean()),
            "labels_changed": float((labels_N != own_N).double().mean()),
            "scores_moved": float((answered_NC - scores_NC).abs().sum(1).double().mean() / 2),
        }

    return {**told(False), "degraded": told(True) if trial.deployment.degraded is not None else None}

"""Who takes part in a trial: the owner, a rival owner with a mark of the same scheme, and models of nobody.

Everything trained here comes from the artifact cache, so all trials of a sweep share it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..core.contracts import Task
from ..core.errors import NotApplicable
from ..core.key import Key
from ..core.secret import Secret, seed_for
from ..zoo.training import Trainer
from .cache import code_digest
from .trial import Trial

RIVAL = 500_000  # added to the trial's seed: a rival has other data, another initialisation, another secret
Trained = tuple[nn.Module, dict[str, Any]]
"""A model, and what its training took."""
NOBODY = 1_000_000  # seeds of null models, the same for every trial


@dataclass(frozen=True)
class Owner:
    key: Key
    victim: nn.Module
    """The same training without the mark."""
    marked: nn.Module
    victim_seconds: float
    embedding_seconds: float


def owner(trial: Trial, who: str) -> Owner:
    """`owner` or `rival`: trained victim, key, marked model."""
    return marked_by(trial, task_of(trial, who), trial.seed + (RIVAL if who == "rival" else 0), 0)


def task_of(trial: Trial, who: str) -> Task:
    """The rival has another split of the data."""
    return (
        trial.settings.task.load(trial.settings.model, trial.seed + RIVAL) if who == "rival" else trial.task
    )


def buyer(trial: Trial, number: int) -> Owner:
    """The owner's model as one buyer holds it, marked for him; buyer 0's copy is the owner's own."""
    return marked_by(trial, trial.task, trial.seed, number)


def marked_by(
    trial: Trial, task: Task, seed: int, number: int, wait: bool = True, unmarked: Trained | None = None
) -> Owner:
    """A scheme that embeds nothing marks the victim itself. filelock.Timeout unless `wait` when another process is at it. unmarked:
    the victim, where it is not the one that `clean` trains."""
    victim, facts = unmarked or clean(trial, seed, task, wait)
    key, key_seconds = key_of(trial, task, seed, victim, number)
    return marked_with(trial, task, seed, (victim, facts), key, key_seconds, wait)


def marked_with(
    trial: Trial,
    task: Task,
    seed: int,
    unmarked: Trained,
    key: Key,
    key_seconds: float = 0.0,
    wait: bool = True,
) -> Owner:
    """The victim, marked with this key. filelock.Timeout unless `wait` when another process is at it."""
    victim, facts = unmarked
    if not trial.watermark.embeds:
        return Owner(key, victim, victim, facts["seconds"], key_seconds)
    if not trial.watermark.trains:
        return Owner(key, victim, sampling(trial, victim, key, task, seed), facts["seconds"], key_seconds)
    config = {**scheme_of(trial, seed), "key": key.fingerprint}

    def embed(fit: Trainer) -> nn.Module:
        return trial.watermark.embed(victim, key, task, fit)

    code = code_digest(type(trial.watermark))
    make = timed(embed, Trainer(trial.hardware, task.recipe, seed_for(seed, "victim")))
    marked, more = trial.cache.model(config, code, make, lambda: task.fresh(None), wait)
    return Owner(key, victim, marked, facts["seconds"], round(key_seconds + more["seconds"], 3))


def sampling(trial: Trial, victim: nn.Module, key: Key, task: Task, seed: int) -> nn.Module:
    """The victim with the scheme's sampler, which the cache of weights cannot keep."""
    fit = Trainer(trial.hardware, task.recipe, seed_for(seed, "victim"))
    marked = trial.watermark.embed(victim, key, task, fit)
    if fit.steps:
        raise RuntimeError(f"{type(trial.watermark).__name__} declares trains = False, and trained")
    return marked


def key_of(trial: Trial, task: Task, seed: int, victim: nn.Module, number: int) -> tuple[Key, float]:
    """A buyer's key and the seconds it took. Keys that depend on the victim cost a search, so the cache keeps them."""
    scheme, secret = trial.watermark, Secret.simulated(seed, "owner")
    if "random_keys" in scheme.nulls or not scheme.nulls:
        return scheme.buyer_key(task, secret, number, victim), 0.0
    if number:
        raise NotApplicable(
            "a key that depends on the victim is one for all copies: there are no buyers' keys"
        )

    def make() -> tuple[Key, dict[str, Any]]:
        fit = Trainer(trial.hardware, task.recipe, seed_for(seed, "key"))
        start = time.perf_counter()
        key = scheme.keygen(task, secret, victim, fit)
        return key, {"seconds": round(time.perf_counter() - start, 3), "steps": fit.steps}

    code = code_digest(type(scheme))
    key, facts = trial.cache.key(scheme_of(trial, seed), code, scheme.key_type, make)
    return key, float(facts["seconds"])


def scheme_of(trial: Trial, seed: int) -> dict[str, Any]:
    return {**training(trial, seed), "watermark": trial.spec.config["watermark"]}


def clean(trial: Trial, seed: int, task: Task | None = None, wait: bool = True) -> Trained:
    """An unmarked model of its own seed: data split, initialisation and order. filelock.Timeout unless `wait` when another
    process is training it."""
    own = task or trial.settings.task.load(trial.settings.model, seed)
    if not trial.settings.task.trains:
        return own.fresh(None).eval(), {"seconds": 0.0, "steps": 0}

    def train(fit: Trainer) -> nn.Module:
        return fit(own.fresh(None), own.owner, label=f"unmarked model, seed {seed}")

    make = timed(train, Trainer(trial.hardware, own.recipe, seed_for(seed, "victim")))
    return trial.cache.model(training(trial, seed), code_digest(), make, lambda: own.fresh(None), wait)


def training(trial: Trial, seed: int) -> dict[str, Any]:
    """What identifies a training in the cache."""
    config = trial.spec.config
    hardware = {name: value for name, value in config["trainer"].items() if name != "progress"}
    files = {"files": contents} if (contents := trial.settings.task.contents()) else {}
    return {"task": config["task"], "model": config["model"], **files, "trainer": hardware, "seed": seed}


def timed(work: Callable[[Trainer], nn.Module], fit: Trainer) -> Callable[[], Trained]:
    def make() -> Trained:
        start = time.perf_counter()
        model = work(fit)
        return model, {"seconds": round(time.perf_counter() - start, 3), "steps": fit.steps}

    return make

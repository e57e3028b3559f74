"""A trial, end to end: victim, key, marked model, theft, verification matrix, record."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..core.contracts import Task
from ..core.errors import Denied
from ..core.evidence import Evidence, weigh
from ..core.key import Key
from ..core.scores import Scores
from ..core.suspects import Suspects
from ..core.theft import Surrogate
from ..zoo.files import save_key, save_model
from .cache import code_digest
from .catalogue import declared
from .environment import environment
from .meter import Meter
from .people import Owner, clean_models, owner
from .trial import Trial


def run(trial: Trial) -> dict[str, Any]:
    """The record of a finished trial. Raises Denied, NotApplicable or ConfigError instead of a number it cannot vouch for."""
    if trial.attack.needs not in trial.deployment.grants:
        grants = " and ".join(trial.deployment.grants)
        raise Denied(
            f"{trial.spec.choices['attack']} needs {trial.attack.needs}, the deployment grants {grants}"
        )
    mine = owner(trial, "owner")
    rival = owner(trial, "rival")
    nulls = clean_models(trial, trial.settings.verification.null_models)
    access = trial.deployment.expose(mine.marked, trial.hardware.device)
    meter = Meter(access, trial.trainer("thief"))
    surrogates = list(meter.over(trial.attack(access, trial.adversary(meter))))
    matrix = Matrix.measured(trial, mine, rival, [s.model for s in surrogates], nulls)
    if trial.settings.save is not None:
        export(trial, Path(trial.settings.save), mine, surrogates)
    return {
        **header(trial),
        "status": "ok",
        "owner": owner_costs(trial, mine),
        "marked": {"accuracy": accuracy(trial, mine.marked), **asdict(matrix.weigh(Matrix.MARKED))},
        "curve": [
            point(trial, mine.marked, s, matrix.weigh(Matrix.FIRST + i)) for i, s in enumerate(surrogates)
        ],
        "controls": {
            # A fingerprint's unmarked model is the marked one: no control.
            "unmarked": asdict(matrix.weigh(Matrix.UNMARKED)) if trial.watermark.embeds else None,
            "marked_by_rival": asdict(matrix.weigh(Matrix.RIVAL)),
            "key_of_rival": asdict(matrix.weigh(Matrix.MARKED, key=1)),
        },
        "nulls": matrix.summary(),
        "size": matrix.size(),
    }


def header(trial: Trial) -> dict[str, Any]:
    """What every record begins with, whatever its status."""
    spec = trial.spec
    return {
        "id": spec.id,
        "choices": spec.choices,
        "seed": trial.seed,
        "overrides": spec.overrides,
        "declared": {"watermark": declared(trial.watermark), "attack": declared(trial.attack)},
        "config": spec.identity()["config"],
        "environment": environment(trial.hardware, code_digest(type(trial.watermark), type(trial.attack))),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class Matrix:
    """Suspects x keys, scored in one call. Rows: unmarked, the rival's marked model, the marked model, surrogates, null models;
    columns: the owner's key, the rival's, random keys."""

    scores: Scores
    nulls: slice
    """The null models' rows."""
    valid: Sequence[str]
    fpr: float

    UNMARKED, RIVAL, MARKED, FIRST = 0, 1, 2, 3

    @staticmethod
    def measured(
        trial: Trial, mine: Owner, rival: Owner, stolen: list[nn.Module], nulls: list[nn.Module]
    ) -> "Matrix":
        scheme = trial.watermark
        models = [mine.victim, rival.marked, mine.marked, *stolen, *nulls]
        keys = [mine.key, rival.key, *random_keys(trial, trial.task, mine.victim)]
        scores = scheme.score(Suspects(models, trial.hardware.device), keys)
        first_null = Matrix.FIRST + len(stolen)
        return Matrix(scores, slice(first_null, None), scheme.nulls, trial.settings.verification.fpr)

    def weigh(self, row: int, key: int = 0) -> Evidence:
        randoms = range(2, self.scores.statistic_MK.shape[1])
        null_M = self.scores.extremity_MK[self.nulls, key].tolist()
        return weigh(self.scores, row, key, randoms, null_M, self.valid, self.fpr)

    def summary(self) -> dict[str, Any]:
        """The null scores themselves: the owner's key on each null model, each random key on the marked model."""
        return {
            "independent_models": finite(self.scores.statistic_MK[self.nulls, 0]),
            "random_keys": finite(self.scores.statistic_MK[self.MARKED, 2:]),
        }

    def size(self) -> dict[str, int] | None:
        """How often strangers' keys claim models of nobody at the declared rate: what the exact tail promises, observed. None
        without one. Cells of one key, or of one model, are not independent."""
        if self.scores.log10_p_MK is None:
            return None
        p = self.scores.log10_p_MK[self.nulls, 2:]
        return {"cells": p.size, "claims": int((p <= math.log10(self.fpr)).sum())}


def finite(values: Any) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def random_keys(trial: Trial, task: Task, victim: nn.Module) -> list[Key]:
    """Strangers' keys by the scheme's own sampler; none where random keys are no null."""
    if "random_keys" not in trial.watermark.nulls:
        return []
    count = trial.settings.verification.random_keys
    return [trial.watermark.keygen(task, trial.secret("random key", k), victim) for k in range(count)]


def accuracy(trial: Trial, model: nn.Module) -> float:
    """On the test split."""
    test = trial.task.test
    labels_N = Suspects([model], trial.hardware.device).labels(test.inputs)[0]
    return float((labels_N == test.targets).double().mean())


def point(trial: Trial, marked: nn.Module, surrogate: Surrogate, found: Evidence) -> dict[str, Any]:
    """One point of the curve: strength, accuracy, agreement with the victim on the test split, evidence, cost."""
    assert surrogate.cost is not None
    test = trial.task.test
    mine, theirs = Suspects([marked, surrogate.model], trial.hardware.device).labels(test.inputs)
    return {
        "strength": surrogate.strength,
        "accuracy": float((theirs == test.targets).double().mean()),
        "agreement": float(((theirs == mine) & (mine >= 0)).double().mean()),
        **asdict(found),
        "cost": asdict(surrogate.cost),
    }


def owner_costs(trial: Trial, mine: Owner) -> dict[str, Any]:
    return {
        "unmarked_accuracy": accuracy(trial, mine.victim),
        "victim_seconds": mine.victim_seconds,
        "embedding_seconds": mine.embedding_seconds,
        "embeds": trial.watermark.embeds,
    }


def export(trial: Trial, folder: Path, mine: Owner, surrogates: list[Surrogate]) -> None:
    """The models and the owner's key, for `assay verify`. Surrogates of another architecture are left out."""
    config = trial.spec.config
    about = {axis: {"name": trial.spec.choices[axis], "config": config[axis]} for axis in ("task", "model")}
    about["seed"] = config["seed"]
    scheme = {"watermark": {"name": trial.spec.choices["watermark"], "config": config["watermark"]}}
    save_key(folder / "key.safetensors", mine.key, {**scheme, **about})
    models = {"marked": mine.marked, "unmarked": mine.victim}
    models |= {f"surrogate-{s.strength:g}": s.model for s in surrogates}
    shapes = {name: t.shape for name, t in mine.marked.state_dict().items()}
    for name, model in models.items():
        if {n: t.shape for n, t in model.state_dict().items()} == shapes:
            save_model(folder / f"{name}.safetensors", model, about)

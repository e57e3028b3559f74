"""The verification matrix of a trial: suspects x keys, scored in one call, and every reading of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..core.evidence import Evidence, weigh
from ..core.examples import Ledger
from ..core.key import Key
from ..core.scores import Scores
from ..core.suspects import Suspects
from ..core.theft import Surrogate
from .people import Owner
from .trial import Trial


@dataclass(frozen=True)
class Matrix:
    """Rows: unmarked, the rival's marked model, the marked model, surrogates, null models; columns: the owner's key, the rival's,
    random keys, accusers' claims."""

    scores: Scores
    keys: Sequence[Key]
    randoms: range
    claims: dict[int, int]
    """The surrogates' numbers and their claims' columns."""
    nulls: slice
    """The null models' rows."""
    valid: Sequence[str]
    fpr: float

    UNMARKED, RIVAL, MARKED, FIRST = 0, 1, 2, 3

    @staticmethod
    def measured(
        trial: Trial,
        mine: Owner,
        rival: Owner,
        stolen: Sequence[Surrogate],
        nulls: list[nn.Module],
        ledger: Ledger,
    ) -> "Matrix":
        scheme = trial.watermark
        models = [mine.victim, rival.marked, mine.marked, *(s.model for s in stolen), *nulls]
        own = [scheme.settle(k, ledger) for k in (mine.key, rival.key, *random_keys(trial, mine.victim))]
        claims = [(i, s.claim) for i, s in enumerate(stolen) if s.claim is not None]
        keys = [*own, *(claim for _, claim in claims)]
        scores = scheme.score(Suspects(models, trial.hardware.device), keys)
        return Matrix(
            scores=scores,
            keys=keys,
            randoms=range(2, len(own)),
            claims={i: len(own) + column for column, (i, _) in enumerate(claims)},
            nulls=slice(Matrix.FIRST + len(stolen), None),
            valid=scheme.nulls,
            fpr=trial.settings.verification.fpr,
        )

    def weigh(self, row: int, key: int = 0, deposits: int = 1) -> Evidence:
        null_M = self.scores.extremity_MK[self.nulls, key].tolist()
        return weigh(self.scores, row, key, self.randoms, null_M, self.valid, self.fpr, deposits)

    def summary(self) -> dict[str, Any]:
        """The null scores themselves: the owner's key on each null model, each random key on the marked model."""
        return {
            "independent_models": finite(self.scores.statistic_MK[self.nulls, 0]),
            "random_keys": finite(self.scores.statistic_MK[self.MARKED, list(self.randoms)]),
        }

    def size(self) -> dict[str, int] | None:
        """How often strangers' keys claim models of nobody at the declared rate: what the exact tail promises, observed. None
        without one. Cells of one key, or of one model, are not independent."""
        if self.scores.log10_p_MK is None:
            return None
        p = self.scores.log10_p_MK[self.nulls, list(self.randoms)]
        return {"cells": p.size, "claims": int((p <= math.log10(self.fpr)).sum())}

    def claimed(self, key: int) -> dict[str, int | None]:
        """How many models of nobody an accuser's key claims by the exact tail; None without one."""
        if self.scores.log10_p_MK is None:
            return {"models": len(self.scores.statistic_MK[self.nulls]), "claims": None}
        p = self.scores.log10_p_MK[self.nulls, key]
        return {"models": p.size, "claims": int((p <= math.log10(self.fpr)).sum())}


def finite(values: Any) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def random_keys(trial: Trial, victim: nn.Module) -> list[Key]:
    """Strangers' keys by the scheme's own sampler; none where random keys are no null."""
    if "random_keys" not in trial.watermark.nulls:
        return []
    count = trial.settings.verification.random_keys
    keygen, task = trial.watermark.keygen, trial.task
    return [keygen(task, trial.secret("random key", k), victim) for k in range(count)]

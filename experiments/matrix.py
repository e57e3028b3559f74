"""The verification matrix of a trial: suspects x keys, and every reading of it.

Models and keys that do not depend on the attack are scored once for all trials of a scheme: the artifact cache keeps that part.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from torch import nn

from ..attacks.sequence import stages_of
from ..core.contracts import Task, Watermark
from ..core.evidence import Evidence, weigh
from ..core.examples import Ledger
from ..core.key import Key
from ..core.scores import Scores
from ..core.suspects import Suspects
from ..core.theft import Surrogate
from .cache import code_digest
from .people import Owner, scheme_of, task_of
from .population import FOREIGN, foreign, kinds, population
from .trial import Kind, Trial

OF_MODELS = ("independent_models", "rivals")
"""Sources of a p-value that holds for suspects like the null models."""


@dataclass(frozen=True)
class Matrix:
    """Rows: unmarked, the rival's marked model, the marked model, null models, surrogates; columns: the owner's key, the rival's,
    random keys, the keys that thieves and accusers present."""

    scores: Scores
    keys: Sequence[Key]
    randoms: range
    presented: dict[int, int]
    """The surrogates' numbers and the columns of the keys presented with them."""
    kinds: Sequence[Kind]
    """Of the null models, whose rows follow the marked model's; the surrogates' follow them."""
    valid: Sequence[str]
    fpr: float
    elsewhere: bool = False
    """Whether the surrogates have another architecture than the null models, which then are no null for them."""
    strangers: Scores | None = None
    """Where random keys decide, what `strangers` says of the rival's key."""

    UNMARKED, RIVAL, MARKED, NULLS = 0, 1, 2, 3

    @staticmethod
    def measured(
        trial: Trial,
        mine: Owner,
        rival: Owner,
        stolen: Sequence[Surrogate],
        ledger: Ledger,
    ) -> "Matrix":
        scheme, device = trial.watermark, trial.hardware.device
        own = [
            scheme.settle(k, ledger)
            for k in (mine.key, rival.key, *random_keys(trial, trial.task, mine.victim))
        ]

        @cache
        def known() -> (
            Suspects
        ):  # loaded only by the first trial of a scheme, and where new keys are presented
            return Suspects([mine.victim, rival.marked, mine.marked, *population(trial)], device)

        shown = [(i, key) for i, s in enumerate(stolen) if (key := s.claim or s.mark) is not None]
        thiefs = [key for _, key in shown]
        scores = calibrated(trial, known, own)
        if thiefs:
            scores = Scores.joined([scores, scheme.score(known(), thiefs)], axis=1)
        if stolen:
            suspects = Suspects([s.model for s in stolen], device)
            scores = Scores.joined([scores, scheme.score(suspects, [*own, *thiefs])], axis=0)
        by_keys = scores.log10_p_MK is None and "random_keys" in scheme.nulls
        return Matrix(
            scores=scores,
            keys=[*own, *thiefs],
            randoms=range(2, len(own)),
            presented={i: len(own) + column for column, (i, _) in enumerate(shown)},
            kinds=kinds(trial),
            valid=scheme.nulls,
            fpr=trial.settings.verification.fpr,
            elsewhere=elsewhere(trial),
            strangers=strangers(trial, mine, rival, ledger) if by_keys else None,
        )

    @property
    def nobodys(self) -> list[int]:
        """The rows of the null models that the scheme itself does not mark."""
        return [self.NULLS + i for i, kind in enumerate(self.kinds) if kind != "rival"]

    @property
    def readable(self) -> list[int]:
        """Of nobody's, those that the scheme can read: a model without the marked layer is no draw from the null."""
        return [row for row in self.nobodys if not np.isnan(self.scores.statistic_MK[row]).all()]

    @property
    def rivals(self) -> list[int]:
        return [self.NULLS + i for i, kind in enumerate(self.kinds) if kind == "rival"]

    def surrogate(self, number: int) -> int:
        """Its row."""
        return self.NULLS + len(self.kinds) + number

    def _nulls(self, key: int) -> tuple[list[float], list[float]]:
        """Of the null models, nobody's and rivals'."""
        nobodys, rivals = (
            self.scores.extremity_MK[rows, key].tolist() for rows in (self.nobodys, self.rivals)
        )
        return nobodys, rivals

    def weigh(self, row: int, key: int = 0, deposits: int = 1) -> Evidence:
        nobodys, rivals = self._nulls(key)
        found = weigh(self.scores, row, key, self.randoms, nobodys, self.valid, self.fpr, deposits, rivals)
        if self.elsewhere and row >= self.surrogate(0) and found.source in OF_MODELS:
            return replace(found, source="none", log10_p=0.0, detected=None)
        return found

    def of_rival(self) -> Evidence:
        """The rival's key in the marked model."""
        if self.strangers is None:
            return self.weigh(self.MARKED, key=1)
        others = range(1, self.strangers.statistic_MK.shape[1])
        nobodys, rivals = self._nulls(1)
        return weigh(self.strangers, 0, 0, others, nobodys, self.valid, self.fpr, rivals=rivals)

    def summary(self) -> dict[str, Any]:
        """The null scores themselves: the owner's key on each null model, each random key on the marked model."""
        return {
            "independent_models": finite(self.scores.statistic_MK[self.nobodys, 0]),
            "rivals": finite(self.scores.statistic_MK[self.rivals, 0]),
            "random_keys": finite(self.scores.statistic_MK[self.MARKED, list(self.randoms)]),
        }

    def size(self) -> dict[str, int] | None:
        """How often strangers' keys claim models of nobody at the declared rate: what the exact tail promises, observed. None
        without one. Cells of one key, or of one model, are not independent."""
        found = self._exact_claims(list(self.randoms))
        return None if found is None else {"cells": found[0], "claims": found[1]}

    def claimed(self, key: int) -> dict[str, int | None]:
        """How many readable models of nobody an accuser's key claims by the exact tail; None without one."""
        found = self._exact_claims([key])
        return {"models": len(self.readable), "claims": None if found is None else found[1]}

    def _exact_claims(self, keys: Sequence[int]) -> tuple[int, int] | None:
        """Readable cells of nobody's models and these keys, and in how many the exact tail says owned; None without a tail."""
        if self.scores.log10_p_MK is None:
            return None
        cells = np.ix_(self.readable, list(keys))
        p = self.scores.log10_p_MK[cells][~np.isnan(self.scores.statistic_MK[cells])]
        return p.size, int((p <= math.log10(self.fpr)).sum())


def calibrated(trial: Trial, known: Callable[[], Suspects], keys: Sequence[Key]) -> Scores:
    """The part of the matrix that is the same under every attack: (3 + null models, owner's, rival's and random keys). Keys that
    settle on the ledger of the trial have none."""
    scheme = trial.watermark
    if type(scheme).settle is not Watermark.settle:
        return scheme.score(known(), keys)
    verification = trial.spec.config["verification"]
    others = {FOREIGN[kind][0]: foreign(trial, kind) for kind in FOREIGN if kind in kinds(trial)}
    config = {
        **scheme_of(trial, trial.seed),
        "calibration": {name: verification[name] for name in ("random_keys", "null_models")},
        "others": {axis: other.spec.config[axis] for axis, other in others.items()},
        "keys": [key.fingerprint for key in keys[:2]],
    }
    code = code_digest(type(scheme), Matrix, *{type(other.watermark) for other in others.values()})
    return trial.cache.scores(config, code, lambda: scheme.score(known(), keys))


def strangers(trial: Trial, mine: Owner, rival: Owner, ledger: Ledger) -> Scores:
    """(1, 1 + random keys): the marked model under the rival's key and under random keys made for the rival's data and victim. A
    key may hold what its owner's model answers, so it is one among keys that were made for the same model, and among no others."""
    others = random_keys(trial, task_of(trial, "rival"), rival.victim)
    keys = [trial.watermark.settle(key, ledger) for key in (rival.key, *others)]
    return trial.watermark.score(Suspects([mine.marked], trial.hardware.device), keys)


def elsewhere(trial: Trial) -> bool:
    """Whether the thief trains another architecture than the victim's, also as a stage of his attack."""
    students = (getattr(stage, "student", None) for stage in stages_of(trial.attack))
    return any(student not in (None, trial.settings.model) for student in students)


def finite(values: Any) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def random_keys(trial: Trial, task: Task, victim: nn.Module) -> list[Key]:
    """Strangers' keys for one owner's data and model by the scheme's own sampler; none where random keys are no null."""
    if "random_keys" not in trial.watermark.nulls:
        return []
    count = trial.settings.verification.random_keys
    keygen = trial.watermark.keygen
    return [keygen(task, trial.secret("random key", k), victim) for k in range(count)]

"""`assay calibrate`: is a scheme's p-value what it says, on models of nobody and under keys of strangers?

The part of the verification matrix that no attack changes, as the cache keeps it for all trials of the scheme: the owner's key and
strangers' keys on independent models and on the marked model.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...core.dispersion import Dispersion, dispersion
from ...core.errors import ConfigError
from ...core.evidence import Evidence
from ...core.examples import Ledger
from ...core.scores import Scores
from ...core.statistics import Floats, clustered_rate, rate_bound
from ..matrix import Matrix
from ..people import owner
from ..trial import Trial


@dataclass(frozen=True)
class Null:
    """One null: its scores, and what the declared false-positive rate comes to on it.

    units: independent draws, models or keys, on which the 95 % interval of the observed rate rests. claims: scores at or
    below the declared rate by the exact tail; None without one. low, high: 95 % (Clopper-Pearson)."""

    name: str
    units: int
    statistics: list[float]
    log10_p: list[float] | None
    mean: float
    sd: float
    claims: int | None
    low: float | None
    high: float | None
    dispersion: Dispersion | None

    @property
    def rate(self) -> float | None:
        return None if self.claims is None else self.claims / max(len(self.statistics), 1)


@dataclass(frozen=True)
class Calibration:
    nulls: list[Null]
    marked: Evidence
    unit: str
    trials: int | None
    law: str | None
    fpr: float
    supported: float
    """The smallest rate that the independent models support: the 95 % bound after 0 of m."""


def calibrate(trial: Trial) -> Calibration:
    """ConfigError for the control, and for an API mark, whose keys follow the ledger of a theft."""
    scheme, name = trial.watermark, trial.spec.choices["watermark"]
    if scheme.answers or not scheme.nulls:
        raise ConfigError(
            f"{name} has no null before a theft; its trials show it: assay run watermark={name} attack=extract"
        )
    matrix = Matrix.measured(trial, owner(trial, "owner"), owner(trial, "rival"), [], Ledger())
    scores, randoms = matrix.scores, list(matrix.randoms)
    return Calibration(
        nulls=_nulls(matrix, randoms),
        marked=matrix.weigh(Matrix.MARKED),
        unit=scores.unit,
        trials=scores.trials,
        law=None if scores.log10_p_MK is None else scores.law,
        fpr=matrix.fpr,
        supported=rate_bound(0, len(matrix.readable)),
    )


def _nulls(matrix: Matrix, randoms: Sequence[int]) -> list[Null]:
    scores, rows, rivals, fpr = matrix.scores, matrix.readable, matrix.rivals, matrix.fpr
    found = [null("owner's key, independent models", scores, rows, [0], len(rows), fpr)]
    if rivals:
        found.append(null("owner's key, models of rivals", scores, rivals, [0], len(rivals), fpr))
    if len(randoms):
        found += [
            null("random keys, marked model", scores, [Matrix.MARKED], randoms, len(randoms), fpr),
            null("random keys, independent models", scores, rows, randoms, min(len(randoms), len(rows)), fpr),
        ]
    return found


def null(name: str, scores: Scores, rows: Sequence[int], keys: Sequence[int], units: int, fpr: float) -> Null:
    """The cells rows x keys. Cells that share a key or a model are not independent: the interval counts `units`, the draws of the
    scarcer kind."""
    cells = np.ix_(list(rows), list(keys))
    statistic_MK = scores.statistic_MK[cells]
    readable = ~np.isnan(statistic_MK)
    values = statistic_MK[readable]
    log10_p: Floats | None = None if scores.log10_p_MK is None else scores.log10_p_MK[cells][readable]
    claims = None if log10_p is None else int((log10_p <= math.log10(fpr)).sum())
    low = high = None
    if claims is not None and units and len(values):
        low, high = clustered_rate(claims, len(values), min(units, len(values)))
    return Null(
        name=name,
        units=units,
        statistics=values.tolist(),
        log10_p=None if log10_p is None else log10_p.tolist(),
        mean=float(values.mean()) if len(values) else math.nan,
        sd=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        claims=claims,
        low=low,
        high=high,
        dispersion=_dispersion(statistic_MK[:, 0], scores) if len(keys) == 1 else None,
    )


def _dispersion(hits_M: Floats, scores: Scores) -> Dispersion | None:
    """Of one key over models, where the statistic counts hits of trials."""
    read = hits_M[~np.isnan(hits_M)]
    trials = scores.trials or 0
    whole = (read >= 0) & (read <= trials) & (read == np.round(read))
    return dispersion(read, trials) if trials > 1 and len(read) > 1 and whole.all() else None


def summary(trial: Trial, found: Calibration) -> dict[str, Any]:
    """What is stored. NaN becomes null: JSON has none."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    made = {"choices": trial.spec.choices, "seed": trial.seed, "config": trial.spec.identity()["config"]}
    whole: dict[str, Any] = plain({**made, **asdict(found)})
    return whole

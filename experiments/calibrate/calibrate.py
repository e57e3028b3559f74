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
from ...core.statistics import Floats, auroc, clustered_rate, rate_bound
from ..matrix import OF_MODELS, Matrix
from ..people import owner
from ..trial import Trial

RATES = (0.01, 0.001, 1e-6)
"""At which the marked model is asked for."""
WANTED = {"independent_models": "null_models=99", "random_keys": "random_keys=200"}


@dataclass(frozen=True)
class Null:
    """One null: its scores, and what the declared false-positive rate comes to on it.

    units: independent draws, models or keys, on which the 95 % interval of the observed rate rests. claims: scores at or
    below the declared rate by the exact tail; None without one. low, high: 95 % (Clopper-Pearson); bound: one-sided.
    auroc: the share of scores below the marked model's, equal ones counted half; nan where it cannot be read."""

    name: str
    units: int
    statistics: list[float]
    log10_p: list[float] | None
    mean: float
    sd: float
    claims: int | None
    low: float | None
    high: float | None
    bound: float | None
    auroc: float
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
    """The least rate at which p can decide: 1 / (count + 1) of the null that decides; 0 with an exact tail."""
    found_at: list[tuple[float, bool]]
    """Declared rates, and whether the marked model is found at them."""


def calibrate(trial: Trial) -> Calibration:
    """ConfigError for the control, for an API mark, whose keys follow the ledger of a theft, and without a null."""
    scheme, name = trial.watermark, trial.spec.choices["watermark"]
    if scheme.answers or not scheme.nulls:
        raise ConfigError(
            f"{name} has no null before a theft; its trials show it: assay run watermark={name} attack=extract"
        )
    return calibration(Matrix.measured(trial, owner(trial, "owner"), owner(trial, "rival"), [], Ledger()))


def calibration(matrix: Matrix) -> Calibration:
    nulls = _nulls(matrix, list(matrix.randoms))
    if not nulls:
        wanted = " and ".join(f"verification.{WANTED[name]}" for name in matrix.valid)
        raise ConfigError(f"expected null scores, found none that can be read; set {wanted}")
    scores, marked = matrix.scores, matrix.weigh(Matrix.MARKED)
    exact = scores.log10_p_MK is not None
    least = 0.0 if exact else 1 / (1 + decides(marked)[1])
    return Calibration(
        nulls=nulls,
        marked=marked,
        unit=scores.unit,
        trials=scores.trials,
        law=scores.law if exact else None,
        fpr=matrix.fpr,
        supported=least,
        found_at=[(rate, marked.log10_p <= math.log10(rate)) for rate in _rates(least)],
    )


def decides(marked: Evidence) -> tuple[str, int]:
    """Without an exact tail, the null that p is the rank in, and its count: of models' the smaller, as p is the larger."""
    names = OF_MODELS if marked.source in OF_MODELS else (marked.source,)
    nulls = {name: null.count for name in names if (null := getattr(marked, name, None)) is not None}
    return min(nulls.items(), key=lambda item: item[1], default=(marked.source, 0))


def _rates(least: float) -> list[float]:
    """Those of RATES that are supported, and the least that is where one is not."""
    supported = [rate for rate in RATES if rate >= least]
    return supported if least <= RATES[-1] or least in supported or least == 1 else [*supported, least]


def _nulls(matrix: Matrix, randoms: Sequence[int]) -> list[Null]:
    """Those that have a score."""
    scores, rows, rivals, fpr = matrix.scores, matrix.readable, matrix.rivals, matrix.fpr
    found = [null("owner's key, independent models", scores, rows, [0], len(rows), fpr)]
    if rivals:
        found.append(null("owner's key, models of rivals", scores, rivals, [0], len(rivals), fpr))
    if len(randoms):
        found += [
            null("random keys, marked model", scores, [Matrix.MARKED], randoms, len(randoms), fpr),
            null("random keys, independent models", scores, rows, randoms, min(len(randoms), len(rows)), fpr),
        ]
    return [one for one in found if one.statistics]


def null(name: str, scores: Scores, rows: Sequence[int], keys: Sequence[int], units: int, fpr: float) -> Null:
    """The cells rows x keys, beside the owner's key on the marked model. Cells that share a key or a model are not independent: the
    interval counts `units`, the draws of the scarcer kind."""
    cells = np.ix_(list(rows), list(keys))
    statistic_MK = scores.statistic_MK[cells]
    readable = ~np.isnan(statistic_MK)
    values = statistic_MK[readable]
    marked = scores.extremity_MK[[Matrix.MARKED], 0]
    log10_p: Floats | None = None if scores.log10_p_MK is None else scores.log10_p_MK[cells][readable]
    claims = None if log10_p is None else int((log10_p <= math.log10(fpr)).sum())
    low = high = bound = None
    if claims is not None and units and len(values):
        draws = min(units, len(values))
        low, high = clustered_rate(claims, len(values), draws)
        bound = rate_bound(math.ceil(draws * claims / len(values)), draws)
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
        bound=bound,
        auroc=auroc(marked[marked > -np.inf], scores.extremity_MK[cells][readable]),
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

"""From a row of the verification matrix to evidence: a statistic, its nulls, an exact log10 p, a decision at a declared rate."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .scores import Scores
from .statistics import Floats, best_of_log10_p, randomisation_log10_p, rate_lower_bound


@dataclass(frozen=True)
class NullResult:
    """An empirical null: `exceed` of `count` readable null scores are as extreme as the suspect's; `highest`
    is the most extreme one, None when none could be read."""

    count: int
    exceed: int
    log10_p: float
    highest: float | None


@dataclass(frozen=True)
class Evidence:
    """source: which p-value decides: binomial or another exact law, random_keys, independent_models, or none.
    detected: None when the null is too small to decide at this false-positive rate (8 null models cannot support 1 %; none at all
    decides nothing). A suspect that cannot be read is no evidence, and neither is one of a scheme without a valid null: False."""

    statistic: float | None
    unit: str
    trials: int | None
    source: str
    log10_p: float
    fpr: float
    detected: bool | None
    random_keys: NullResult | None
    independent_models: NullResult | None
    rivals: NullResult | None = None
    """Models marked by the same scheme for others, where the null holds some."""


def weigh(
    scores: Scores,
    row: int,
    key: int,
    random_columns: Sequence[int],
    null_models: Sequence[float],
    valid: Collection[str],
    fpr: float,
    deposits: int = 1,
    rivals: Sequence[float] = (),
) -> Evidence:
    """Evidence of key column `key` on suspect `row`. `null_models`: extremities of this key on independent models; `rivals`: on
    models that the same scheme marks for others. `deposits`: this is the best of so many keys, and p is that of the best (Sidak).

    The exact tail decides where the scheme has one, else random keys where they are valid, else the models: of nobody's and rivals'
    the larger p, which is valid whichever of the two the suspect is."""
    extremity_MK = scores.extremity_MK
    found = extremity_MK[row, key]
    nulls = {
        "random_keys": extremity_MK[row, list(random_columns)],
        "independent_models": np.asarray(null_models),
        "rivals": np.asarray(rivals),
    }
    results: dict[str, NullResult] = {}
    for name, null in nulls.items():
        if len(null) and ("independent_models" if name == "rivals" else name) in valid:
            results[name] = _against(null, found)
    source, log10_p = _deciding(scores, row, key, results)
    log10_p = _best(log10_p, deposits)
    detected = _decide(log10_p, fpr, results.get(source), deposits)
    if found == -np.inf:
        detected = False
    elif source == "none" and valid:
        detected = None
    return Evidence(
        statistic=_finite(scores.statistic_MK[row, key]),
        unit=scores.unit,
        trials=scores.trials,
        source=source,
        log10_p=log10_p,
        fpr=fpr,
        detected=detected,
        random_keys=results.get("random_keys"),
        independent_models=results.get("independent_models"),
        rivals=results.get("rivals"),
    )


def _against(null: Floats, found: float) -> NullResult:
    """Unreadable null models are left out: they exceed nothing, and 99 would make anything significant."""
    readable = null[null > -np.inf]
    exceed = int((readable >= found).sum())
    highest = readable.max(initial=-np.inf)
    return NullResult(len(readable), exceed, float(randomisation_log10_p(found, readable)), _finite(highest))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _deciding(scores: Scores, row: int, key: int, results: dict[str, NullResult]) -> tuple[str, float]:
    if scores.log10_p_MK is not None:
        return scores.law, float(scores.log10_p_MK[row, key])
    if "random_keys" in results:
        return "random_keys", results["random_keys"].log10_p
    if not results:
        return "none", 0.0
    name = max(results, key=lambda name: results[name].log10_p)
    return name, results[name].log10_p


def _best(log10_p: float, deposits: int) -> float:
    return float(best_of_log10_p(log10_p, deposits)) if deposits > 1 else log10_p


def _decide(log10_p: float, fpr: float, null: NullResult | None, deposits: int) -> bool | None:
    rate = math.log10(fpr)
    if log10_p <= rate:
        return True
    if null is None or _best(math.log10(1 / (null.count + 1)), deposits) <= rate:
        return False
    # Too small a null to support the rate: "not owned" only where it shows the true p to lie above the rate (95 %).
    least = rate_lower_bound(null.exceed, null.count)
    return False if least and _best(math.log10(least), deposits) > rate else None

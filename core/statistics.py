"""Exact statistics of evidence. Pure functions; p-values live in log10 space, where 1e-300 is an ordinary value.

A p-value is never anti-conservative under its null. Each function here is checked by simulation and against known
values in tests/test_statistics.py.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, gammaln, ndtri, xlog1py, xlogy

Floats = NDArray[np.float64]
LN10 = math.log(10)


def binomial_tails(trials: int, chance: float) -> tuple[Floats, Floats]:
    """log10 P[X >= k] and log10 P[X <= k] for k = 0..trials, X ~ Bin(trials, chance): exact sums in log space.

    Summed from the far end inwards, so the smallest tails keep full relative precision (scipy's betainc underflows there).
    """
    if trials < 0 or not 0 <= chance <= 1:
        raise ValueError(f"expected trials >= 0 and chance in [0, 1], got {trials} and {chance}")
    k = np.arange(trials + 1)
    log_choose = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    log_mass = log_choose + xlogy(k, chance) + xlog1py(trials - k, -chance)
    upper = np.logaddexp.accumulate(log_mass[::-1])[::-1]
    lower = np.logaddexp.accumulate(log_mass)
    upper[0] = lower[-1] = 0.0  # certain, whatever the rounding of the sums
    return np.minimum(upper, 0) / LN10, np.minimum(lower, 0) / LN10


def binomial_log10_p(hits: ArrayLike, trials: int, chance: float, two_sided: bool = False) -> Floats:
    """log10 p of `hits` (any shape) under Bin(trials, chance): P[X >= hits], or twice the smaller tail when two-sided.

    Doubling the smaller tail is valid for every chance and exact where chance = 1/2.
    """
    counts = np.asarray(hits)
    if not np.isin(counts, np.arange(trials + 1)).all():
        raise ValueError(f"hits must be whole numbers in [0, {trials}], got [{counts.min()}, {counts.max()}]")
    upper, lower = binomial_tails(trials, chance)
    index = counts.astype(np.int64)
    if not two_sided:
        return np.asarray(upper[index])
    return np.minimum(np.minimum(upper[index], lower[index]) + math.log10(2), 0)


def binomial_cut(trials: int, chance: float, alpha: float) -> int:
    """The smallest k with P[X >= k] <= alpha; trials + 1 when even k = trials is too likely."""
    upper, _ = binomial_tails(trials, chance)
    below = np.flatnonzero(upper <= math.log10(alpha))
    return int(below[0]) if below.size else trials + 1


def randomisation_log10_p(score: ArrayLike, null_scores: ArrayLike) -> Floats:
    """Exact Monte-Carlo p over exchangeable null scores: (1 + #{null >= score}) / (1 + K), in log10.

    score has shape S, null_scores S + (K,). Valid for any K (Phipson & Smyth 2010); with K = 0 it is p = 1.
    A nan on either side counts as null >= score: what cannot be compared is no evidence.
    """
    null = np.asarray(null_scores, dtype=np.float64)
    exceed = (~(null < np.asarray(score, dtype=np.float64)[..., None])).sum(-1)
    # By math, as declared rates are: numpy's logarithm differs from it in the last digit on some processors.
    count = 1 + null.shape[-1]
    ranks = np.array([math.log10((1 + more) / count) for more in range(count)])
    return np.asarray(ranks[exceed])


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided confidence interval of a proportion; (0, 1) without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    tail = (1 - confidence) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(low), float(high)


def clustered_rate(successes: int, cells: int, units: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a rate over cells (models x keys) that are dependent where they share a model or a key. Whatever the dependence,
    their mean varies no more than that of `units` independent draws, the scarcer of models and keys: so many say the same
    share, rounded away from it on either side."""
    if not 0 <= successes <= cells or not 1 <= units <= cells:
        raise ValueError(f"expected 0 <= successes <= cells >= units >= 1, got {successes}, {cells}, {units}")
    share = units * successes / cells
    low, _ = clopper_pearson(math.floor(share), units, confidence)
    _, high = clopper_pearson(math.ceil(share), units, confidence)
    return low, high


def rate_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided exact upper bound of a rate: 0 of 300 bounds a false-positive rate at 0.99 %."""
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if successes == trials:
        return 1.0
    return float(betaincinv(successes + 1, trials - successes, confidence))


def rate_lower_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a rate: 2 of 8 null models above a suspect show that its p exceeds 4.6 %."""
    return 1 - rate_bound(trials - successes, trials, confidence)


def holm(log10_p: ArrayLike) -> Floats:
    """Holm's step-down adjustment of log10 p-values (Holm 1979): family-wise error at any dependence."""
    p = np.asarray(log10_p, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] + np.log10(np.arange(len(p), 0, -1)))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 0)
    return out


def best_of_log10_p(log10_p: ArrayLike, tried: ArrayLike) -> Floats:
    """log10 p of the best of `tried` independent tests: 1 - (1 - p)^tried, exact in log space (Sidak). Both broadcast."""
    log_p, m = np.asarray(log10_p, dtype=np.float64), np.asarray(tried, dtype=np.float64)
    if not (m >= 1).all():
        raise ValueError(f"expected at least one test, got {m[~(m >= 1)][0]:g}")
    with np.errstate(divide="ignore"):  # p = 1: ln 0, and the result is 1
        exact = np.log10(-np.expm1(m * np.log1p(-(10 ** np.maximum(log_p, -300)))))
    # Below, p leaves the doubles; 1 - (1 - p)^m = m p within relative m p, below precision.
    return np.asarray(np.minimum(np.where(log_p < -300, log_p + np.log10(m), exact), 0))


def auroc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """P[positive > negative] + P[equal] / 2 over all pairs; nan without one of either, or with one that is nan."""
    one, other = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    if not len(one) or not len(other) or np.isnan([*one, *other]).any():
        return math.nan
    return float(_below(one, other).mean())


def _below(values_N: NDArray[np.float64], others_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the share of the others that each value exceeds; equal ones count half."""
    known = np.sort(others_M)
    return np.asarray(
        (np.searchsorted(known, values_N) + np.searchsorted(known, values_N, "right")) / (2 * len(known))
    )


def auroc_interval(
    positives: ArrayLike, negatives: ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    """The variance of DeLong et al. 1988 on the logit scale; where it vanishes (an area of 0 or 1, or all values tied), the exact
    bound on a rate with the smaller sample as its trials."""
    one, other = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    m, n, area = len(one), len(other), auroc(one, other)
    if min(m, n) < 2:
        return math.nan, math.nan
    placed_M, placed_N = _below(one, other), 1 - _below(other, one)
    sd = math.sqrt(placed_M.var(ddof=1) / m + placed_N.var(ddof=1) / n)
    if sd == 0:
        return clopper_pearson(round(area * min(m, n)), min(m, n), confidence)
    half = float(ndtri((1 + confidence) / 2)) * sd / (area * (1 - area))
    centre = math.log(area / (1 - area))
    return 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))

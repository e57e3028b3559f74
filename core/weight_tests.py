"""Tests between the weights of a suspect and of references, on what kernels/weight_moments.py measures.

Per layer: two-sample Kolmogorov-Smirnov, chi-square on histograms, Jarque-Bera, variance ratio. Their null is that a layer's
weights are independent draws from one continuous distribution (for Jarque-Bera, a normal one). Weights of a trained layer are
not: two honest trainings with other seeds differ as well, and p falls with the size of the layer. So these tests describe,
they do not decide. Under their null they are never anti-conservative beyond what simulation can tell, at 5 % and 1 %, for
normal, Laplace, uniform and t5 weights (tests/test_weight_tests.py).

The decision is `exchangeability`: with R reference models trained as the suspect is said to have been, the suspect's distance
from the others is ranked among theirs. It is exact whatever trained weights look like, and never below 1 / (R + 1).

Suffixes: M models, the suspect first; L layers; W bins with the two outer ones. p-values are log10, and finite where p > 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaincc, gammaln, kolmogorov, log_ndtr, stdtr

from .statistics import LN10, randomisation_log10_p

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
TINY = 1e-290
LEAST = 10  # expected values in a bin of the chi-square test: with 5, its size at 1 % was 1.3 % for n = 1000 and 3000


@dataclass(frozen=True)
class Found:
    statistic: float
    log10_p: float


NOTHING = Found(math.nan, 0.0)
"""Too few values, or values that are all equal: no evidence."""


@dataclass(frozen=True)
class Summary:
    """One row of Moments in plain numbers; m2 and m4 are sums of powers of deviations."""

    count: int
    skewness: float
    kurtosis: float
    m2: float
    m4: float


def kolmogorov_smirnov(a: NDArray[np.floating], b: NDArray[np.floating]) -> Found:
    """The largest gap between two empirical distribution functions, and its limit law: conservative for small samples and for
    ties. Values that are not finite are left out; the rest is sorted, a copy at a time."""
    a, b = (np.sort(values[np.isfinite(values)], axis=None) for values in (a, b))
    if not (len(a) and len(b)):
        return NOTHING
    gap = max(_gap(a, b), _gap(b, a))
    return Found(gap, kolmogorov_log10_sf(gap * math.sqrt(len(a) * len(b) / (len(a) + len(b)))))


def _gap(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """sup F_a - F_b, which is met at a value of a (both sorted)."""
    return float(np.max(np.arange(1, len(a) + 1) / len(a) - np.searchsorted(b, a, "right") / len(b)))


def kolmogorov_log10_sf(x: float) -> float:
    """log10 of 2 sum (-1)^(k-1) exp(-2 k^2 x^2), where all but the first term vanish long before scipy underflows."""
    p = float(kolmogorov(x))
    return math.log10(p) if p > TINY else (math.log(2) - 2 * x * x) / LN10


def chi_square(a_W: Counts, b_W: Counts) -> Found:
    """Homogeneity of two histograms over the same bins; neighbours are joined until each sample expects LEAST values in a bin.
    Bins may depend on the values of both samples together, not on which is which."""
    sizes = int(a_W.sum()), int(b_W.sum())
    if not min(sizes):
        return NOTHING
    share = np.array(sizes) / sum(sizes)
    table_2W = _joined(np.stack((a_W, b_W)), LEAST / share.min())
    if table_2W.shape[1] < 2:
        return NOTHING
    expected_2W = share[:, None] * table_2W.sum(0)
    statistic = float(((table_2W - expected_2W) ** 2 / expected_2W).sum())
    return Found(statistic, chi2_log10_sf(statistic, table_2W.shape[1] - 1))


def _joined(table_2W: Counts, least: float) -> Counts:
    """Neighbouring columns summed up to at least `least`, the last with what is left."""
    starts, total = [0], 0
    for w, count in enumerate(table_2W.sum(0)):
        total += int(count)
        if total >= least:
            starts.append(w + 1)
            total = 0
    starts = starts[:-1] if len(starts) > 1 else starts  # what follows the last full bin belongs to it
    return np.add.reduceat(table_2W, starts, axis=1)


def chi2_log10_sf(x: float, df: int) -> float:
    """log10 P[chi2(df) >= x]: beyond the doubles by the continued fraction of the incomplete gamma function."""
    a, y = df / 2, x / 2
    p = float(gammaincc(a, y))
    if p > TINY:
        return math.log10(p)
    log_p = a * math.log(y) - y - gammaln(a) + _lentz(lambda i: -i * (i - a), lambda i: y + 1 - a + 2 * i)
    return float(log_p) / LN10


def jarque_bera(w: Summary) -> Found:
    """n / 6 (skewness^2 + kurtosis^2 / 4) against normal weights.

    Its chi-square limit is far too small in the tail (8 times at p = 1e-3 for n = 100, 2 times at 1e-4 for n = 5000): one large
    value of a normal sample moves the kurtosis more than the limit knows. To it is added the chance that any one value of the n
    contributes a third of the statistic, which simulation found enough for every n."""
    if w.count < 2 or not math.isfinite(w.kurtosis):
        return NOTHING
    n, statistic = w.count, w.count / 6 * (w.skewness**2 + w.kurtosis**2 / 4)
    log_p = float(np.logaddexp(-statistic / 2, math.log(2 * n) + log_ndtr(-_value_worth(statistic / 3, n))))
    return Found(statistic, min(log_p / LN10, 0.0))


def _value_worth(statistic: float, n: int) -> float:
    """The standardised value x that adds so much, x^6 / (6 n) + x^8 / (24 n), by itself: Newton's method in x^2, from above."""
    goal = 24 * n * statistic
    square = goal**0.25
    for _ in range(60 if goal > 0 else 0):
        square -= (square**4 + 4 * square**3 - goal) / (4 * square**3 + 12 * square**2)
    return math.sqrt(square)


def variance_ratio(a: Summary, b: Summary) -> Found:
    """var(a) / var(b), its logarithm over a standard error with the pooled kurtosis (Layard 1973, Bonett 2006): the F test
    takes heavy tails for a difference. Student's t with the smaller sample's degrees of freedom: the normal limit had a size of
    6.3 % at 5 % for 20 Laplace weights."""
    n, m = a.count, b.count
    if min(n, m) < 2 or not min(a.m2, b.m2) > 0:
        return NOTHING
    kurtosis = (n + m) * (a.m4 + b.m4) / (a.m2 + b.m2) ** 2
    variance = sum((kurtosis - (size - 3) / size) / (size - 1) for size in (n, m))
    ratio = (a.m2 / (n - 1)) / (b.m2 / (m - 1))
    return Found(ratio, student_log10_p(math.log(ratio) / math.sqrt(variance), min(n, m) - 1))


def student_log10_p(t: float, df: int) -> float:
    """log10 P[|T| >= |t|]: beyond the doubles by the continued fraction of the incomplete beta function."""
    p = 2 * float(stdtr(df, -abs(t)))
    if p > TINY:
        return min(math.log10(p), 0.0)
    a, b, x = df / 2, 0.5, df / (df + t * t)

    def numerator(i: int) -> float:
        m = i // 2
        if i % 2:
            return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))

    log_p = (
        a * math.log(x) + b * math.log1p(-x) - betaln(a, b) - math.log(a) + _lentz(numerator, lambda i: 1.0)
    )
    return float(log_p) / LN10


def _lentz(numerator: Callable[[int], float], denominator: Callable[[int], float]) -> float:
    """ln of 1 / (b0 + a1 / (b1 + a2 / (b2 + ...))), by the modified Lentz method."""
    value = c = denominator(0)
    d = 0.0
    for i in range(1, 100_000):
        d = 1 / (denominator(i) + numerator(i) * d)
        c = denominator(i) + numerator(i) / c
        value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return -math.log(value)


def layer_distances(counts_MLW: Counts) -> Floats:
    """(M, L): the largest gap between the distribution function of a model's layer and that of the same layer of all others
    together, over bins that all models share. 0 for a layer without values."""
    others_MLW = counts_MLW.sum(0) - counts_MLW
    one_MLW, rest_MLW = (
        counts.cumsum(-1) / np.maximum(counts.sum(-1, keepdims=True), 1)
        for counts in (counts_MLW, others_MLW)
    )
    return np.asarray(np.abs(one_MLW - rest_MLW).max(-1))


def outlyingness(distance_ML: Floats) -> Floats:
    """(M,): the largest, over layers, of a model's distance in units of that layer's mean distance. A mark sits in few layers:
    of 6 Uchida marks among 5 clean models each this ranked all 6 first, the mean over layers 1."""
    mean_L = np.sort(distance_ML, axis=0).mean(0)  # to the last bit the same in every order of the models
    return np.asarray((distance_ML / np.where(mean_L > 0, mean_L, 1)).max(-1, initial=0))


def exchangeability(counts_MLW: Counts) -> Found:
    """The suspect (first of M) among its references: its outlyingness, and p = (1 + #{references with as much}) / M.

    Valid without any assumption about weights when suspect and references are exchangeable under the null: trained alike, in
    ignorance of each other. Every model is measured from all others, the suspect among them, so that no model is treated apart;
    the bins may depend on all models together. NOTHING below two references."""
    if len(counts_MLW) < 3:
        return NOTHING
    far_M = outlyingness(layer_distances(counts_MLW))
    return Found(float(far_M[0]), float(randomisation_log10_p(far_M[0], far_M[1:])))

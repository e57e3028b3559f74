"""The tests between weights: known answers of scipy, tails beyond the doubles, and sizes by simulation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from assay.core import weight_tests as wt
from assay.core.weight_tests import NOTHING, Summary
from assay.kernels.moments import Bins
from assay.kernels.weight_moments import weight_moments

stats: Any = scipy_stats  # its results' attributes are not in its types
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "uniform": lambda rng, shape: rng.random(shape),
    "t5": lambda rng, shape: rng.standard_t(5, size=shape),
}
SIZES = ((20, 20), (10, 30), (200, 200), (200, 1000), (1000, 3000))


def summaries(w_NV: NDArray[np.float64]) -> list[Summary]:
    """Of each row, as the kernel gives it."""
    rows = weight_moments([torch.from_numpy(w_NV.astype(np.float32))], channels=True)
    columns = rows.count_N, rows.skewness_N, rows.kurtosis_N, rows.m2_N, rows.m4_N
    return [
        Summary(int(n), s, k, m2, m4) for n, s, k, m2, m4 in zip(*(c.tolist() for c in columns), strict=True)
    ]


def summary(w: NDArray[np.float64]) -> Summary:
    return summaries(w[None])[0]


def histograms(*samples: NDArray[np.float64], bins: int = 64) -> list[NDArray[np.int64]]:
    both = np.concatenate(samples)
    reach = Bins(both.mean() - 5 * both.std(), both.mean() + 5 * both.std(), bins)
    counts = weight_moments([torch.from_numpy(s.astype(np.float32)) for s in samples], reach).histogram_NW
    assert counts is not None
    return [row.numpy() for row in counts]


# known answers


@pytest.mark.parametrize(("n", "m"), [(7, 5), (100, 100), (300, 1000)])
@pytest.mark.parametrize("shift", [0, 0.2, 1])
def test_kolmogorov_smirnov_is_scipys(n: int, m: int, shift: float) -> None:
    a, b = np.random.default_rng(n).standard_normal((2, max(n, m)))
    a, b = a[:n], b[:m] + shift
    found, expected = wt.kolmogorov_smirnov(a, b), stats.ks_2samp(a, b, method="exact")
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-12)
    effective = math.sqrt(n * m / (n + m))
    assert 10**found.log10_p == pytest.approx(stats.kstwobign.sf(found.statistic * effective), rel=1e-9)
    assert 10**found.log10_p >= 0.97 * expected.pvalue  # the limit law errs on the safe side
    assert wt.kolmogorov_smirnov(b, a) == found


def test_kolmogorov_smirnov_with_ties() -> None:
    a, b = np.random.default_rng(1).integers(0, 5, (2, 400)).astype(np.float32)
    assert wt.kolmogorov_smirnov(a, b).statistic == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert wt.kolmogorov_smirnov(a, a).statistic == 0
    assert wt.kolmogorov_smirnov(a, a).log10_p == 0


def test_kolmogorov_smirnov_leaves_out_what_is_not_finite() -> None:
    a, b = np.random.default_rng(2).standard_normal((2, 50))
    spoilt = np.concatenate((a, [np.nan, np.inf, -np.inf]))
    assert wt.kolmogorov_smirnov(spoilt, b) == wt.kolmogorov_smirnov(a, b)
    assert wt.kolmogorov_smirnov(spoilt[50:], b) == NOTHING


def test_chi_square_is_scipys() -> None:
    a, b = histograms(*np.random.default_rng(3).standard_normal((2, 4000)), bins=12)
    keep = (a + b) >= 2 * wt.LEAST
    first, last = np.flatnonzero(keep)[[0, -1]]
    joined = np.stack([np.add.reduceat(x, [0, *range(first + 1, last + 1)]) for x in (a, b)])
    expected = stats.chi2_contingency(joined, correction=False)
    found = wt.chi_square(a, b)
    assert joined.sum(0).min() >= 2 * wt.LEAST
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert found.log10_p == pytest.approx(math.log10(expected.pvalue), rel=1e-9)


def test_bins_are_joined_until_each_sample_expects_enough() -> None:
    table = np.array([[3, 0, 20, 1, 0, 30, 2, 1], [0, 9, 15, 0, 0, 25, 0, 0]])
    assert wt._joined(table, 20).tolist() == [[23, 34], [24, 25]]
    assert wt._joined(table, 60).tolist() == [[57], [49]] == wt._joined(table, 1000).tolist()
    assert wt._joined(table, 1).tolist() == [[3, 0, 20, 1, 30, 2, 1], [0, 9, 15, 0, 25, 0, 0]]


def test_jarque_bera_is_scipys_where_its_limit_holds() -> None:
    w = np.random.default_rng(4).standard_normal(1_000_000).astype(np.float32).astype(np.float64)
    found, expected = wt.jarque_bera(summary(w)), stats.jarque_bera(w)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-6)
    assert found.log10_p == pytest.approx(math.log10(expected.pvalue), rel=1e-6)
    small = w[:500]
    assert wt.jarque_bera(summary(small)).statistic == pytest.approx(
        stats.jarque_bera(small).statistic, rel=1e-6
    )
    assert wt.jarque_bera(summary(small)).log10_p >= math.log10(stats.jarque_bera(small).pvalue)


def test_the_variance_ratio_is_layards_statistic() -> None:
    """Bonett 2006, equation 3 with means for centres, in plain numbers."""
    a, b = np.array([1.0, 2, 4, 8, 16, 3]), np.array([2.0, 3, 3, 5, 9, 1, 4, 4])
    d, e = a - a.mean(), b - b.mean()
    kurtosis = 14 * ((d**4).sum() + (e**4).sum()) / ((d**2).sum() + (e**2).sum()) ** 2
    error = math.sqrt((kurtosis - 3 / 6) / 5 + (kurtosis - 5 / 8) / 7)
    ratio = a.var(ddof=1) / b.var(ddof=1)
    found = wt.variance_ratio(summary(a), summary(b))
    assert found.statistic == pytest.approx(ratio, rel=1e-12)
    assert 10**found.log10_p == pytest.approx(2 * stats.t.sf(math.log(ratio) / error, 5), rel=1e-10)
    other = wt.variance_ratio(summary(b), summary(a))
    assert other.statistic == pytest.approx(1 / ratio, rel=1e-12)
    assert other.log10_p == pytest.approx(found.log10_p, rel=1e-12)


# tails


@pytest.mark.parametrize("df", [1, 2, 63, 500, 5000])
@pytest.mark.parametrize("x", [0.5, 60, 1400, 3000, 1e5])
def test_the_chi_square_tail_beyond_the_doubles(df: int, x: float) -> None:
    with mpmath.workdps(40):
        exact = mpmath.log10(mpmath.gammainc(mpmath.mpf(df) / 2, mpmath.mpf(x) / 2, regularized=True))
    assert wt.chi2_log10_sf(x, df) == pytest.approx(float(exact), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("df", [1, 9, 199, 5000])
@pytest.mark.parametrize("t", [0.0, 1.9, 40, -90, 1e4])
def test_students_tail_beyond_the_doubles(df: int, t: float) -> None:
    with mpmath.workdps(40):
        x = mpmath.mpf(df) / (df + mpmath.mpf(t) ** 2)
        a, b = mpmath.mpf(df) / 2, mpmath.mpf("0.5")
        series = mpmath.hyp2f1(a + b, 1, a + 1, x) if t else None
        exact = mpmath.log10(x**a * (1 - x) ** b / (a * mpmath.beta(a, b)) * series) if t else mpmath.mpf(0)
    assert wt.student_log10_p(t, df) == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


def test_students_tail_of_many_degrees_of_freedom() -> None:
    df, t = 10**6, 90
    with mpmath.workdps(40):
        density = lambda x: (1 + x * x / df) ** (-mpmath.mpf(df + 1) / 2)  # noqa: E731
        scale = mpmath.sqrt(df) * mpmath.beta(mpmath.mpf("0.5"), mpmath.mpf(df) / 2)
        exact = mpmath.log10(2 * mpmath.quad(density, [t + k / mpmath.mpf(10) for k in range(12)]) / scale)
    assert wt.student_log10_p(t, df) == pytest.approx(float(exact), rel=1e-9)


def test_the_kolmogorov_tail_beyond_the_doubles() -> None:
    for x in (0.3, 1, 5, 18, 18.5, 100, 1e4):
        terms = [2 * (-1) ** (k - 1) * mpmath.exp(-2 * (k * mpmath.mpf(x)) ** 2) for k in range(1, 60)]
        assert wt.kolmogorov_log10_sf(x) == pytest.approx(float(mpmath.log10(mpmath.fsum(terms))), rel=1e-9)
    assert wt.kolmogorov_log10_sf(0) == 0


def test_huge_differences_have_finite_p() -> None:
    a, b = np.random.default_rng(5).standard_normal((2, 200_000))
    found = [wt.kolmogorov_smirnov(a, b + 9), wt.chi_square(*histograms(a, b + 9))]
    found += [wt.variance_ratio(summary(a), summary(3 * b)), wt.jarque_bera(summary(a**3))]
    for test in found:
        assert -1e6 < test.log10_p < (-300 if test is not found[-1] else -20)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 10**7))
def test_p_falls_with_the_statistic(one: float, other: float, n: int) -> None:
    low, high = sorted((one, other))
    for tail in (
        partial(wt.chi2_log10_sf, df=min(n, 5000)),
        partial(wt.student_log10_p, df=n),
        wt.kolmogorov_log10_sf,
    ):
        assert 0 >= tail(low) >= tail(high) - 1e-9 * abs(tail(high)) > -math.inf


# sizes: under the null a test says p <= alpha no oftener than alpha, beyond Monte-Carlo error


def honest(log10_p: list[float], *, levels: tuple[float, ...] = (0.05, 0.01)) -> None:
    """No level is exceeded oftener than an honest test would once in 10,000 such checks, by the exact binomial tail."""
    for alpha in levels:
        rejections = int(np.sum(np.array(log10_p) <= math.log10(alpha)))
        assert stats.binom.sf(rejections - 1, len(log10_p), alpha) > 1e-4, (alpha, rejections, len(log10_p))


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_sizes_of_the_two_sample_tests(draw: str, n: int, m: int) -> None:
    trials = 1000 if n < 1000 else 400
    rng = np.random.default_rng(n)
    a, b = DRAWS[draw](rng, (trials, n)), DRAWS[draw](rng, (trials, m))
    honest([wt.kolmogorov_smirnov(x, y).log10_p for x, y in zip(a, b, strict=True)])
    honest([wt.chi_square(*histograms(x, y)).log10_p for x, y in zip(a, b, strict=True)])
    honest([wt.variance_ratio(x, y).log10_p for x, y in zip(summaries(a), summaries(b), strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 30, 100, 300, 1000, 5000])
def test_size_of_jarque_bera(n: int) -> None:
    """Also far out, where the limit law is wrong by an order of magnitude."""
    drawn = np.random.default_rng(n).standard_normal((min(10_000, 5 * 10**6 // n), n))
    honest([wt.jarque_bera(w).log10_p for w in summaries(drawn)], levels=(0.05, 0.01, 0.001))


def test_the_tests_have_power() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(5000), rng.standard_normal(15000)
    assert wt.kolmogorov_smirnov(a + 0.15, b).log10_p < -6
    assert wt.chi_square(*histograms(a + 0.15, b)).log10_p < -3
    assert wt.variance_ratio(summary(1.1 * a), summary(b)).log10_p < -6
    assert wt.jarque_bera(summary(rng.laplace(size=5000))).log10_p < -10


# nothing to test


def test_too_little_is_no_evidence() -> None:
    none, one, two, equal = (summary(np.array(values)) for values in ([], [1.0], [1.0, 2], [3.0, 3, 3]))
    zero, some = np.zeros(4, dtype=np.int64), np.array([0, 5, 9, 0])
    for found in (
        wt.kolmogorov_smirnov(np.array([]), np.array([1.0])),
        wt.chi_square(zero, some),
        wt.chi_square(some, some),
        wt.jarque_bera(none),
        wt.jarque_bera(one),
        wt.jarque_bera(equal),
        wt.variance_ratio(two, one),
        wt.variance_ratio(two, equal),
        wt.variance_ratio(none, two),
    ):
        assert math.isnan(found.statistic)
        assert found.log10_p == 0
    assert -1 < wt.jarque_bera(two).log10_p <= 0


# exchangeability


def trained(seed: int, models: int, spread: float = 0.3) -> NDArray[np.int64]:
    """(M, L, W) counts of layers that are anything but independent: each model has its own mean and scale."""
    rng = np.random.default_rng(seed)
    scale = np.exp(spread * rng.standard_normal((models, 3, 1)))
    w = scale * rng.standard_normal((models, 3, 200)) + spread * rng.standard_normal((models, 3, 1))
    layers = [histograms(*w[:, layer]) for layer in range(3)]
    return np.stack([np.stack(layer) for layer in layers], 1)


def test_distances_are_kolmogorovs() -> None:
    counts = np.array([[[0, 4, 0, 0]], [[0, 0, 2, 2]], [[0, 2, 2, 0]]])
    assert wt.layer_distances(counts)[:, 0] == pytest.approx([1 - 2 / 8, 6 / 8 - 0, 0.5 - 0.5 + 0.25])


def test_a_model_apart_has_the_least_p_that_there_is() -> None:
    counts = trained(0, 8, spread=0.01)
    counts[0, 1] = np.roll(counts[0, 1], 12)
    found = wt.exchangeability(counts)
    assert 10**found.log10_p == pytest.approx(1 / 8)
    assert found.statistic > 3


def test_exchangeability_needs_two_references() -> None:
    assert wt.exchangeability(trained(0, 2)) == NOTHING
    assert 10 ** wt.exchangeability(trained(0, 3)).log10_p >= 1 / 3 - 1e-12


def test_ties_are_no_evidence() -> None:
    counts = np.repeat(trained(0, 1), 5, axis=0)
    assert wt.exchangeability(counts).log10_p == 0
    assert wt.exchangeability(np.zeros((4, 2, 6), dtype=np.int64)).log10_p == 0


def test_its_p_is_exact_for_dependent_weights() -> None:
    """Uniform on {1/5, ..., 1}: no test of independent weights would be."""
    p = np.array([10 ** wt.exchangeability(trained(seed, 5)).log10_p for seed in range(600)])
    ranks = np.bincount(np.round(5 * p).astype(int), minlength=6)[1:]
    assert stats.chisquare(ranks).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.permutations([1, 2, 3, 4, 5]), st.integers(0, 1000))
def test_the_order_of_references_does_not_matter(order: list[int], seed: int) -> None:
    counts = trained(seed, 6)
    assert wt.exchangeability(counts[[0, *order]]) == wt.exchangeability(counts)

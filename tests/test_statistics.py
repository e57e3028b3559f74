"""Exact means exact: integers where floats could hide an error, enumeration where simulation would blur it."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assay.core import statistics

LOG2 = math.log10(2)
repeatable = settings(deadline=None, derandomize=True)


def mass(trials: int, chance: float) -> list[Fraction]:
    """P[X = k] in rational numbers; the float `chance` is taken as the exact rational it is."""
    p = Fraction(chance)
    return [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]


def log10(value: Fraction) -> float:
    """Of rationals of any size: math.log10 takes integers of thousands of digits."""
    return math.log10(value.numerator) - math.log10(value.denominator) if value else -math.inf


# --- binomial tails


@pytest.mark.parametrize(
    ("trials", "chance"), [(1, 0.5), (7, 0.3), (20, 0.1), (100, 0.1), (129, 0.9), (256, 0.5)]
)
def test_tails_equal_rational_sums(trials: int, chance: float) -> None:
    masses = mass(trials, chance)
    upper = list(itertools.accumulate(reversed(masses)))[::-1]
    lower = list(itertools.accumulate(masses))
    found_upper, found_lower = statistics.binomial_tails(trials, chance)
    np.testing.assert_allclose(found_upper, [log10(p) for p in upper], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found_lower, [log10(p) for p in lower], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("trials", "chance"), [(10, 0.5), (100, 0.01), (300, 0.3), (1000, 0.5), (1000, 0.97)]
)
def test_tails_equal_scipy_where_scipy_has_them(trials: int, chance: float) -> None:
    k = np.arange(trials + 1)
    with np.errstate(all="ignore"):
        upper = stats.binom.logsf(k - 1, trials, chance) / math.log(10)
        lower = stats.binom.logcdf(k, trials, chance) / math.log(10)
    found_upper, found_lower = statistics.binomial_tails(trials, chance)
    for found, reference in ((found_upper, upper), (found_lower, lower)):
        there = reference > -290
        assert there.sum() > trials // 10
        np.testing.assert_allclose(found[there], reference[there], rtol=1e-9, atol=1e-10)


def test_the_far_tail_does_not_underflow() -> None:
    """All of 256 fair bits: 2^-256; all of 5,000: 2^-5000, far below the smallest double."""
    assert float(statistics.binomial_log10_p(256, 256, 0.5)) == pytest.approx(-77.0637, abs=1e-4)
    assert float(statistics.binomial_log10_p(256, 256, 0.5)) == pytest.approx(-256 * LOG2, rel=1e-13)
    assert float(statistics.binomial_log10_p(5000, 5000, 0.5)) == pytest.approx(-5000 * LOG2, rel=1e-12)
    assert float(statistics.binomial_log10_p(300, 300, 0.1)) == pytest.approx(-300, rel=1e-13)
    k = 980
    tail = Fraction(sum(math.comb(1000, i) for i in range(k, 1001)), 2**1000)
    assert float(statistics.binomial_log10_p(k, 1000, 0.5)) == pytest.approx(log10(tail), rel=1e-13)


def test_tails_at_the_edges() -> None:
    upper, lower = statistics.binomial_tails(0, 0.3)
    assert upper.tolist() == lower.tolist() == [0.0]
    upper, lower = statistics.binomial_tails(3, 0.0)
    assert (upper.tolist(), lower.tolist()) == ([0.0, -math.inf, -math.inf, -math.inf], [0.0] * 4)
    upper, lower = statistics.binomial_tails(3, 1.0)
    assert (upper.tolist(), lower.tolist()) == ([0.0] * 4, [-math.inf, -math.inf, -math.inf, 0.0])


@repeatable
@given(trials=st.integers(0, 400), chance=st.floats(0, 1))
def test_tails_are_certain_at_one_end_and_monotone(trials: int, chance: float) -> None:
    upper, lower = statistics.binomial_tails(trials, chance)
    assert upper[0] == 0
    assert lower[-1] == 0
    assert (upper <= 0).all()
    assert (lower <= 0).all()
    assert (upper[1:] <= upper[:-1]).all()
    assert (lower[1:] >= lower[:-1]).all()


@pytest.mark.parametrize(("trials", "chance"), [(-1, 0.5), (10, -0.01), (10, 1.01), (10, math.nan)])
def test_tails_refuse_what_is_no_binomial(trials: int, chance: float) -> None:
    with pytest.raises(ValueError, match="expected trials"):
        statistics.binomial_tails(trials, chance)


@pytest.mark.parametrize("hits", [-1, 11, 2.5, math.nan, math.inf, [3, -1], [3.0, math.nan]])
def test_hits_must_be_whole_and_possible(hits: float | list[float]) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        statistics.binomial_log10_p(hits, 10, 0.5)


def test_hits_of_any_shape_and_dtype() -> None:
    hits = np.array([[0, 3, 10], [10, 7, 5]])
    found = statistics.binomial_log10_p(hits, 10, 0.5)
    assert found.shape == (2, 3)
    for k, value in zip(hits.ravel(), found.ravel(), strict=True):
        assert value == pytest.approx(log10(sum(mass(10, 0.5)[k:], Fraction(0))), abs=1e-12)
    np.testing.assert_array_equal(found, statistics.binomial_log10_p(hits.astype(np.float32), 10, 0.5))
    assert statistics.binomial_log10_p(np.empty((2, 0)), 10, 0.5).shape == (2, 0)
    assert float(statistics.binomial_log10_p(0, 0, 0.5)) == 0


# --- two sides, and the size of the test


@repeatable
@given(
    trials=st.integers(0, 60),
    chance=st.integers(0, 1024).map(lambda i: i / 1024),  # rational sums of short fractions are quick
    alpha=st.floats(1e-9, 1),
    two_sided=st.booleans(),
)
def test_size_is_at_most_alpha_by_enumeration(
    trials: int, chance: float, alpha: float, two_sided: bool
) -> None:
    """The protocol's rule: never anti-conservative. 1e-11 is the rounding of log10 p at a tie with alpha."""
    log10_p = statistics.binomial_log10_p(np.arange(trials + 1), trials, chance, two_sided)
    size = sum(
        (m for m, p in zip(mass(trials, chance), log10_p, strict=True) if p <= math.log10(alpha)), Fraction(0)
    )
    assert float(size) <= alpha * (1 + 1e-11)


def test_two_sided_is_exact_at_one_half() -> None:
    """At every attainable level the size equals the level: doubling wastes nothing."""
    for trials in (1, 2, 9, 64):
        masses = mass(trials, 0.5)
        log10_p = statistics.binomial_log10_p(np.arange(trials + 1), trials, 0.5, two_sided=True)
        np.testing.assert_allclose(log10_p, log10_p[::-1], rtol=1e-13, atol=1e-13)
        for level in log10_p:
            size = sum((m for m, p in zip(masses, log10_p, strict=True) if p <= level + 1e-12), Fraction(0))
            assert log10(size) == pytest.approx(level, abs=1e-11)


def test_two_sided_is_valid_by_simulation() -> None:
    rng = np.random.default_rng(1)
    for trials, chance in ((256, 0.5), (100, 0.1), (20, 0.1)):
        hits = rng.binomial(trials, chance, 50_000)
        p = 10 ** statistics.binomial_log10_p(hits, trials, chance, two_sided=True)
        for alpha in (0.1, 0.05, 0.01):
            assert (p <= alpha).mean() <= alpha + 4 * math.sqrt(alpha / 50_000)
        assert (p <= 0.1).mean() > 0.02, "a test that never fires is valid and useless"


def test_an_inverted_message_is_as_significant_as_the_message() -> None:
    """Protocol 3: 96 % bit accuracy turned into 4 % has been inverted, not removed."""
    one_sided = statistics.binomial_log10_p([246, 10], 256, 0.5)
    two_sided = statistics.binomial_log10_p([246, 10], 256, 0.5, two_sided=True)
    assert one_sided[1] == pytest.approx(0)
    assert two_sided[0] == pytest.approx(two_sided[1], rel=1e-12)
    assert two_sided[0] == pytest.approx(one_sided[0] + LOG2, rel=1e-12)
    assert float(statistics.binomial_log10_p(128, 256, 0.5, two_sided=True)) == 0


# --- cuts


CUTS = {
    (100, 0.1): (19, 21, 28, 46),
    (100, 0.5): (63, 66, 74, 93),
    (256, 0.5): (148, 154, 167, 200),
    (20, 0.1): (7, 8, 11, 20),
}


@pytest.mark.parametrize(("trials", "chance"), CUTS)
def test_the_cuts_of_the_protocol(trials: int, chance: float) -> None:
    found = tuple(statistics.binomial_cut(trials, chance, alpha) for alpha in (1e-2, 1e-3, 1e-6, 2**-64))
    assert found == CUTS[trials, chance]
    for cut, alpha in zip(found, (1e-2, 1e-3, 1e-6, 2**-64), strict=True):
        masses = mass(trials, chance)
        assert sum(masses[cut:]) <= alpha < sum(masses[cut - 1 :])


def test_the_normal_cut_is_wrong_in_the_tail() -> None:
    """Protocol 5: mean + 1.645 sd = 14.93 for Bin(100, .1) at 5 %, of true size 7.3 %; the exact cut is 16."""
    assert statistics.binomial_cut(100, 0.1, 0.05) == 16
    assert 10 ** float(statistics.binomial_log10_p(15, 100, 0.1)) == pytest.approx(0.073, abs=5e-4)


def test_cuts_that_do_not_exist() -> None:
    assert statistics.binomial_cut(3, 0.5, 0.01) == 4  # even 3 of 3 has probability 1/8
    assert statistics.binomial_cut(10, 1.0, 0.5) == 11
    assert statistics.binomial_cut(10, 0.0, 1e-9) == 1
    assert statistics.binomial_cut(10, 0.5, 1.0) == 0
    assert statistics.binomial_cut(0, 0.5, 0.5) == 1


# --- randomisation p


def test_randomisation_p_by_hand() -> None:
    null = [1.0, 2.0, 3.0, 3.0]
    for score, exceed in ((0.0, 4), (1.0, 4), (1.5, 3), (3.0, 2), (3.5, 0)):
        assert float(statistics.randomisation_log10_p(score, null)) == pytest.approx(
            math.log10((1 + exceed) / 5)
        )


def test_randomisation_p_without_null_scores_is_one() -> None:
    assert float(statistics.randomisation_log10_p(5.0, [])) == 0
    assert statistics.randomisation_log10_p(np.zeros((2, 3)), np.empty((2, 3, 0))).tolist() == [[0.0] * 3] * 2


def test_randomisation_p_has_a_row_per_score() -> None:
    rng = np.random.default_rng(2)
    score, null = rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 19))
    found = statistics.randomisation_log10_p(score, null)
    assert found.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert found[index] == pytest.approx(
            float(statistics.randomisation_log10_p(score[index], null[index]))
        )
    shared = statistics.randomisation_log10_p(score[0], null[0, 0])
    assert shared[2] == pytest.approx(float(statistics.randomisation_log10_p(score[0, 2], null[0, 0])))


def test_nan_is_no_evidence() -> None:
    assert float(statistics.randomisation_log10_p(math.nan, [1.0] * 99)) == 0
    assert float(statistics.randomisation_log10_p(5.0, [1.0, math.nan, 2.0])) == pytest.approx(
        math.log10(2 / 4)
    )


@pytest.mark.parametrize("values", [2, 3])
def test_randomisation_size_with_ties_by_enumeration(values: int) -> None:
    """Five exchangeable scores of few values, every outcome counted: P[p <= alpha] <= alpha."""
    outcomes = np.array(list(itertools.product(range(values), repeat=5)), dtype=float)
    p = 10 ** statistics.randomisation_log10_p(outcomes[:, 0], outcomes[:, 1:])
    for alpha in (0.2, 0.4, 0.6, 0.8, 1.0):
        assert (p <= alpha + 1e-9).mean() <= alpha + 1e-9
    assert p.min() == pytest.approx(0.2)


def test_randomisation_size_by_simulation() -> None:
    """Continuous scores: p is uniform on 1/20 ... 20/20. Hits, full of ties: at most that."""
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(40_000, 20))
    p = 10 ** statistics.randomisation_log10_p(draws[:, 0], draws[:, 1:])
    counts = np.bincount(np.rint(p * 20).astype(int), minlength=21)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-4
    tied = rng.binomial(10, 0.3, size=(40_000, 20))
    p = 10 ** statistics.randomisation_log10_p(tied[:, 0], tied[:, 1:])
    for alpha in np.arange(1, 21) / 20:
        assert (p <= alpha + 1e-9).mean() <= alpha + 4 * math.sqrt(alpha / 40_000)


@pytest.mark.parametrize("count", [19, 99, 199, 299, 999, 1999])
def test_the_smallest_p_reaches_its_rate_exactly(count: int) -> None:
    """99 null models support 1 %: no rounding of log10 may come between 1/100 and 0.01."""
    for exceed in range(min(count, 50)):
        null = np.r_[np.ones(exceed), np.zeros(count - exceed)]
        rate = (1 + exceed) / (1 + count)
        assert float(statistics.randomisation_log10_p(1.0, null)) <= math.log10(rate)


# --- proportions


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.30850),
        (10, 10, 0.69150, 1.0),
        (5, 10, 0.18709, 0.81291),
        (1, 20, 0.00127, 0.24873),
        (5, 5, 0.47818, 1.0),
    ],
)
def test_clopper_pearson_known_values(successes: int, trials: int, low: float, high: float) -> None:
    assert statistics.clopper_pearson(successes, trials) == pytest.approx((low, high), abs=1e-5)


def test_clopper_pearson_edges() -> None:
    assert statistics.clopper_pearson(0, 0) == (0.0, 1.0)
    for successes, trials in ((-1, 5), (6, 5), (0, -1)):
        with pytest.raises(ValueError, match="successes"):
            statistics.clopper_pearson(successes, trials)


@pytest.mark.parametrize("trials", [1, 5, 20, 41])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_clopper_pearson_covers_by_enumeration(trials: int, confidence: float) -> None:
    intervals = [statistics.clopper_pearson(k, trials, confidence) for k in range(trials + 1)]
    k = np.arange(trials + 1)
    worst = 1.0
    for rate in np.linspace(0, 1, 203):
        covered = np.array([low <= rate <= high for low, high in intervals])
        worst = min(worst, float(stats.binom.pmf(k, trials, rate)[covered].sum()))
    assert confidence - 1e-9 <= worst < 1


@pytest.mark.parametrize(
    ("trials", "percent"), [(20, 13.9), (28, 10.1), (30, 9.5), (100, 3.0), (300, 0.99), (1000, 0.30)]
)
def test_rate_bounds_of_the_protocol(trials: int, percent: float) -> None:
    bound = statistics.rate_bound(0, trials)
    assert 100 * bound == pytest.approx(percent, abs=0.005 if percent < 1 else 0.05)
    assert (1 - bound) ** trials == pytest.approx(0.05)


@pytest.mark.parametrize(("trials", "percent"), [(5, 55), (10, 74), (20, 86)])
def test_perfect_detection_bounds_the_rate_from_below(trials: int, percent: float) -> None:
    """Protocol 6: 5 of 5 detected bounds the TPR below by 55 %; one minus the bound on misses."""
    assert round(100 * (1 - statistics.rate_bound(0, trials))) == percent


def test_rate_bound_covers_by_enumeration() -> None:
    trials, k = 30, np.arange(31)
    bounds = np.array([statistics.rate_bound(int(s), trials) for s in k])
    assert (np.diff(bounds) > 0).all()
    assert bounds[-1] == 1
    for rate in np.linspace(0, 1, 101):
        assert stats.binom.pmf(k, trials, rate)[bounds >= rate].sum() >= 0.95 - 1e-9
    assert statistics.rate_bound(0, 0) == 1
    for successes in (-1, 31):
        with pytest.raises(ValueError, match="successes"):
            statistics.rate_bound(successes, trials)


# --- many tests


def test_holm_by_hand() -> None:
    """p = .01, .04, .03, .005: sorted times 4, 3, 2, 1, then never decreasing."""
    adjusted = 10 ** statistics.holm(np.log10([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(10 ** statistics.holm(np.log10([0.6, 0.5, 0.9])), [1, 1, 1])
    assert statistics.holm([]).shape == (0,)
    assert statistics.holm([-300.0, -1.0]).tolist() == pytest.approx([-300 + LOG2, -1])


@repeatable
@given(st.lists(st.floats(-400, 0), min_size=1, max_size=20))
def test_holm_equals_its_definition(log10_p: list[float]) -> None:
    """The i-th smallest of m, times m - i + 1, and at least every smaller one's."""
    adjusted = statistics.holm(log10_p)
    for i, p in enumerate(log10_p):
        smaller = sorted(log10_p)[: sorted(log10_p).index(p) + 1]
        by_definition = min(0.0, max(q + math.log10(len(log10_p) - j) for j, q in enumerate(smaller)))
        assert adjusted[i] >= by_definition - 1e-9  # ties share the largest of theirs, up to rounding
        assert adjusted[i] >= p
    assert max(adjusted) <= 0
    assert min(adjusted) == pytest.approx(min(0.0, min(log10_p) + math.log10(len(log10_p))))


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_holm_family_wise_error_by_simulation(correlation: float) -> None:
    """Seven true nulls and three false ones: some true null is rejected at most 5 % of the time."""
    rng = np.random.default_rng(4)
    z = math.sqrt(correlation) * rng.normal(size=(8000, 1)) + math.sqrt(1 - correlation) * rng.normal(
        size=(8000, 10)
    )
    z[:, 7:] += 4
    log10_p = stats.norm.logsf(z) / math.log(10)
    rejected = np.array([statistics.holm(row) <= math.log10(0.05) for row in log10_p])
    false, true = rejected[:, :7].any(1).mean(), rejected[:, 7:].mean()
    assert false <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 8000)
    assert false > 0.005
    assert true > 0.8
    assert (log10_p[:, :7] <= math.log10(0.05)).any(1).mean() > 0.1, (
        "without the adjustment the error is far larger"
    )


@repeatable
@given(log10_p=st.floats(-40, 0), tried=st.integers(1, 300))
def test_best_of_equals_rational_arithmetic(log10_p: float, tried: int) -> None:
    p = min(Fraction(10**log10_p), Fraction(1))
    assert statistics.best_of_log10_p(log10_p, tried) == pytest.approx(
        log10(1 - (1 - p) ** tried), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("tried", [1, 7, 10**4, 10**9, 10**16])
@pytest.mark.parametrize("switch", [-15.0, -300.0])
def test_best_of_is_continuous(switch: float, tried: int) -> None:
    """Just below and above: no step in the value, and it rises."""
    step = 1e-9
    below = statistics.best_of_log10_p(switch - step, tried)
    above = statistics.best_of_log10_p(switch + step, tried)
    assert 0 <= above - below <= 3 * step


def test_best_of_many_is_not_the_bonferroni_bound() -> None:
    """10^9 tries at 1e-8.5: m p would be above one; the exact value is 1 - exp(-sqrt(10)) within 1e-9."""
    assert statistics.best_of_log10_p(-8.5, 10**9) == pytest.approx(
        math.log10(-math.expm1(-math.sqrt(10))), rel=1e-7
    )
    assert statistics.best_of_log10_p(-20, 10**20) == pytest.approx(math.log10(-math.expm1(-1)), rel=1e-9)
    assert statistics.best_of_log10_p(-310, 10**4) == pytest.approx(-306)


def test_best_of_edges() -> None:
    for tried in (1, 1000):
        assert statistics.best_of_log10_p(0.0, tried) == 0
        assert statistics.best_of_log10_p(-1e-17, tried) == 0
        assert statistics.best_of_log10_p(-math.inf, tried) == -math.inf
    assert statistics.best_of_log10_p(-2.0, 1) == pytest.approx(-2.0, rel=1e-12)
    with pytest.raises(ValueError, match="at least one"):
        statistics.best_of_log10_p(-2.0, 0)


# --- lower bounds


def test_lower_bounds_of_rates() -> None:
    assert statistics.rate_lower_bound(0, 8) == 0
    assert statistics.rate_lower_bound(1, 8) == pytest.approx(1 - 0.95 ** (1 / 8))
    assert statistics.rate_lower_bound(2, 8) == pytest.approx(0.04639, abs=1e-5)
    assert statistics.rate_lower_bound(8, 8) == pytest.approx(0.05 ** (1 / 8))

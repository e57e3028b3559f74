"""Tails of text marks against rational arithmetic, against scipy where it reaches, and against their own null."""

import itertools
import math
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from assay.core import statistics, text_tails
from assay.core.text_tails import (
    counts_log10_p,
    gamma_log10_p,
    hypergeometric_log10_p,
    max_of_binomials_log10_p,
    weighted_bits_log10_p,
)

Floats = NDArray[np.float64]
repeatable = settings(deadline=None, derandomize=True, max_examples=40)
LINEAR = np.linspace(10, 1, 30)  # a tournament's weights, first layer to last


def log10(value: Fraction) -> float:
    """Of rationals of any size, also those next to 1."""
    if 1 / 2 < value < 2:
        return math.log1p(-float(1 - value)) / math.log(10)
    return math.log10(value.numerator) - math.log10(value.denominator) if value else -math.inf


def tails(masses: list[Fraction]) -> list[Fraction]:
    return list(itertools.accumulate(reversed(masses)))[::-1]


def binomial(n: int, chance: float) -> list[Fraction]:
    p = Fraction(chance)
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def at_most(p: Floats, alpha: float) -> None:
    """P[p <= alpha] <= alpha, as far as a simulation of this size can tell (4 standard errors)."""
    assert (p <= alpha).mean() <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / p.size)


# --- counts


@pytest.mark.parametrize("chance", [0.25, 0.5, 0.01, 0.97, 2**-20])
@pytest.mark.parametrize("n", [1, 7, 31, 129, 400])
def test_counts_equal_rational_sums(n: int, chance: float) -> None:
    exact, k = tails(binomial(n, chance)), np.arange(n + 1)
    precision = 1e-15 * n * math.log(n + 2) + 1e-15
    found = counts_log10_p(k, n, chance)
    np.testing.assert_allclose(found, [log10(p) for p in exact], rtol=1e-13, atol=precision)


@pytest.mark.parametrize("k", [0, 1, 4000, 5000, 5001, 5500, 9000, 20_000])
def test_counts_of_a_long_text(k: int) -> None:
    n = 20_000
    numerator, term = 0, math.comb(n, k) * 3 ** (n - k)
    for i in range(k, n + 1):
        numerator += term
        term = term * (n - i) // ((i + 1) * 3)
        if term < numerator >> 120:
            break
    found = float(counts_log10_p(k, n, 0.25))
    assert found == pytest.approx(log10(Fraction(numerator, 4**n)), rel=1e-10, abs=1e-14)


def test_counts_equal_the_tails_of_one_length_each() -> None:
    n, k = (x.ravel() for x in np.meshgrid([0, 1, 50, 200, 333], [0, 1, 20, 50], indexing="ij"))
    n, k = n[k <= n], k[k <= n]
    one_by_one = [statistics.binomial_tails(int(a), 0.25)[0][b] for a, b in zip(n, k, strict=True)]
    np.testing.assert_allclose(counts_log10_p(k, n, 0.25), one_by_one, rtol=1e-11, atol=1e-12)


def test_far_out_nothing_underflows() -> None:
    assert float(counts_log10_p(10**4, 10**4, 0.25)) == pytest.approx(10**4 * math.log10(0.25), rel=1e-13)
    divergence = 0.6 * math.log10(1.2) + 0.4 * math.log10(0.8)
    assert float(counts_log10_p(6 * 10**8, 10**9, 0.5)) == pytest.approx(-(10**9) * divergence, rel=1e-6)
    assert float(gamma_log10_p(1e5, 100)) == pytest.approx(
        -1e5 / math.log(10) + 99 * 5 - log10(Fraction(math.factorial(99))), abs=1e-3
    )
    assert float(hypergeometric_log10_p(5000, 128_000, 32_000, 5000)) == pytest.approx(
        sum(math.log10((32_000 - i) / (128_000 - i)) for i in range(5000)), rel=1e-12
    )


def test_z_above_four_is_not_three_in_a_hundred_thousand() -> None:
    """Chance 1/4: the real p of the smallest count with z > 4, at 20 and at 200 positions."""
    for n, real in ((20, 1.8e-4), (200, 6.2e-5)):
        k = math.floor(n / 4 + 4 * math.sqrt(n * 3 / 16)) + 1
        p = 10 ** float(counts_log10_p(k, n, 0.25))
        assert p == pytest.approx(real, rel=0.03)
        assert p > 1.9 * stats.norm.sf(4)


def test_a_mean_of_bits_above_52_percent_is_one_in_ten() -> None:
    """30 positions and 30 layers: a threshold on the mean is no test."""
    assert 10 ** float(counts_log10_p(469, 900, 0.5)) == pytest.approx(0.105, abs=0.006)


def test_counts_at_the_edges() -> None:
    assert counts_log10_p([0, 0, 3], [0, 5, 3], 1.0).tolist() == [0, 0, 0]
    assert counts_log10_p([0, 1], [5, 5], 0.0).tolist() == [0, -math.inf]
    assert counts_log10_p([], [], 0.5).shape == (0,)
    assert counts_log10_p(3, 5, 0.5).shape == ()
    assert counts_log10_p([[3], [4]], [5, 6, 7], 0.5).shape == (2, 3)


@repeatable
@given(n=st.integers(1, 10**6), chance=st.floats(0.001, 0.999), seed=st.integers(0, 2**31))
def test_counts_fall_with_hits_and_rise_with_trials(n: int, chance: float, seed: int) -> None:
    k = np.sort(np.random.default_rng(seed).integers(0, n + 1, 20))
    found = counts_log10_p(k, n, chance)
    assert (found <= 0).all()
    assert (np.diff(found) <= 1e-12).all()
    assert (counts_log10_p(k, n + 1, chance) >= found - 1e-7).all()


# --- Gumbel sums


@pytest.mark.parametrize("n", [1, 2, 7, 31, 129, 300])
def test_gamma_equals_rational_sums(n: int) -> None:
    for s in (
        Fraction(1, 64),
        Fraction(n, 2),
        Fraction(n),
        Fraction(n) + Fraction(1, 8),
        Fraction(3 * n),
        Fraction(5000),
    ):
        terms = (s**j / math.factorial(j) for j in range(n))
        expected = log10(sum(terms, Fraction(0))) - float(s) / math.log(10)
        found = float(gamma_log10_p(float(s), n))
        assert found == pytest.approx(expected, rel=1e-12, abs=2e-13)


def test_gamma_equals_scipy_where_scipy_has_it() -> None:
    s, n = (x.ravel() for x in np.meshgrid(np.geomspace(0.01, 3000, 60), [1, 5, 50, 200, 1000]))
    with np.errstate(all="ignore"):
        reference = stats.gamma.logsf(s, n) / math.log(10)
    there = reference > -290
    assert there.sum() > 200
    np.testing.assert_allclose(gamma_log10_p(s, n)[there], reference[there], rtol=1e-10, atol=1e-12)


def test_gamma_at_the_edges() -> None:
    assert gamma_log10_p([0, -3, 0], [0, 7, 7]).tolist() == [0, 0, 0]
    assert gamma_log10_p([], []).shape == (0,)
    found = gamma_log10_p([1e-300, 1e-3], [5, 5])
    assert (found <= 0).all()
    assert found[0] == 0


def test_a_standard_deviation_of_pi_over_root_six_is_not_an_exponentials() -> None:
    """A z with Gumbel's spread for an Exp(1) score: at z = 4 the nominal 3.2e-5 is wrong by a factor above 15."""
    real = 10 ** float(gamma_log10_p(200 + 4 * math.pi / math.sqrt(6) * math.sqrt(200), 200))
    assert real < stats.norm.sf(4) / 15


# --- different words


@pytest.mark.parametrize(
    ("total", "green", "n"),
    [(1, 1, 1), (10, 4, 7), (31, 20, 15), (129, 32, 60), (1000, 250, 129), (50, 0, 9), (20, 5, 20)],
)
def test_hypergeometric_equals_rational_sums(total: int, green: int, n: int) -> None:
    k = np.arange(min(green, n) + 1)
    masses = [
        Fraction(math.comb(green, i) * math.comb(total - green, n - i), math.comb(total, n))
        for i in k.tolist()
    ]
    exact = tails(masses)
    found = hypergeometric_log10_p(k, total, green, n)
    np.testing.assert_allclose(found, [log10(p) for p in exact], rtol=1e-11, atol=1e-12)


def test_hypergeometric_equals_scipy_for_vocabularies() -> None:
    n = np.array([60, 150, 150, 900, 5000])
    k = np.array([30, 20, 60, 300, 1400])
    reference = stats.hypergeom.logsf(k - 1, 128_256, 64_128 // 2, n) / math.log(10)
    np.testing.assert_allclose(hypergeometric_log10_p(k, 128_256, 32_064, n), reference, rtol=1e-8)


# --- weighted layers


def exact_weighted(weights: list[int], n: int) -> dict[int, Fraction]:
    """Statistic -> P[sum of w x Bin(n, 1/2) >= statistic], by counting."""
    law = {0: 1}
    for w in weights * n:
        grown: dict[int, int] = {}
        for value, ways in law.items():
            for step in (0, w):
                grown[value + step] = grown.get(value + step, 0) + ways
        law = grown
    values = sorted(law)
    total = 2 ** (len(weights) * n)
    return dict(zip(values, tails([Fraction(law[v], total) for v in values]), strict=True))


@pytest.mark.parametrize("weights", [[1], [1, 1], [3, 1], [10, 7, 4, 1], [5, -2], [100, 1, 1], [1, 0, 2]])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_the_bound_is_never_below_the_exact_tail(weights: list[int], n: int) -> None:
    exact = exact_weighted(weights, n)
    found = weighted_bits_log10_p(list(exact), n, weights)
    for value, bound in zip(exact, found, strict=True):
        assert bound >= log10(exact[value]) - 1e-12, value
    # At the far end Chernoff's bound is the mass of the one outcome.
    one = -n * sum(w != 0 for w in weights) * math.log10(2)
    assert found[-1] == pytest.approx(one, abs=1e-6)


def test_the_bound_costs_half_a_decade() -> None:
    """The tournament's 30 weights at 40 positions, on the lattice of 29 w: exact by convolution of probabilities above 1e-14."""
    lattice = np.round(LINEAR * 29).astype(int)
    assert np.array_equal(lattice, 290 - 9 * np.arange(30))
    law = np.ones(1)
    for w in lattice:
        layer = np.zeros(40 * w + 1)
        layer[::w] = [float(m) for m in binomial(40, 0.5)]
        law = np.fft.irfft(
            np.fft.rfft(law, len(law) + len(layer) - 1) * np.fft.rfft(layer, len(law) + len(layer) - 1),
            len(law) + len(layer) - 1,
        )
    upper = law[::-1].cumsum()[::-1]
    for alpha in (0.05, 1e-3, 1e-5, 1e-8):
        s = int(np.argmax(upper <= alpha))
        bound = 10 ** float(weighted_bits_log10_p(s / 29, 40, LINEAR))
        assert 1 <= bound / upper[s] <= (3.3 if alpha > 1e-8 else 3.6), alpha


def test_equal_weights_compare_with_the_exact_count() -> None:
    n, k = 40, np.arange(0, 401, 5)
    exact, bound = counts_log10_p(k, n * 10, 0.5), weighted_bits_log10_p(k, n, np.ones(10))
    assert (bound >= exact - 1e-9).all()
    assert (bound - exact)[exact > -6].max() < 0.6
    assert (bound - exact).max() < 2


def test_weighted_at_the_edges() -> None:
    assert weighted_bits_log10_p([0, 100], [0, 1000], LINEAR).tolist() == [0, 0]
    assert weighted_bits_log10_p(0, 5, []).tolist() == 0
    assert weighted_bits_log10_p([], [], LINEAR).shape == (0,)
    all_of = weighted_bits_log10_p(1000 * LINEAR.sum(), 1000, LINEAR)
    assert float(all_of) == pytest.approx(-30_000 * math.log10(2), rel=1e-9)


def test_chunks_never_change_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(1, 300, 500)
    s = rng.binomial(n[:, None], 0.6, (500, 30)) @ LINEAR
    whole = weighted_bits_log10_p(s, n, LINEAR)
    for chunk in (1, 7, 499):
        monkeypatch.setattr(text_tails, "CHUNK", chunk)
        np.testing.assert_allclose(weighted_bits_log10_p(s, n, LINEAR), whole, rtol=1e-9)


# --- the best symbol of every position


def exact_maximum(n: int, chance: Fraction, symbols: int, disjoint: bool) -> list[Fraction]:
    """P[largest count = k], by every outcome of the counts."""
    law = [Fraction(0)] * (n + 1)
    for counts in itertools.product(range(n + 1), repeat=symbols):
        if disjoint:
            rest = n - sum(counts)
            if rest < 0:
                continue
            ways = math.factorial(n) // math.prod(map(math.factorial, (*counts, rest)))
            p = ways * chance ** sum(counts) * (1 - symbols * chance) ** rest
        else:
            p = math.prod(
                (math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in counts), start=Fraction(1)
            )
        law[max(counts)] += p
    return law


@pytest.mark.parametrize("disjoint", [True, False])
@pytest.mark.parametrize(("symbols", "chance"), [(1, 0.25), (2, 0.5), (2, 0.25), (4, 0.25), (3, 0.125)])
def test_maxima_equal_every_outcome(symbols: int, chance: float, disjoint: bool) -> None:
    law = [Fraction(1)]
    trials = [3, 0, 5, 1, 4]
    for n in trials:
        one = exact_maximum(n, Fraction(chance), symbols, disjoint)
        grown = [Fraction(0)] * (len(law) + n)
        for (i, a), (j, b) in itertools.product(enumerate(law), enumerate(one)):
            grown[i + j] += a * b
        law = grown
    found = max_of_binomials_log10_p(np.arange(14), trials, chance, symbols, disjoint=disjoint)
    np.testing.assert_allclose(found, [log10(p) for p in tails(law)], rtol=1e-11, atol=1e-12)


def test_one_symbol_is_a_count() -> None:
    for disjoint in (True, False):
        found = max_of_binomials_log10_p(np.arange(61), [20, 10, 30], 0.25, 1, disjoint=disjoint)
        np.testing.assert_allclose(found, counts_log10_p(np.arange(61), 60, 0.25), rtol=1e-10, atol=1e-11)


def test_a_certain_symbol_has_every_trial() -> None:
    for symbols in (1, 3):
        found = max_of_binomials_log10_p(np.arange(9), [5, 0, 3], 1, symbols, disjoint=False)
        assert found.tolist() == [0.0] * 9


def test_two_halves_are_a_folded_count() -> None:
    """With two symbols that share out the vocabulary the maximum is k or n - k: both tails."""
    for n in (7, 128, 1001):
        k = np.arange(n // 2 + 1, n + 1)
        expected = np.minimum(counts_log10_p(k, n, 0.5) + math.log10(2), 0)
        found = max_of_binomials_log10_p(k, [n], 0.5, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_disjoint_counts_have_the_larger_maximum() -> None:
    """So that a null of independent counts would be too lenient."""
    for trials in ([12] * 8, [100] * 4, [7, 30, 55]):
        s = np.arange(sum(trials) + 1)
        disjoint, independent = (
            max_of_binomials_log10_p(s, trials, 0.25, 4, disjoint=d) for d in (True, False)
        )
        assert (disjoint >= independent - 1e-12).all()
        assert (disjoint - independent).max() > 0.01


def test_the_law_of_long_positions_is_conservative(monkeypatch: pytest.MonkeyPatch) -> None:
    s = np.arange(241)
    exact = max_of_binomials_log10_p(s, [60] * 4, 0.25, 4)
    text_tails._maximum_mass.cache_clear()
    monkeypatch.setattr(text_tails, "EXACT_MAXIMUM", 0)
    bound = max_of_binomials_log10_p(s, [60] * 4, 0.25, 4)
    text_tails._maximum_mass.cache_clear()
    assert (bound >= exact - 1e-12).all()
    assert 0.05 < (bound - exact).max() < 0.2
    assert bound[-1] == pytest.approx(exact[-1], rel=1e-12)


def test_far_out_maxima_do_not_underflow() -> None:
    found = max_of_binomials_log10_p(8 * 500, [500] * 8, 0.25, 4)
    assert float(found) == pytest.approx(8 * (499 * math.log10(0.25)), rel=1e-12)
    found = max_of_binomials_log10_p(3000, [3000], 2**-10, 16)
    assert float(found) == pytest.approx(4 * math.log10(2) - 30_000 * math.log10(2), rel=1e-12)


def test_a_z_of_position_maxima_is_no_test() -> None:
    """16 positions of 4 symbols, 200 tokens of plain text: z against the mean of one count has a mean above 3.5."""
    rng = np.random.default_rng(1)
    trials = np.array([13] * 8 + [12] * 8)
    s = np.sum([rng.multinomial(n, [0.25] * 4, 20_000).max(-1) for n in trials], axis=0)
    z = (s - 50) / math.sqrt(200 * 3 / 16)
    assert z.mean() > 3.5
    assert (z > 4).mean() > 0.19
    log10_p = max_of_binomials_log10_p(s, trials, 0.25, 4)
    for alpha in (0.5, 0.05, 0.01):
        at_most(10**log10_p, alpha)
    assert (10**log10_p <= 0.5).mean() > 0.3


# --- valid under the null, whatever the lengths; broken input; speed

Null = Callable[[np.random.Generator, NDArray[np.int64]], Floats]


def _unigram(rng: np.random.Generator, n: NDArray[np.int64]) -> Floats:
    return hypergeometric_log10_p(rng.hypergeometric(500, 1500, n), 2000, 500, n)


NULLS: dict[str, Null] = {
    "counts": lambda rng, n: counts_log10_p(rng.binomial(n, 0.25), n, 0.25),
    "gamma": lambda rng, n: gamma_log10_p(rng.gamma(n), n),
    "hypergeometric": _unigram,
    "weighted": lambda rng, n: weighted_bits_log10_p(
        rng.binomial(n[:, None], 0.5, (len(n), 30)) @ LINEAR, n, LINEAR
    ),
    "bits": lambda rng, n: counts_log10_p(rng.binomial(30 * n, 0.5), 30 * n, 0.5),
    "best": lambda rng, n: statistics.best_of_log10_p(
        gamma_log10_p(rng.gamma(n[:, None], size=(len(n), 20)), n[:, None]).min(-1), 20
    ),
}


@pytest.mark.parametrize("name", list(NULLS))
def test_p_is_valid_under_its_null(name: str) -> None:
    rng = np.random.default_rng(7)
    p = 10 ** NULLS[name](rng, rng.integers(1, 250, 40_000))
    for alpha in (0.5, 0.1, 0.05, 0.01, 1e-3):
        at_most(p, alpha)
    assert (p <= 0.1).mean() > 0.02, "a test that never rejects is valid too"
    if name in ("gamma", "best"):
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_the_best_of_many_broadcasts() -> None:
    log10_p, tried = np.array([[-400.0], [-8.5], [-2.0], [0.0]]), np.array([1, 64, 10**9])
    found = statistics.best_of_log10_p(log10_p, tried)
    assert found.shape == (4, 3)
    for i, m in itertools.product(range(4), range(3)):
        assert found[i, m] == pytest.approx(
            float(statistics.best_of_log10_p(log10_p[i, 0], tried[m])), rel=1e-12
        )
    assert found[0, 1] == pytest.approx(-400 + math.log10(64))
    with pytest.raises(ValueError, match="at least one test, got 0"):
        statistics.best_of_log10_p([-1, -1], [3, 0])


@repeatable
@given(seed=st.integers(0, 2**31))
def test_permuted_texts_permute_the_result(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, order = rng.integers(1, 400, 30), rng.permutation(30)
    k, s, w = rng.binomial(n, 0.3), rng.gamma(n), rng.binomial(n[:, None], 0.5, (30, 30)) @ LINEAR
    assert np.array_equal(counts_log10_p(k, n, 0.25)[order], counts_log10_p(k[order], n[order], 0.25))
    assert np.array_equal(gamma_log10_p(s, n)[order], gamma_log10_p(s[order], n[order]))
    found, moved = (
        hypergeometric_log10_p(k, 999, 300, n),
        hypergeometric_log10_p(k[order], 999, 300, n[order]),
    )
    assert np.array_equal(found[order], moved)
    found, moved = weighted_bits_log10_p(w, n, LINEAR), weighted_bits_log10_p(w[order], n[order], LINEAR)
    np.testing.assert_allclose(found[order], moved, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: counts_log10_p([1, 2.5], 5, 0.5), "hits must be whole numbers .* got 2.5"),
        (lambda: counts_log10_p([1, -1], 5, 0.5), "hits must be whole"),
        (lambda: counts_log10_p(math.nan, 5, 0.5), "hits must be whole"),
        (lambda: counts_log10_p(3, math.inf, 0.5), "trials must be whole"),
        (lambda: counts_log10_p([3, 6], 5, 0.5), "hits must not exceed trials, got 6 and 5"),
        (lambda: counts_log10_p(3, 5, 1.5), "chance must lie"),
        (lambda: counts_log10_p(3, 5, math.nan), "chance must lie"),
        (lambda: gamma_log10_p(math.nan, 5), "statistic must be finite"),
        (lambda: gamma_log10_p(math.inf, 5), "statistic must be finite"),
        (lambda: gamma_log10_p(1.0, 0), "statistic must be 0 where"),
        (lambda: gamma_log10_p(1.0, 2.5), "trials must be whole"),
        (lambda: hypergeometric_log10_p(3, 10, 11, 5), "must not exceed population"),
        (lambda: hypergeometric_log10_p(3, 10, 2, 5), "hits must not exceed marked"),
        (lambda: weighted_bits_log10_p(500, 2, LINEAR), "reach"),
        (lambda: weighted_bits_log10_p(math.nan, 2, LINEAR), "reach"),
        (lambda: weighted_bits_log10_p(3, 2, [[1.0]]), "one finite number a layer"),
        (lambda: weighted_bits_log10_p(3, 2, [math.inf]), "one finite number a layer"),
        (lambda: max_of_binomials_log10_p(3, [2, 2], 0.5, 3), "symbols x chance <= 1"),
        (lambda: max_of_binomials_log10_p(3, [2, 2], 0.5, 0), "symbols >= 1"),
        (lambda: max_of_binomials_log10_p(5, [2, 2], 0.5, 2), "must not exceed all trials, got 5 and 4"),
        (lambda: max_of_binomials_log10_p(1.5, [2, 2], 0.5, 2), "statistic must be whole"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_hundred_thousand_texts_take_seconds_at_most() -> None:
    """2 x 10^7 tokens; each takes .1 to 1 s on one core, so only a loop over texts could fail here."""
    rng = np.random.default_rng(3)
    n = rng.integers(150, 251, 100_000)
    k, s, w = rng.binomial(n, 0.25), rng.gamma(n), rng.binomial(n, 0.5) * LINEAR.sum()
    for call in (
        lambda: counts_log10_p(k, n, 0.25),
        lambda: gamma_log10_p(s, n),
        lambda: hypergeometric_log10_p(k, 128_000, 32_000, n),
        lambda: weighted_bits_log10_p(w, n, LINEAR),
    ):
        start = time.process_time()
        call()
        assert time.process_time() - start < 10

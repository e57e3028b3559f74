"""The exact tail of weighted fair bits, against counting, the bound, equal weights and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from assay.core.text_tails import counts_log10_p, weighted_bits_log10_p
from assay.core.weighted_bits import MOST, whole_weights_log10_p

LAYERS = [310 - 9 * layer for layer in range(32)]


@pytest.mark.parametrize("weights", [[1], [3, 1], [10, 7, 4, 1], [100, 1, 1], [28, 19, 10]])
@pytest.mark.parametrize("trials", [1, 2, 12, 60])
def test_every_tail_is_that_of_the_convolution(weights: list[int], trials: int) -> None:
    law = np.ones(1)
    for w in weights:
        layer = np.zeros(trials * w + 1)
        layer[::w] = stats.binom(trials, 0.5).pmf(np.arange(trials + 1))
        law = np.convolve(law, layer)
    exact = np.log10(law[::-1].cumsum()[::-1])
    found = whole_weights_log10_p(np.arange(len(law)), trials, weights)
    np.testing.assert_allclose(found, exact, atol=1e-7)
    assert (found >= exact - 1e-12).all()


def test_equal_weights_are_the_count_however_far_out() -> None:
    hits = np.array([0, 20_000, 32_000, 32_500, 36_000, 50_000, 63_999, 64_000])
    found = whole_weights_log10_p(hits, 2000, [1] * 32)
    np.testing.assert_allclose(found, counts_log10_p(hits, 64_000, 0.5), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("trials", [30, 200])
def test_p_is_uniform_over_texts_and_below_the_bound(trials: int) -> None:
    sums = np.random.default_rng(2).binomial(trials, 0.5, (4000, 32)) @ np.array(LAYERS)
    found = whole_weights_log10_p(sums, trials, LAYERS)
    assert stats.kstest(10**found, "uniform").pvalue > 1e-4
    for rate in (0.5, 0.05, 0.01):
        assert (found <= math.log10(rate)).sum() <= stats.binom.ppf(1 - 1e-5, 4000, rate)
    bound = weighted_bits_log10_p(sums, trials, np.array(LAYERS))
    assert (found <= bound + 1e-9).all()


def test_at_the_edges() -> None:
    total = 5 * sum(LAYERS)
    found = whole_weights_log10_p([[0], [total]], [[5]], LAYERS)
    np.testing.assert_allclose(found, [[0.0], [-160 * math.log10(2)]])
    assert whole_weights_log10_p(0, 0, LAYERS) == 0
    far = (MOST + 1) * sum(LAYERS) * 11 // 20
    exact, bound = (float(whole_weights_log10_p(far, n, LAYERS)) for n in (MOST, MOST + 1))
    assert exact < -1000
    assert bound < -1000
    for bad in ((0.5, 2, [1]), (3, 2, [1]), (1, 2, [0.5]), (1, 2, [0])):
        with pytest.raises(ValueError, match="expected sums"):
            whole_weights_log10_p(*bad)

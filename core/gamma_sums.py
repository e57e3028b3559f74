"""The tail of a weighted sum of two independent gammas, which a mark drawn by either of two keys is judged by. Exact, in log space.

S = (1 - a) G + a H, G and H both Gamma(T, 1). With the smaller weight as unit, the larger gamma is a mixture of Gamma(T + n, 1)
over negative binomial n (Moschopoulos, Ann. Inst. Statist. Math. 37, 1985): a series of positive terms.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

from .statistics import Floats
from .text_tails import LN10, gamma_log10_p

LEAST = 0.005  # of the smaller weight: the series has about T / weight terms
ROOM = 37.0  # nats below the sum at which the rest, which is added to it, no longer shows


def two_gammas_log10_p(statistic: ArrayLike, trials: ArrayLike, weight: float) -> Floats:
    """log10 P[(1 - weight) G + weight H >= statistic], trials T of each. A gamma of the same mean and variance has too thin a tail:
    at T = 200 and weight 0.1 a sum of 600 has p = 1e-93, which it calls 4e-98. ValueError unless the weight is 0, 1, or 0.005 away
    from them."""
    s, n = np.broadcast_arrays(np.asarray(statistic, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    small = min(weight, 1 - weight)
    if not 0 <= weight <= 1 or 0 < small < LEAST:
        raise ValueError(f"weight: expected 0, 1 or {LEAST} to {1 - LEAST}, got {weight}")
    if small in (0.0, 0.5):
        return gamma_log10_p(s / (1 - small), n if small == 0 else 2 * n)
    first = gamma_log10_p(s / small, 2 * n) * LN10
    cells = zip(s.ravel() / small, n.ravel(), first.ravel(), strict=True)
    flat = [_tail(x, int(t), small, q) if t and x > 0 else 0.0 for x, t, q in cells]
    return np.asarray(flat, dtype=np.float64).reshape(s.shape)


def _tail(x: float, trials: int, small: float, first: float) -> float:
    """log10 p of a sum of x smaller weights; first: ln P[Gamma(2 T, 1) >= x]."""
    share = small / (1 - small)  # success chance of the negative binomial
    count = math.ceil(max(x, trials / share) + 12 * math.sqrt(trials) / share) + 64
    while True:
        count = 1 << (count - 1).bit_length()
        mass, factorial = _masses(trials, share, count)
        steps = (2 * trials + np.arange(count - 1)) * math.log(x) - x - factorial
        terms = mass + np.minimum(np.logaddexp.accumulate(np.concatenate(([first], steps))), 0)
        top = terms.max()
        log_p = float(top + np.log(np.exp(terms - top).sum()))
        # Masses fall by less than the ratio of the last two: what is left is a geometric series at most.
        fall = mass[-1] - mass[-2]
        rest = mass[-1] + fall - math.log(-math.expm1(fall)) if fall < 0 else 0.0
        if rest < log_p - ROOM:
            return min(0.0, float(np.logaddexp(log_p, rest)) / LN10)
        count *= 2


@lru_cache(maxsize=4)  # the keys of a text share its trials, and follow each other
def _masses(trials: int, share: float, count: int) -> tuple[Floats, Floats]:
    """ln of the negative binomial's masses, and ln (2 T + n)!."""
    n = np.arange(count, dtype=np.float64)
    mass = gammaln(trials + n) - gammaln(trials) - gammaln(n + 1) + trials * math.log(share)
    return mass + xlogy(n, 1 - share), gammaln(2 * trials + n[:-1] + 1)

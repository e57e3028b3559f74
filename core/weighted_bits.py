"""The exact tail of a weighted sum of fair bits whose weights are whole numbers: a tournament's layers, each with its own weight.

The bits are tilted so that the sum's mean is the value asked for (exponential change of measure: Esscher, 1932). What they then sum
to has a characteristic function in closed form, a product over layers to the power of the trials. It is inverted on the circle of
N values, where the law outside N is below OUTSIDE by Hoeffding's inequality, and at the few frequencies where its modulus is above
NOTHING: the product only falls from layer to layer, so that after the first layer little is left to compute.

Suffixes: B sums, L layers, M frequencies.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from .statistics import LN10, Floats
from .text_tails import weighted_bits_log10_p

MOST = 2**16  # trials: 0.1 s a sum; above, the bound of text_tails
OUTSIDE = 1e-18
NOTHING = -50.0  # ln: N such terms are below 1e-15
PLAIN = 3.0  # standard deviations up to which no tilt is needed, and all sums share one law
SLACK = 1e-9  # relative, added to p: more than the inversion loses
PART = 2**20  # terms at a time


class Circle(NamedTuple):
    """A tilted law: its mean, the reach about it that holds all but OUTSIDE, N, frequencies in N-ths, and the transform there."""

    mean: float
    reach: int
    size: int
    place_M: NDArray[np.int64]
    transform_M: NDArray[np.complex128]


def whole_weights_log10_p(statistic: ArrayLike, trials: ArrayLike, weights: Sequence[int]) -> Floats:
    """log10 P[sum_l w_l X_l >= statistic], X_l ~ Bin(trials, 1/2). Right to 1e-9 relative however far out, and never below the
    exact value; above MOST trials an upper bound half a decade higher. weights: positive. ValueError unless all are whole."""
    s, n = (np.asarray(x, dtype=np.float64) for x in np.broadcast_arrays(statistic, trials))
    w, total = tuple(int(x) for x in weights), sum(int(x) for x in weights)
    if w != tuple(weights) or min(w, default=0) < 1 or (s != np.rint(s)).any() or (n != np.rint(n)).any():
        raise ValueError("expected sums, trials and positive weights that are whole numbers")
    if ((n < 0) | (s < 0) | (s > n * total)).any():
        raise ValueError("expected sums between 0 and trials x all weights")
    flat_s, flat_n, out = s.ravel(), n.ravel(), np.zeros(s.size)
    for number in np.unique(flat_n).tolist():
        mine = np.flatnonzero(flat_n == number)
        if number > MOST:
            out[mine] = weighted_bits_log10_p(flat_s[mine], number, np.array(w, dtype=np.float64))
        elif number:
            out[mine] = _tails(flat_s[mine].astype(np.int64), int(number), w)
    return np.minimum(out, 0).reshape(s.shape)


def _tails(s_B: NDArray[np.int64], trials: int, weights: tuple[int, ...]) -> Floats:
    """log10 p of sums with the same trials."""
    total = trials * sum(weights)
    plain_B = s_B <= total / 2 + PLAIN * math.sqrt(trials * sum(w * w for w in weights)) / 2
    last_B = s_B > total - min(weights)  # every bit is 1
    out_B = np.full(len(s_B), -trials * len(weights) * math.log10(2))
    if (common_B := plain_B & ~last_B).any():
        circle = _circle(trials, weights, 0.0)
        step = max(1, PART // len(circle.place_M))
        parts = [s_B[common_B][i : i + step] for i in range(0, int(common_B.sum()), step)]
        out_B[common_B] = np.log10(
            np.concatenate([_upper(part, circle, 0.0) for part in parts]) * (1 + SLACK)
        )
    for b in np.flatnonzero(~plain_B & ~last_B):
        tilt = _tilt(int(s_B[b]), trials, weights)
        scale = trials * sum(math.log1p(math.exp(-tilt * w)) + tilt * w - math.log(2) for w in weights)
        upper = float(_upper(s_B[b : b + 1], _circle(trials, weights, tilt), tilt)[0])
        out_B[b] = (scale - tilt * int(s_B[b]) + math.log(upper) + SLACK) / LN10
    return out_B


def _tilt(s: int, trials: int, weights: tuple[int, ...]) -> float:
    """Of which the mean is s, which is below the largest sum by at least the least weight."""
    w_L = np.array(weights, dtype=np.float64)
    most = (math.log(trials * w_L.sum()) + 1) / w_L.min()
    root: Any = brentq(lambda tilt: trials * float(w_L @ expit(tilt * w_L)) - s, 0.0, most, xtol=1e-12)
    return float(root)


@lru_cache(maxsize=64)
def _circle(trials: int, weights: tuple[int, ...], tilt: float) -> Circle:
    squares, total = sum(w * w for w in weights), trials * sum(weights)
    reach = min(total, math.ceil(math.sqrt(trials * squares * math.log(2 / OUTSIDE) / 2)))
    size = 2 * reach + 3  # odd: no frequency is its own mirror image
    place_M, log_M = np.arange(size // 2 + 1), np.zeros(size // 2 + 1)
    factor_M, mean = np.ones(size // 2 + 1, dtype=np.complex128), 0.0
    for w in weights:
        chance = float(expit(tilt * w))
        angle_M = (2 * math.pi / size) * (place_M * w % size)
        one_M = (1 - chance) + chance * np.exp(-1j * angle_M)
        with np.errstate(divide="ignore"):
            log_M = log_M + trials * np.log(np.abs(one_M))
        live_M = log_M > NOTHING
        place_M, log_M, factor_M = place_M[live_M], log_M[live_M], (factor_M * one_M)[live_M]
        mean += trials * w * chance
    return Circle(mean, reach, size, place_M, factor_M**trials)


def _upper(s_B: NDArray[np.int64], circle: Circle, tilt: float) -> Floats:
    """(B,) sum over j of e^(-tilt j) P[tilted sum = s + j], up to the end of what the circle holds: geometric series, one for each
    frequency."""
    start_B = np.maximum(s_B, math.floor(circle.mean) - circle.reach)
    count_B = math.floor(circle.mean) + circle.reach + 1 - start_B
    rate_M = -tilt + 2j * math.pi / circle.size * circle.place_M
    turned_BM = np.exp(2j * math.pi / circle.size * (start_B[:, None] * circle.place_M % circle.size))
    ended_BM = np.exp(
        -tilt * count_B[:, None]
        + 2j * math.pi / circle.size * (count_B[:, None] * circle.place_M % circle.size)
    )
    still_M = rate_M == 0
    series_BM = np.where(still_M, count_B[:, None], (1 - ended_BM) / np.where(still_M, 1, -np.expm1(rate_M)))
    terms_BM = (circle.transform_M * turned_BM * series_BM).real * np.where(circle.place_M == 0, 1, 2)
    return np.asarray(terms_BM.sum(1) / circle.size)

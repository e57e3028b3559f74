"""The upper tail of a sum of independent whole numbers with known laws, in log space.

Each law is tilted by e^(t k) so that the sum's mean is the value asked for, the tilted laws are convolved by FFT, whose absolute
error of 1e-16 is then small beside the mass where it counts, and the tilt is taken back (exponential change of measure: Esscher,
1932).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

from .statistics import LN10, Floats

SLACK = 1e-9  # relative, added to p: more than the transform loses


def sum_log10_p(statistic: int, log_masses: Sequence[Floats], copies: int | Sequence[int] = 1) -> float:
    """log10 P[sum >= statistic] of independent numbers, `copies` of each law, or of every law its own number of them;
    log_masses[i][k] = ln P[X_i = k], k from 0, without gaps between values that are possible. Right to 1e-9 relative however far
    out, and never below the exact value."""
    copies = [copies] * len(log_masses) if isinstance(copies, int) else copies
    longest = sum(n * (len(law) - 1) for n, law in zip(copies, log_masses, strict=True))
    if statistic > longest:
        raise ValueError(f"statistic: expected at most {longest}, the largest sum, got {statistic}")
    if statistic <= 0:
        return 0.0
    laws = [law[: np.flatnonzero(law > -math.inf)[-1] + 1] for law in log_masses]
    whole = sum(n * (len(law) - 1) for n, law in zip(copies, laws, strict=True))
    if statistic > whole:
        return -math.inf
    if statistic == whole:
        return float(sum(n * law[-1] for n, law in zip(copies, laws, strict=True))) / LN10
    tilt = _tilt(statistic, laws, copies)
    masses, log_scale = _convolved(laws, copies, tilt, whole + 1)
    upper = masses[statistic:] * np.exp(-tilt * np.arange(whole + 1 - statistic))
    return min(0.0, (log_scale - tilt * statistic + math.log(upper.sum()) + SLACK) / LN10)


def _tilt(statistic: int, log_masses: Sequence[Floats], copies: Sequence[int]) -> float:
    """Of which the sum's mean is the statistic, less than the largest sum; 0 where it is below the mean."""

    def excess(tilt: float) -> float:
        return sum(n * _mean(law, tilt) for n, law in zip(copies, log_masses, strict=True)) - statistic

    if excess(0.0) >= 0:
        return 0.0
    most = 1.0
    while excess(most) <= 0:
        most *= 2
    root: Any = brentq(excess, 0.0, most, xtol=1e-6)
    return float(root)


def _mean(law: Floats, tilt: float) -> float:
    k = np.arange(len(law))
    weights = np.exp(law + tilt * k - (law + tilt * k).max())
    return float((weights * k).sum() / weights.sum())


def _convolved(
    log_masses: Sequence[Floats], copies: Sequence[int], tilt: float, length: int
) -> tuple[NDArray[np.float64], float]:
    """The tilted sum's masses, and the logarithm of what they were divided by."""
    size = 1 << (length - 1).bit_length()
    product, log_scale = np.ones(size // 2 + 1, dtype=np.complex128), 0.0
    for n, law in zip(copies, log_masses, strict=True):
        tilted = law + tilt * np.arange(len(law))
        scale = float(logsumexp(tilted))
        product *= np.fft.rfft(np.exp(tilted - scale), size) ** n
        log_scale += n * scale
    return np.maximum(np.fft.irfft(product, size)[:length], 0), log_scale

"""The exact law of the cosine between a fixed vector and a random direction, and Fisher's combination of p-values, in log10.

If u is uniform on the sphere of R^d, its cosine c with any fixed vector has P[cos >= c] = I_{1 - c^2}((d - 1) / 2, 1/2) / 2 for
c >= 0 (Iscen et al. 2017), by symmetry for the rest.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaln, gammaln, hyp2f1, logsumexp, xlogy

from .statistics import LN10, Floats


def cosine_log10_p(cosine: ArrayLike, dimensions: int) -> Floats:
    """log10 P[cos >= cosine], any shape. ValueError for fewer than 2 dimensions or cosines outside [-1, 1] (beyond rounding)."""
    c = np.asarray(cosine, dtype=np.float64)
    if dimensions < 2 or not (np.abs(c) <= 1 + 1e-9).all():
        raise ValueError(
            f"expected cosines in [-1, 1] and 2 dimensions or more, got {np.abs(c).max()} and {dimensions}"
        )
    c = np.clip(c, -1, 1 - 2**-52)  # an exact 1 is rounding, and no p is 0
    a, x = (dimensions - 1) / 2, 1 - c**2
    whole = betainc(a, 0.5, x)
    with np.errstate(divide="ignore"):
        direct = np.log(np.where(c >= 0, whole / 2, 1 - whole / 2))
        # Where the beta integral leaves the doubles: I_x(a, b) = x^a (1 - x)^b F(a + b, 1; a + 1; x) / (a B(a, b)).
        small = np.minimum(x, 0.9)
        series = a * np.log(small) + np.log1p(-small) / 2 + np.log(hyp2f1(a + 0.5, 1, a + 1, small))
    tiny = series - math.log(a) - betaln(a, 0.5) - math.log(2)
    return np.asarray(np.where((c > 0) & (whole < 1e-280), tiny, direct) / LN10)


def fisher_log10_p(log10_p: ArrayLike) -> Floats:
    """Combined log10 p of independent exact p-values along the last axis (Fisher 1925): -2 sum ln p is chi-square with 2 n degrees
    of freedom, whose tail is a finite sum."""
    p = np.asarray(log10_p, dtype=np.float64)
    half = -p.sum(-1) * LN10
    order = np.arange(p.shape[-1])
    terms = xlogy(order, half[..., None]) - gammaln(order + 1)
    return np.asarray(np.minimum(logsumexp(terms, axis=-1) - half, 0) / LN10)

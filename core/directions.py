"""The exact law of the cosine between a fixed vector and a random direction, and Fisher's combination of p-values, in log10.

If u is uniform on the sphere of R^d, its cosine c with any fixed vector has P[cos >= c] = I_{1 - c^2}((d - 1) / 2, 1/2) / 2 for
c >= 0 (Iscen et al. 2017), by symmetry for the rest. So c sqrt((d - 1) / (1 - c^2)) is Student's t with d - 1 degrees of freedom,
whose tail is taken where the beta integral leaves the doubles.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, gammaln, logsumexp, xlogy

from .statistics import LN10, Floats
from .weight_tests import TINY, student_log10_p


def cosine_log10_p(cosine: ArrayLike, dimensions: int) -> Floats:
    """log10 P[cos >= cosine], any shape. ValueError for fewer than 2 dimensions or cosines outside [-1, 1] (beyond rounding)."""
    c = np.asarray(cosine, dtype=np.float64)
    if dimensions < 2 or not (np.abs(c) <= 1 + 1e-9).all():
        raise ValueError(
            f"expected cosines in [-1, 1] and 2 dimensions or more, got {np.abs(c).max()} and {dimensions}"
        )
    c = np.clip(c, -1, 1 - 2**-52)  # an exact 1 is rounding, and no p is 0
    free, rest = dimensions - 1, 1 - c**2
    whole = betainc(free / 2, 0.5, rest)
    tiny = (c > 0) & (whole <= TINY)
    out = np.log10(np.where(c < 0, 1 - whole / 2, whole / 2), out=np.empty(c.shape), where=~tiny)
    t = c[tiny] * np.sqrt(free / rest[tiny])
    out[tiny] = [student_log10_p(x, free) - math.log10(2) for x in t.tolist()]
    return np.asarray(out)


def fisher_log10_p(log10_p: ArrayLike) -> Floats:
    """Combined log10 p of independent exact p-values along the last axis (Fisher 1925): -2 sum ln p is chi-square with 2 n degrees
    of freedom, whose tail is a finite sum. Of none, p is 1."""
    p = np.asarray(log10_p, dtype=np.float64)
    half = -p.sum(-1) * LN10
    order = np.arange(p.shape[-1])
    terms = xlogy(order, half[..., None]) - gammaln(order + 1)
    return np.asarray(np.where(half > 0, np.minimum(logsumexp(terms, axis=-1) - half, 0) / LN10, 0.0))

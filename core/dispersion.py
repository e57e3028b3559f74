"""Over-dispersion of counts: how far the hits of one key on different models are from independent draws.

Models of one task share data and biases, so a trigger that one of them answers is answered by others too. The beta-binomial
law (Skellam 1948) has one more parameter than the binomial for it, the correlation rho of two hits on one model:
variance = n mean (1 - mean) (1 + (n - 1) rho).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import chi2


@dataclass(frozen=True)
class Dispersion:
    """mean: share of hits. rho: correlation of two hits on one model. log10_p: of rho = 0. effective: so many independent trials
    tell as much as the `trials` there are. nan where all counts are equal, which is no estimate of anything."""

    trials: int
    mean: float
    rho: float
    log10_p: float

    @property
    def effective(self) -> float:
        return self.trials / (1 + (self.trials - 1) * self.rho)


def dispersion(hits: ArrayLike, trials: int) -> Dispersion:
    """Maximum likelihood over models. p by the likelihood ratio, whose law under rho = 0 is half a point at 0 and half a chi-square
    with 1 degree of freedom, since rho stands on its bound (Self & Liang 1987). ValueError for no counts."""
    hits_M = np.asarray(hits)
    if hits_M.ndim != 1 or not len(hits_M) or trials < 2 or not ((hits_M >= 0) & (hits_M <= trials)).all():
        raise ValueError(f"expected hits (M,) between 0 and {trials} of at least 2 trials, got {hits!r}")
    mean = float(hits_M.mean() / trials)
    hits_M = hits_M.astype(np.int64)
    if (hits_M == hits_M[0]).all():
        return Dispersion(trials, mean, math.nan, math.nan)
    spread = float(hits_M.var(ddof=1)) / (trials * mean * (1 - mean)) - 1
    start = np.array([logit(mean), logit(np.clip(spread / (trials - 1), 1e-3, 0.9))])
    found = minimize(lambda x: -_log_likelihood(hits_M, trials, *expit(x)), start, method="Nelder-Mead")
    share, rho = (float(v) for v in expit(found.x))
    gain = -float(found.fun) - _log_likelihood(hits_M, trials, mean, 0.0)
    if gain <= 0:
        return Dispersion(trials, mean, 0.0, 0.0)
    return Dispersion(trials, share, rho, float(chi2.logsf(2 * gain, 1) / math.log(10) - math.log10(2)))


def _log_likelihood(hits_M: NDArray[np.int64], trials: int, mean: float, rho: float) -> float:
    """Up to the binomial coefficients: sums of logarithms, which lose nothing where rho vanishes, as beta functions do. At rho = 1
    the law is all or nothing, whose logarithms are infinite: the limit is taken just before."""
    rho = min(rho, 1 - 1e-12)
    steps = rho * np.arange(trials)
    hit, miss, all_ = (
        np.concatenate(([0.0], np.cumsum(np.log(share * (1 - rho) + steps)))) for share in (mean, 1 - mean, 1)
    )
    return float((hit[hits_M] + miss[trials - hits_M] - all_[trials]).sum())

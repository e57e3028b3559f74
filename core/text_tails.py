"""Tails of text marks, where every text has its own number of scored positions. Pure functions; log10 p, and no underflow.

Statistics and trials are arrays that broadcast. Counts and Gumbel sums have laws whose masses fall by a known ratio: a tail is its
first mass times a short series of positive terms. Nothing cancels, and log10 p is right to about 1e-15 T log T however far out,
where scipy's incomplete beta and gamma functions end at 1e-308 and z-scores go wrong long before: z > 4 at 20 positions with
chance 1/4 has p = 1.8e-4, not 3.2e-5.

Every function is conservative: under its null P[p <= alpha] <= alpha at every alpha. The null wants independent positions, so what
is counted must be deduplicated first. The best of M keys or payloads goes through statistics.best_of_log10_p.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, log_ndtr, xlog1py, xlogy

from .statistics import binomial_tails

Floats = NDArray[np.float64]
LN10 = math.log(10)
EPSILON = 2.0**-53
LARGEST = 1e300
CHUNK = 2**14  # texts at a time where each has a row of layers: 4 MB at 32 layers
EXACT_MAXIMUM = (
    1024  # trials; above, a maximum of disjoint counts gets a bound, for its time grows with their cube
)


def counts_log10_p(hits: ArrayLike, trials: ArrayLike, chance: float) -> Floats:
    """log10 P[X >= hits], X ~ Bin(trials, chance): green tokens, or all bits of a tournament (trials = layers x positions)."""
    k, n = _broadcast(hits=hits, trials=trials)
    if not 0 <= chance <= 1:
        raise ValueError(f"chance must lie in [0, 1], got {chance}")
    _refuse("hits must not exceed trials", k > n, k, n)
    odds, against = (a / b if b else math.inf for a, b in ((chance, 1 - chance), (1 - chance, chance)))
    outer = k >= (n + 1) * chance  # from here on masses fall upwards, below it downwards
    out = np.zeros(k.shape)
    a, b = outer & (k > 0), ~outer & (k > 0)
    out[a] = _binomial_mass(k[a], n[a], chance) + _series([n[a] - k[a]], [k[a] + 1], odds)
    i, m = k[b] - 1, n[b]
    out[b] = _complement(_binomial_mass(i, m, chance) + _series([i], [m - i + 1], against))
    return _finished(out)


def gamma_log10_p(statistic: ArrayLike, trials: ArrayLike) -> Floats:
    """log10 P[S >= statistic], S ~ Gamma(trials, 1): the sum of -ln(1 - u) or -ln r of Gumbel marks. S >= s when a Poisson(s) count
    stays below `trials`, so this too is a series. A statistic of 0 or less has p = 1, which is all that no trials can give."""
    s, n = np.broadcast_arrays(np.asarray(statistic, dtype=np.float64), _whole("trials", trials))
    _refuse("statistic must be finite", ~np.isfinite(s), s, n)
    _refuse("statistic must be 0 where there are no trials", (n == 0) & (s > 0), s, n)
    out = np.zeros(s.shape)
    a, b = (s > 0) & (s >= n), (s > 0) & (s < n)
    out[a] = _poisson_mass(n[a] - 1, s[a]) + _series([n[a] - 1], [], 1 / s[a])
    out[b] = _complement(_poisson_mass(n[b], s[b]) + _series([], [n[b] + 1], s[b]))
    return _finished(out)


def hypergeometric_log10_p(
    hits: ArrayLike, population: ArrayLike, marked: ArrayLike, drawn: ArrayLike
) -> Floats:
    """log10 P[X >= hits], X marked ones among `drawn` of a population without replacement: green words among a text's different
    words, where one fixed green list makes their repetitions no evidence (Unigram)."""
    k, total, green, n = _broadcast(hits=hits, population=population, marked=marked, drawn=drawn)
    _refuse("marked and drawn must not exceed population", (green > total) | (n > total), green, n)
    _refuse("hits must not exceed marked or drawn", (k > green) | (k > n), k, n)
    least = np.maximum(0, n + green - total)
    outer = k >= (n + 1) * (green + 1) / (total + 2)
    out = np.zeros(k.shape)
    a, b = outer & (k > least), ~outer & (k > least)
    i, rest = k[a], total[a] - green[a] - n[a]
    ratio = _series([green[a] - i, n[a] - i], [i + 1, rest + i + 1], 1.0)
    out[a] = _hypergeometric_mass(i, total[a], green[a], n[a]) + ratio
    i, rest = k[b] - 1, total[b] - green[b] - n[b]
    ratio = _series([i, rest + i], [green[b] - i + 1, n[b] - i + 1], 1.0)
    out[b] = _complement(_hypergeometric_mass(i, total[b], green[b], n[b]) + ratio)
    return _finished(out)


def hypergeometric_log_masses(population: int, marked: int, drawn: int) -> Floats:
    """ln P[X = k] for k from 0 to the smaller of marked and drawn: the law of hypergeometric_log10_p, for sums of several."""
    k = np.arange(min(marked, drawn) + 1.0)
    return _hypergeometric_mass(k, *(np.full(len(k), float(n)) for n in (population, marked, drawn)))


def weighted_bits_log10_p(statistic: ArrayLike, trials: ArrayLike, weights: ArrayLike) -> Floats:
    """log10 of an upper bound on P[sum_l w_l X_l >= statistic], X_l ~ Bin(trials, 1/2): the weighted score of a tournament of
    layers l. weights: (L,), of any sign. With equal weights counts_log10_p is exact.

    A bound, never below the exact p, because both of these are: P[Z >= z] / (4 P[Z >= sqrt 2]), 3.179 P[Z >= z], holds for every
    weighted sum of signs (Bentkus and Dzindzalieta, Bernoulli 21(2), 2015) and costs half a decade; Chernoff's holds
    at any tilt, and is the smaller one far out."""
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not np.isfinite(w).all():
        raise ValueError(f"weights must be one finite number a layer, got shape {w.shape}")
    s, n = np.broadcast_arrays(np.asarray(statistic, dtype=np.float64), _whole("trials", trials))
    excess, reach = s - n * w.sum() / 2, n * np.abs(w).sum() / 2
    _refuse(
        "statistic must lie within its weights' reach", ~(np.abs(excess) <= reach * (1 + 1e-9) + 1e-9), s, n
    )
    spread = np.sqrt(n * (w @ w)) / 2
    z = np.divide(excess, spread, out=np.zeros(s.shape), where=spread > 0)
    gaussian = log_ndtr(-z) - math.log(4) - log_ndtr(-math.sqrt(2))
    mean_B = np.divide(np.minimum(excess, reach), n, out=np.zeros(s.shape), where=n > 0).ravel()
    parts = [_chernoff(mean_B[i : i + CHUNK], np.abs(w) / 2) for i in range(0, len(mean_B), CHUNK)]
    return _finished(np.minimum(gaussian, n * np.concatenate([*parts, np.empty(0)]).reshape(s.shape)))


def max_of_binomials_log10_p(
    statistic: ArrayLike, trials_per_position: ArrayLike, chance: float, symbols: int, disjoint: bool = True
) -> Floats:
    """log10 P[sum over positions of the largest of `symbols` counts >= statistic]: a multi-bit mark whose decoder takes the best
    symbol at every position of the payload. statistic: any shape, of texts with these trials per position, (positions,).

    disjoint: a token counts for at most one symbol (MPAC's lists share out the vocabulary); then the counts of a position are
    multinomial, and their maximum larger than that of independent counts, which is the other case (one hash a symbol). Exact; for
    disjoint counts of more than 1,024 trials the position's law is replaced by the larger one with tails
    min(1, symbols P[X >= k]), which is conservative."""
    if symbols < 1 or not 0 <= chance <= 1 or (disjoint and symbols * chance > 1 + 1e-9):
        raise ValueError(
            "expected chance in [0, 1], symbols >= 1, and symbols x chance <= 1 unless disjoint=False, "
            f"got {chance} and {symbols}"
        )
    trials = _whole("trials_per_position", trials_per_position).astype(np.int64).ravel()
    s = _whole("statistic", statistic)
    _refuse(
        "statistic must not exceed all trials", s > trials.sum(), s, np.broadcast_to(trials.sum(), s.shape)
    )
    law = np.zeros(1)
    for n in sorted(trials.tolist()):
        law = _convolved(law, _maximum_mass(n, float(chance), symbols, disjoint))
    tails = np.logaddexp.accumulate(law[::-1])[::-1]
    tails[0] = 0
    return np.asarray(np.minimum(tails[s.astype(np.int64)], 0) / LN10)


@lru_cache(maxsize=1024)
def _maximum_mass(trials: int, chance: float, symbols: int, disjoint: bool) -> Floats:
    """ln P[largest count = k] for k = 0..trials."""
    upper, lower = (tail * LN10 for tail in binomial_tails(trials, chance))
    k = np.arange(trials + 1.0)
    mass = _binomial_mass(k, np.full(trials + 1, float(trials)), chance)
    if not disjoint:
        # F(k)^r - F(k-1)^r = P[X = k] F(k)^(r-1) (1 + q + .. + q^(r-1)), q = F(k-1) / F(k): positive terms, unlike the difference.
        lower = np.maximum(lower, -LARGEST)  # infinities would meet in a difference
        q = np.exp(np.concatenate(([-math.inf], lower[:-1])) - lower)
        return np.asarray(mass + (symbols - 1) * lower + np.log(np.polyval(np.ones(symbols), q)))
    if trials > EXACT_MAXIMUM:
        tails = np.concatenate((np.minimum(upper + math.log(symbols), 0), [-math.inf]))
        with np.errstate(divide="ignore"):  # equal tails: no mass between them
            return np.asarray(tails[:-1] + np.log1p(-np.exp(tails[1:] - tails[:-1])))
    out = mass + math.log(symbols)  # of counts above half the trials there is only one
    half = trials // 2
    out[: half + 1] = _multinomial_maximum(trials, chance, symbols)
    return out


def _multinomial_maximum(trials: int, chance: float, symbols: int) -> Floats:
    """ln P[largest = k] for k = 0..trials // 2 of multinomial counts, as independent Poisson counts given their total.

    With A_k the truncated generating function of one count, A_k^r - A_(k-1)^r = t_k x^k E_r, E_(i+1) = A_k E_i + A_(k-1)^i: sums
    of positive terms. The mass t_k stays outside as a logarithm."""
    k = np.arange(trials + 1.0)
    log_t = _poisson_mass(k, np.full(trials + 1, trials * chance))
    rest = np.exp(_poisson_mass(k, np.full(trials + 1, max(0.0, trials * (1 - symbols * chance)))))
    total = _poisson_mass(np.array([float(trials)]), np.array([float(trials)]))[0]
    one = np.zeros(trials + 1)
    powers = np.zeros((symbols, trials + 1))  # A_(k-1)^i
    powers[0, 0] = 1
    out = np.empty(trials // 2 + 1)
    for j in range(trials // 2 + 1):
        one[j] = math.exp(log_t[j])
        size = trials - j + 1
        e = np.zeros(size)
        e[0] = 1
        for i in range(1, symbols):
            grown = np.convolve(one[: j + 1], e)[:size] + powers[i, :size]
            powers[i, j:] += one[j] * e
            e = grown
        with np.errstate(divide="ignore"):
            out[j] = log_t[j] + np.log(e @ rest[size - 1 :: -1]) - total
    return out


def _convolved(a: Floats, b: Floats) -> Floats:
    """Law of a sum, all in natural logarithms."""
    short, long = sorted((a, b), key=len)
    out = np.full(len(a) + len(b) - 1, -math.inf)
    for i, mass in enumerate(short):
        out[i : i + len(long)] = np.logaddexp(out[i : i + len(long)], long + mass)
    return out


def _chernoff(mean_B: Floats, scales_L: Floats) -> Floats:
    """min over tilts t >= 0 of sum_l ln cosh(t a_l) - t mean, a trial: Newton from the left, where the concave slope never lets it
    pass the minimum. Valid at whatever tilt it stops."""
    tilt_B = np.maximum(mean_B, 0) / max(scales_L @ scales_L, 1e-300)
    for _ in range(50):
        tanh_BL = np.tanh(tilt_B[:, None] * scales_L)
        gap_B, slope_B = mean_B - tanh_BL @ scales_L, (1 - tanh_BL**2) @ scales_L**2
        step_B = np.divide(gap_B, slope_B, out=np.zeros_like(gap_B), where=(slope_B > 0) & (gap_B > 0))
        tilt_B += step_B
        if (step_B <= 1e-9 * tilt_B).all():
            break
    u_BL = tilt_B[:, None] * scales_L
    return np.asarray((u_BL + np.log1p(np.exp(-2 * u_BL)) - math.log(2)).sum(1) - tilt_B * mean_B)


def _series(tops: list[Floats], bottoms: list[Floats], weight: float | Floats) -> Floats:
    """ln(1 + r_0 + r_0 r_1 + ...), r_j = weight prod(top - j) / prod(bottom + j), falling and below 1; (n,) arrays.

    Stops where what is left, at most term r / (1 - r), is below rounding. Texts that are done leave the arrays."""
    size = max(len(x) for x in (*tops, *bottoms))
    total, live = np.ones(size), np.arange(size)
    term, w = np.ones(size), np.broadcast_to(np.asarray(weight, dtype=np.float64), (size,))
    j = 0.0
    while live.size:
        ratio = w.copy()
        for top in tops:
            ratio *= top - j
        for bottom in bottoms:
            ratio /= bottom + j
        term = term * ratio
        total[live] += term
        going = term * ratio > EPSILON * (1 - ratio) * total[live]
        j += 1
        if going.mean() < 0.8:
            live, term, w = live[going], term[going], w[going]
            tops, bottoms = [x[going] for x in tops], [x[going] for x in bottoms]
    return np.log(total)


def _binomial_mass(k: Floats, n: Floats, chance: float) -> Floats:
    choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.asarray(choose + xlogy(k, chance) + xlog1py(n - k, -chance))


def _poisson_mass(k: Floats, mean: Floats) -> Floats:
    return np.asarray(xlogy(k, mean) - mean - gammaln(k + 1))


def _hypergeometric_mass(k: Floats, total: Floats, green: Floats, n: Floats) -> Floats:
    def choose(a: Floats, b: Floats) -> Floats:
        return np.asarray(gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1))

    return choose(green, k) + choose(total - green, n - k) - choose(total, n)


def _complement(log_other: Floats) -> Floats:
    return np.log1p(-np.exp(log_other))


def _finished(log_tail: Floats) -> Floats:
    """log10, at most 0."""
    return np.asarray(np.minimum(log_tail, 0) / LN10)


def _whole(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    bad = ~((array >= 0) & (array == np.floor(array)) & np.isfinite(array))
    if bad.any():
        raise ValueError(f"{name} must be whole numbers of at least 0, got {array[bad][0]}")
    return array


def _broadcast(**values: ArrayLike) -> list[Floats]:
    return list(np.broadcast_arrays(*(_whole(name, value) for name, value in values.items())))


def _refuse(rule: str, broken: NDArray[np.bool_], a: Floats, b: Floats) -> None:
    if broken.any():
        raise ValueError(f"{rule}, got {a[broken][0]:g} and {b[broken][0]:g}")

"""Schemes against each other: bootstrap intervals, ranks that carry ties, and paired tests on the cells two schemes share.

The bootstrap resamples victims (seeds), and within a victim the runs of each attack. Attacks are not resampled: the suite is a
fixed list and the score is its worst case, which 37 of 100 draws would miss. One draw of the victims serves all attacks, so what
a victim does to all of them together stays. The minimum over attacks of measured rates is biased low, and that of resampled rates
twice, so the upper end is at least that of the attack which is worst by itself, at Bonferroni's level for having chosen it.
Percentiles of resamples are too narrow for few victims; the tails are widened to those of Student's t (Hesterberg 2015, The
American Statistician 69, section 5.3). Simulated coverage of 95 % intervals under 1, 8 and 20 equally strong attacks
(tests/test_compare.py): 95, 97 and 95 % for 20 victims, 96, 95 and 94 % for 10, 93, 94 and 91 % for 8, but 92, 82 and 72 % for 5
and 73, 51 and 26 % for 3, whose resamples span no more than the sample: fewer than eight get none. Nor do draws that all agree:
nan, never width 0. The survival rate has an exact interval instead (frontier.py), so the ranks are by it.

The paired test is over seeds. Cells of one seed are attacks on one marked model, not independent: McNemar's test with the cell
as unit would call two equal schemes different (the same tests measure that too). A seed speaks for the scheme that wins more of
its shared cells, and the sign test over such seeds is exact (McNemar's own where a seed has one cell); n seeds give no p below
2^(1-n). Holm's correction over all pairs of a board holds the family-wise error at any dependence.

Shapes: S seeds, C cells, R runs, D draws, M schemes.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .frontier import Floats, Thefts, area, curves, knots, shares, worst
from .ranking import DECIDED, Record, cell_of, outcome, schemes

DRAWS = 2000
FEWEST = 8
"""Seeds of a bootstrap interval."""
ROUNDING = 1e-12
"""Shares that differ by less are equal: sums of one order or another."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two schemes on the cells (attack, deployment, seed) both decided: how many the first alone survived (wins), the second
    alone (losses), and equal ones; seeds in which the first, or the second, won more; p and Holm's adjusted p as log10."""

    board: tuple[str, ...]
    first: str
    second: str
    wins: int
    losses: int
    equal: int
    ahead: int
    behind: int
    log10_p: float
    holm_log10_p: float


def resampled(seeds: int, draws: int = DRAWS, seed: int = 0) -> Floats:
    """weights_DS: how often each seed is in a resample of all; one row per draw."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).astype(np.float64)


def area_intervals(
    found: Thefts, ranges: Sequence[float], draws: int = DRAWS, seed: int = 0, confidence: float = 0.95
) -> list[Interval]:
    """Of the area under the frontier up to each loss: from undecided thefts counted as removed, to undecided ones counted as
    detected."""
    if len(found.seeds) < FEWEST:
        return [(math.nan, math.nan) for _ in ranges]
    losses_X = knots(found, max(ranges))
    samples, place_D = _samples(found, draws, seed)
    parts = [curves(part, losses_X, weights_DS) for part, weights_DS in samples]
    least_DX, most_DX = (np.concatenate(part) for part in zip(*parts, strict=True))
    out = []
    for upto in ranges:
        c, cells = _weakest(found, losses_X, upto)
        one_DX = np.concatenate([curves(_only(part, c), losses_X, w)[1] for part, w in samples])
        curves_DX = least_DX, most_DX, _filled(one_DX, most_DX)
        least_D, most_D, alone_D = (area(values_DX, losses_X, upto)[place_D] for values_DX in curves_DX)
        out.append(percentiles(least_D, most_D, alone_D, cells, widened(len(found.seeds), confidence)))
    return out


def _samples(found: Thefts, draws: int, seed: int) -> tuple[list[tuple[Thefts, Floats]], NDArray[np.intp]]:
    """Thefts with weightings of their seeds, and which of all those weightings each draw takes. Where a seed has one run of a cell
    only the weights vary, and few seeds have few distinct ones: 126 of 5."""
    if found.reach_SCR.shape[2] == 1:
        weights_US, place_D = np.unique(resampled(len(found.seeds), draws, seed), axis=0, return_inverse=True)
        return [(found, weights_US)], place_D
    rng, one = np.random.default_rng(seed), np.ones((1, len(found.seeds)))
    return [(_redrawn(found, rng), one) for _ in range(draws)], np.arange(draws)


def _only(found: Thefts, c: int) -> Thefts:
    parts = (values[:, [c]] for values in (found.reach_SCR, found.doubt_SCR, found.removal_SCR))
    return Thefts(found.seeds, (found.cells[c],), *parts)


def _filled(one_DX: Floats, frontier_DX: Floats) -> Floats:
    """An attack alone, and the worst of the others where it steals nothing: never below the frontier."""
    return np.where(np.isnan(one_DX), frontier_DX, one_DX)


def _weakest(found: Thefts, losses_X: Floats, upto: float) -> tuple[int, int]:
    """The cell with the smallest area by itself, and how many cells steal anything."""
    most_SCX = shares(found, losses_X)[1]
    count_CX = (~np.isnan(most_SCX)).sum(0)
    alone_CX = np.where(count_CX, np.nansum(most_SCX, 0) / np.maximum(count_CX, 1), math.nan)
    most_1X = curves(found, losses_X, np.ones((1, len(found.seeds))))[1]
    areas_C = area(_filled(alone_CX, most_1X), losses_X, upto)
    return int(np.argmin(areas_C)), max(int(count_CX.any(1).sum()), 1)


def _redrawn(found: Thefts, rng: np.random.Generator) -> Thefts:
    """Victims with replacement, then the runs of each victim and attack."""
    pick_S = rng.integers(len(found.seeds), size=len(found.seeds))
    count_SC1 = (~np.isnan(found.reach_SCR[pick_S])).sum(2, keepdims=True)
    run_SCR = (rng.random(found.reach_SCR.shape) * count_SC1).astype(np.int64)
    there_SCR = np.arange(run_SCR.shape[2]) < count_SC1

    def taken(values_SCR: Floats) -> Floats:
        return np.where(there_SCR, np.take_along_axis(values_SCR[pick_S], run_SCR, 2), math.nan)

    reach, doubt, removal = (taken(v) for v in (found.reach_SCR, found.doubt_SCR, found.removal_SCR))
    return replace(found, reach_SCR=reach, doubt_SCR=doubt, removal_SCR=removal)


def worst_interval(value_SC: Floats, draws: int = DRAWS, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Of the smallest mean over seeds of any cell; nan where a seed has no value."""
    if len(value_SC) < FEWEST or np.isnan(value_SC).all():
        return math.nan, math.nan
    weights_DS = resampled(len(value_SC), draws, seed)
    worst_D = worst(value_SC[..., None], weights_DS)[:, 0]
    means = [
        worst(value_SC[:, [c], None], np.ones((1, len(value_SC))))[0, 0] for c in range(value_SC.shape[1])
    ]
    alone_D = worst(value_SC[:, [int(np.nanargmin(means))], None], weights_DS)[:, 0]
    return percentiles(
        worst_D, worst_D, _filled(alone_D, worst_D), len(means), widened(len(value_SC), confidence)
    )


def mean_interval(value_S: Floats, confidence: float = 0.95) -> Interval:
    """Student's t of a plain mean over seeds; nan of fewer than two, and where they agree."""
    from scipy.special import stdtrit  # half a second to import

    there_S = value_S[~np.isnan(value_S)]
    if len(there_S) < 2 or np.ptp(there_S) <= ROUNDING:
        return math.nan, math.nan
    half = stdtrit(len(there_S) - 1, (1 + confidence) / 2) * there_S.std(ddof=1) / math.sqrt(len(there_S))
    return float(there_S.mean() - half), float(there_S.mean() + half)


def widened(seeds: int, confidence: float) -> float:
    """The confidence at which percentiles of a mean's resamples have the length of Student's t interval at `confidence`."""
    from scipy.special import ndtr, stdtrit

    far = math.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, (1 + confidence) / 2)
    return float(1 - 2 * ndtr(-far))


def percentiles(
    least_D: Floats, most_D: Floats, alone_D: Floats, cells: int, confidence: float = 0.95
) -> Interval:
    """nan where all draws agree; draws in which nothing was stolen are left out. alone: of the one cell that is worst by itself."""
    there_D = ~(np.isnan(least_D) | np.isnan(most_D))
    least_D, most_D, alone_D = least_D[there_D], most_D[there_D], alone_D[there_D]
    if not len(least_D) or min(np.ptp(least_D), np.ptp(most_D)) <= ROUNDING:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    high = max(np.quantile(most_D, 1 - tail), np.quantile(alone_D, 1 - tail / cells))
    return float(np.quantile(least_D, tail)), float(high)


def ranks(intervals: Sequence[Interval]) -> list[tuple[int, int]]:
    """Every scheme's best and worst possible rank: those whose whole interval lies above come before it, those below after it;
    overlapping intervals are ties."""
    low_M, high_M = np.array(intervals, dtype=np.float64).reshape(-1, 2).T
    above_M = (low_M > high_M[:, None]).sum(1)
    below_M = (high_M < low_M[:, None]).sum(1)
    return [(int(a) + 1, len(intervals) - int(b)) for a, b in zip(above_M, below_M, strict=True)]


def pairs(records: Iterable[Record]) -> list[Pair]:
    """Every two schemes of a board that share a decided cell. Holm's family is the board's pairs."""
    boards: dict[tuple[str, ...], dict[str, list[Record]]] = defaultdict(dict)
    for (*board, name), members in schemes(records).items():
        boards[tuple(board)][name] = members
    return [pair for board, by_name in boards.items() for pair in _board_pairs(board, by_name)]


def _board_pairs(board: tuple[str, ...], by_name: dict[str, list[Record]]) -> list[Pair]:
    from ..core.statistics import holm  # scipy takes a second to import

    names = list(by_name)
    survived_MSC = _survived(list(by_name.values()))
    found = [
        pair
        for i, first in enumerate(names)
        for j, second in enumerate(names[i + 1 :], i + 1)
        if (pair := _paired(board, (first, second), survived_MSC[i] - survived_MSC[j])) is not None
    ]
    adjusted = holm([pair.log10_p for pair in found])
    return [replace(pair, holm_log10_p=float(p)) for pair, p in zip(found, adjusted, strict=True)]


def _survived(members: list[list[Record]]) -> Floats:
    """(M, S, C): 1 where the scheme survived, 0 where it did not (the share of its runs, if several), nan where undecided."""
    runs: dict[tuple[int, int, tuple[str, str]], list[bool]] = defaultdict(list)
    for m, records in enumerate(members):
        for record in records:
            result = outcome(record)[0]
            if result in DECIDED:
                runs[m, record["seed"], cell_of(record)].append(result == "survives")
    seeds = {seed: s for s, seed in enumerate(sorted({seed for _, seed, _ in runs}))}
    cells = {cell: c for c, cell in enumerate(sorted({cell for _, _, cell in runs}))}
    out_MSC = np.full((len(members), len(seeds), len(cells)), math.nan)
    for (m, seed, cell), results in runs.items():
        out_MSC[m, seeds[seed], cells[cell]] = sum(results) / len(results)
    return out_MSC


def _paired(board: tuple[str, ...], names: tuple[str, str], gap_SC: Floats) -> Pair | None:
    """gap_SC: the first's survival less the second's; nan where either is undecided."""
    sign_SC = np.sign(gap_SC)
    wins, losses, equal = (int((sign_SC == value).sum()) for value in (1, -1, 0))
    if not wins + losses + equal:
        return None
    lead_S = np.nansum(sign_SC, axis=1)
    ahead, behind = int((lead_S > 0).sum()), int((lead_S < 0).sum())
    log10_p = sign_test(max(ahead, behind), ahead + behind)
    return Pair(board, *names, wins, losses, equal, ahead, behind, log10_p, log10_p)


@cache
def sign_test(more: int, trials: int) -> float:
    """log10 p, two-sided. Of a board's thousands of pairs few differ in it."""
    from ..core.statistics import binomial_log10_p

    return float(binomial_log10_p(more, trials, 0.5, two_sided=True))


def win_matrix(found: Iterable[Pair], names: Sequence[str]) -> Floats:
    """(M, M) of one board: the share of shared cells that the row's scheme alone survived; nan where none is shared."""
    place = {name: i for i, name in enumerate(names)}
    out_MM = np.full((len(names), len(names)), math.nan)
    for pair in found:
        i, j, shared = place[pair.first], place[pair.second], pair.wins + pair.losses + pair.equal
        out_MM[i, j], out_MM[j, i] = pair.wins / shared, pair.losses / shared
    return out_MM

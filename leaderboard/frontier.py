"""A scheme's frontier: at every accuracy loss, the share of thefts that still carry evidence, under the worst attack.

A record comes down to three losses against the marked model: where its first surrogate is (`reach`), its first undecided one
(`doubt`), and its first without evidence (`removal`). What a thief may lose, x, then makes it
  not scored  x < reach: nothing stolen costs so little (too costly)
  removed     removal <= x
  undecided   doubt <= x < removal: the null is too small to decide
  detected    otherwise
as in ranking.py, whose outcome this is at x = 2 pp. Undecided thefts count as removed in `least` and as detected in `most`: the
share lies between the two. Blocked, senseless and failed trials have no curve and are not scored. A claim is no theft: forging().
The frontier rises where a loss brings in the theft of a further seed and that one is detected.

The unit is the seed: one victim, its key and its data. A seed's runs of one attack and deployment (a cell) are averaged, never
counted as several seeds. Shapes: S seeds, C cells, R runs of a cell and seed, X losses, D weightings of the seeds.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from .ranking import BUDGET, Cell, Record, cell_of, is_claim, losses, outcome

Floats = NDArray[np.float64]
Verdict = Callable[[Record], bool | None]
"""Of a surrogate, whether it carries evidence; None: undecided."""
DECLARED: Verdict = itemgetter("detected")
"""At the declared false-positive rate."""
FORGING = 0.01
"""Of more forged claims no survival is worth anything (Assay's protocol, rule 12)."""


@dataclass(frozen=True)
class Thefts:
    """The three losses of every theft, shares of the test split, gains counted as 0; inf: never; nan: no such run."""

    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    reach_SCR: Floats
    doubt_SCR: Floats
    removal_SCR: Floats


@dataclass(frozen=True)
class Rate:
    """A share at its worst cell. least, most: its bounds where trials are undecided; low, high: the exact 95 % interval of the
    extreme over all cells; seeds: behind the worst cell; equals: how many other cells are as bad. Without a trial: nan, (0, 1), and
    no cell."""

    least: float
    most: float
    low: float
    high: float
    cell: Cell | None
    seeds: int
    equals: int


@dataclass(frozen=True)
class Frontier:
    """Steps: the values at losses_X[i] hold up to the next loss. nan where nothing is stolen; low, high: exact 95 % interval of
    each value by itself."""

    losses_X: Floats
    least_X: Floats
    most_X: Floats
    low_X: Floats
    high_X: Floats


def thefts(records: Iterable[Record], verdict: Verdict = DECLARED) -> Thefts:
    """Of one scheme on one board, labelled (ranking.py)."""
    found: dict[Cell, dict[int, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["status"] == "ok" and not is_claim(record):
            found[cell_of(record)][record["seed"]].append(_three_losses(record, verdict))
    cells = sorted(found)
    seeds = sorted({seed for runs in found.values() for seed in runs})
    most = max((len(runs) for by_seed in found.values() for runs in by_seed.values()), default=0)
    out_SCR3 = np.full((len(seeds), len(cells), most, 3), math.nan)
    for c, cell in enumerate(cells):
        for seed, runs in found[cell].items():
            out_SCR3[seeds.index(seed), c, : len(runs)] = runs
    return Thefts(tuple(seeds), tuple(cells), out_SCR3[..., 0], out_SCR3[..., 1], out_SCR3[..., 2])


def _three_losses(record: Record, verdict: Verdict) -> tuple[float, float, float]:
    """Accuracies are shares of a test split: 9 digits tell them apart, and a loss of exactly 2 pp is one of 2 pp."""
    reach = doubt = removal = math.inf
    for point, loss in zip(record["curve"], losses(record), strict=True):
        lost, found = max(0.0, round(loss, 9)), verdict(point)
        reach = min(reach, lost)
        if found is None:
            doubt = min(doubt, lost)
        elif not found:
            removal = min(removal, lost)
    return reach, doubt, removal


def knots(found: Thefts, upto: float) -> Floats:
    """The losses in [0, upto) at which anything changes; 0 is the first."""
    changes = np.concatenate([found.reach_SCR, found.doubt_SCR, found.removal_SCR], axis=None)
    return np.unique(np.append(changes[changes < upto], 0.0))


def shares(found: Thefts, losses_X: Floats) -> tuple[Floats, Floats]:
    """least_SCX, most_SCX: of a seed's runs that reach the loss, the share detected; nan where none does."""
    reached_SCRX = found.reach_SCR[..., None] <= losses_X
    kept_SCRX = reached_SCRX & (found.removal_SCR[..., None] > losses_X)
    sure_SCRX = kept_SCRX & (found.doubt_SCR[..., None] > losses_X)
    count_SCX = reached_SCRX.sum(2).astype(np.float64)
    count_SCX[count_SCX == 0] = math.nan
    return sure_SCRX.sum(2) / count_SCX, kept_SCRX.sum(2) / count_SCX


def worst(share_SCX: Floats, weights_DS: Floats) -> Floats:
    """(D, X): the weighted mean over the seeds that have one, minimised over cells; nan where none has. Where a cell has all
    seeds at 0 no weighting matters, nor does it for a cell that has them all at 1: most of the work is never done."""
    there_SCX = ~np.isnan(share_SCX)
    part_SCX = np.where(there_SCX, share_SCX, 0.0)
    zero_CX, one_CX = ((there_SCX & (share_SCX == value)).all(0) for value in (0.0, 1.0))
    out_XD = np.full((share_SCX.shape[2], len(weights_DS)), math.nan)
    out_XD[one_CX.any(0)] = 1.0
    out_XD[zero_CX.any(0)] = 0.0
    todo_CX = there_SCX.any(0) & ~one_CX & ~zero_CX.any(0)
    weights_SD = weights_DS.T.copy()
    for c in np.flatnonzero(todo_CX.any(1)):
        at = np.flatnonzero(todo_CX[c])
        count_XD = there_SCX[:, c, at].T.astype(np.float64) @ weights_SD
        count_XD[count_XD == 0] = math.nan
        rate_XD = part_SCX[:, c, at].T @ weights_SD
        rate_XD /= count_XD
        out_XD[at] = np.fmin(out_XD[at], rate_XD)
    return out_XD.T


def curves(found: Thefts, losses_X: Floats, weights_DS: Floats) -> tuple[Floats, Floats]:
    """least_DX, most_DX: the frontier of every weighting."""
    least_SCX, most_SCX = shares(found, losses_X)
    least_DX = worst(least_SCX, weights_DS)
    undecided = not np.array_equal(least_SCX, most_SCX, equal_nan=True)
    return least_DX, worst(most_SCX, weights_DS) if undecided else least_DX


def area(values_DX: Floats, losses_X: Floats, upto: float) -> Floats:
    """(D,): the mean of the steps over those losses in [0, upto] at which anything is stolen; nan where nothing is."""
    width_X = np.diff(np.minimum(np.append(losses_X, math.inf), upto))
    there_DX = ~np.isnan(values_DX)
    covered_D = there_DX @ width_X
    covered_D[covered_D == 0] = math.nan
    return np.asarray(np.where(there_DX, values_DX, 0.0) @ width_X / covered_D)


def areas(found: Thefts, upto: float) -> tuple[float, float]:
    """least, most: the area under the frontier over [0, upto], in [0, 1]."""
    if not found.seeds:
        return math.nan, math.nan
    losses_X = knots(found, upto)
    least_DX, most_DX = curves(found, losses_X, np.ones((1, len(found.seeds))))
    return float(area(least_DX, losses_X, upto)[0]), float(area(most_DX, losses_X, upto)[0])


def frontier(found: Thefts, upto: float = 0.1, confidence: float = 0.95) -> Frontier:
    losses_X = np.append(knots(found, upto), upto)
    shares_SCX = shares(found, losses_X)
    rates = [
        extreme(shares_SCX[0][..., x], shares_SCX[1][..., x], found.cells, confidence)
        for x in range(len(losses_X))
    ]
    values = (np.array([getattr(rate, name) for rate in rates]) for name in ("least", "most", "low", "high"))
    return Frontier(losses_X, *values)


def survival(found: Thefts, budget: float = BUDGET, confidence: float = 0.95) -> Rate:
    """The true-positive rate at the declared false-positive rate, of thefts that lose at most `budget`, under the worst attack."""
    least_SC, most_SC = (part[..., 0] for part in shares(found, np.array([budget])))
    return extreme(least_SC, most_SC, found.cells, confidence)


def extreme(
    least_SC: Floats, most_SC: Floats, cells: tuple[Cell, ...], confidence: float = 0.95, least: bool = True
) -> Rate:
    """The smallest (or with least=False the largest) rate of all cells, and an exact interval of it at any dependence of the cells.

    Of the smallest: the lowest lower Clopper-Pearson bound needs no correction, because the truly worst cell's is no lower;
    the lowest upper bound is Bonferroni's over the cells, because the data chose it. A seed with several runs is a success for the
    lower bound when all its runs are, and for the upper one when any is.
    """
    if not least:
        turned = extreme(1 - most_SC, 1 - least_SC, cells, confidence)
        bounds = (1 - turned.most, 1 - turned.least, 1 - turned.high, 1 - turned.low)
        return Rate(*bounds, turned.cell, turned.seeds, turned.equals)
    there_SC = ~np.isnan(least_SC)
    count_C = there_SC.sum(0)
    tried = [int(c) for c in np.flatnonzero(count_C)]
    if not tried:
        return Rate(math.nan, math.nan, 0.0, 1.0, None, 0, 0)
    sure_C, possible_C = (least_SC == 1).sum(0), (there_SC & (most_SC > 0)).sum(0)
    each = 1 - (1 - confidence) / len(tried)
    tries_C = count_C[tried].tolist()
    low = min(
        _interval(*pair, confidence)[0] for pair in set(zip(sure_C[tried].tolist(), tries_C, strict=True))
    )
    high = min(
        _interval(*pair, each)[1] for pair in set(zip(possible_C[tried].tolist(), tries_C, strict=True))
    )
    least_C, most_C = (np.nanmean(part[:, tried], axis=0).tolist() for part in (least_SC, most_SC))
    bad = dict(zip(tried, zip(least_C, most_C, strict=True), strict=True))
    at = min(tried, key=lambda c: (bad[c], -count_C[c]))
    equals = sum(value == bad[at] for value in bad.values()) - 1
    return Rate(min(least_C), min(most_C), low, high, cells[at], int(count_C[at]), equals)


@cache
def _interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    from ..core.statistics import clopper_pearson  # scipy takes a second to import

    return clopper_pearson(successes, trials, confidence)


def forging(records: Iterable[Record], confidence: float = 0.95) -> Rate:
    """The share of seeds in which an accuser's key finds the owner's model, under the worst claim; undecided ones as bounds."""
    found: dict[Cell, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["status"] == "ok" and is_claim(record):
            found[cell_of(record)][record["seed"]].append(outcome(record)[0])
    cells = tuple(sorted(found))
    seeds = sorted({seed for runs in found.values() for seed in runs})
    forged_SC, open_SC = np.full((2, len(seeds), len(cells)), math.nan)
    for c, cell in enumerate(cells):
        for seed, results in found[cell].items():
            place = seeds.index(seed), c
            forged_SC[place] = results.count("forged") / len(results)
            open_SC[place] = results.count("undecided") / len(results)
    return extreme(forged_SC, forged_SC + open_SC, cells, confidence, least=False)


def forging_verdict(rate: Rate, limit: float = FORGING) -> str:
    """within or exceeded: the interval lies on that side of the limit. open: it holds it; untested: nobody tried."""
    if rate.cell is None:
        return "untested"
    if rate.high <= limit:
        return "within"
    return "exceeded" if rate.low > limit else "open"

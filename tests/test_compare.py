"""Intervals cover, ties stay ties, and no two equal schemes are told apart more often than declared."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from assay.core.statistics import binomial_log10_p
from assay.leaderboard.compare import (
    area_intervals,
    mean_interval,
    pairs,
    percentiles,
    ranks,
    resampled,
    widened,
    win_matrix,
    worst_interval,
)
from assay.leaderboard.frontier import Floats, Thefts, areas, curves
from assay.leaderboard.ranking import Record
from assay.leaderboard.scores import scores

ALPHA = 0.05


def removed_at(removal_SC: Floats) -> Thefts:
    """Every attack steals from 0 pp on, and removes the mark at these losses."""
    removal = np.asarray(removal_SC, dtype=np.float64)[..., None]
    cells = tuple((f"attack{c}", "open") for c in range(removal.shape[1]))
    return Thefts(tuple(range(len(removal))), cells, 0 * removal, np.full(removal.shape, math.inf), removal)


def coverage(seeds: int, cells: int, sims: int = 200) -> float:
    """Of the area over [0, 10 pp]: independent attacks that all remove at a loss uniform over [0, 15 pp], so the frontier is
    1 - x / 15 pp and its area 2/3."""
    rng, hit = np.random.default_rng(0), 0
    for sim in range(sims):
        found = removed_at(rng.uniform(0, 0.15, (seeds, cells)))
        ((low, high),) = area_intervals(found, (0.1,), draws=1000, seed=sim)
        hit += low <= 2 / 3 <= high
    return hit / sims


@pytest.mark.parametrize(("seeds", "cells", "least"), [(20, 1, 0.92), (20, 8, 0.92), (8, 8, 0.89)])
def test_the_interval_of_the_area_covers_it(seeds: int, cells: int, least: float) -> None:
    """95 % less two standard errors of 200 simulations are 92 %; eight victims are the fewest that have an interval."""
    assert coverage(seeds, cells) >= least


def test_seven_victims_are_too_few_for_the_bootstrap() -> None:
    """Which is why ranks are by the exact interval of the survival rate."""
    few = np.random.default_rng(0).uniform(0, 0.15, (7, 3))
    assert np.isnan(area_intervals(removed_at(few), (0.02, 0.1))).all()
    assert np.isnan(worst_interval(few)).all()


def test_the_interval_of_a_plain_mean_covers_it_with_three_victims() -> None:
    rng = np.random.default_rng(0)
    ends = [mean_interval(rng.normal(0.7, 0.1, 3)) for _ in range(400)]
    assert 0.92 <= np.mean([low <= 0.7 <= high for low, high in ends]) <= 0.98
    assert np.isnan(mean_interval(np.array([0.1 + 0.2, 0.3, 0.3]))).all(), "equal but for rounding"


def test_the_resampled_minimum_alone_would_miss() -> None:
    """The percentile interval of the frontier without the end that the attack worst by itself gives it."""
    rng, hit = np.random.default_rng(0), 0
    for sim in range(100):
        found, losses_X = removed_at(rng.uniform(0, 0.15, (20, 8))), np.linspace(0, 0.1, 50)
        area_D = curves(found, losses_X, resampled(20, 500, sim))[0].mean(1)
        low, high = percentiles(area_D, area_D, area_D, 1)
        hit += low <= 2 / 3 <= high
    assert hit / 100 < 0.2


def test_the_interval_of_a_worst_mean_covers_it() -> None:
    rng, hit = np.random.default_rng(3), 0
    for sim in range(200):
        low, high = worst_interval(rng.normal(0.7, 0.1, (30, 10)), draws=1000, seed=sim)
        hit += low <= 0.7 <= high
    assert hit / 200 >= 0.92


def test_no_interval_where_nothing_varies() -> None:
    same = removed_at(np.full((9, 3), 0.03))
    assert np.isnan(area_intervals(same, (0.02, 0.1))).all()
    assert areas(same, 0.1) == pytest.approx((0.3, 0.3))
    assert np.isnan(area_intervals(removed_at(np.array([[0.03]])), (0.1,))).all()
    assert np.isnan(worst_interval(np.ones((9, 2)))).all()


def test_the_interval_is_the_same_for_the_same_seed_and_holds_the_area() -> None:
    found = removed_at(np.random.default_rng(1).uniform(0, 0.15, (9, 4)))
    first, again, other = (area_intervals(found, (0.02, 0.1), seed=s) for s in (0, 0, 1))
    assert first == again != other
    for (low, high), upto in zip(first, (0.02, 0.1), strict=True):
        assert low <= areas(found, upto)[0] <= high


def test_runs_of_a_victim_are_resampled_within_it() -> None:
    """Eight victims that agree on average, whose runs differ: all the spread is within victims."""
    removal_SCR = np.tile([0.0, 0.1, 0.1], (8, 1))[:, None]
    shape = removal_SCR.shape
    found = Thefts(tuple(range(8)), (("a", ""),), np.zeros(shape), np.full(shape, math.inf), removal_SCR)
    assert areas(found, 0.1) == pytest.approx((2 / 3, 2 / 3))
    ((low, high),) = area_intervals(found, (0.1,), draws=400)
    # The mean of 24 draws with chance 2/3: standard deviation 0.096, of which the interval of eight goes out 2.5.
    assert 0.3 < low < 0.5
    assert 0.83 < high <= 1.0
    padded = np.pad(removal_SCR, ((0, 0), (0, 0), (0, 2)), constant_values=math.nan)
    more = Thefts(found.seeds, found.cells, 0 * padded, np.full(padded.shape, math.inf), padded)
    assert area_intervals(more, (0.1,), draws=400)[0] == pytest.approx((low, high), abs=0.1)


def test_undecided_thefts_widen_the_interval() -> None:
    decided = removed_at(np.random.default_rng(1).uniform(0, 0.15, (9, 1)))
    doubt = np.where(np.arange(9) < 4, 0.01, math.inf)[:, None, None]
    doubtful = Thefts(decided.seeds, decided.cells, decided.reach_SCR, doubt, decided.removal_SCR)
    ((low, high),), ((lower, same),) = (area_intervals(f, (0.1,)) for f in (decided, doubtful))
    assert lower < low
    assert same == pytest.approx(high)


@pytest.mark.parametrize(("seeds", "t"), [(8, 2.364624), (20, 2.093024)])
def test_percentiles_are_widened_to_students_length(seeds: int, t: float) -> None:
    """A mean's resamples have the sample's deviation by n, not by n - 1: both corrections are in it."""
    far = float(ndtri((1 + widened(seeds, 0.95)) / 2))
    assert far * math.sqrt((seeds - 1) / seeds) == pytest.approx(t, rel=1e-5)


def test_overlapping_intervals_are_ties() -> None:
    assert ranks([]) == []
    assert ranks([(0.1, 0.4), (0.3, 0.8), (0.5, 0.9), (0.0, 1.0)]) == [(2, 4), (1, 4), (1, 3), (1, 4)]
    assert ranks([(0.9, 1.0), (0.5, 0.6), (0.0, 0.1)]) == [(1, 1), (2, 2), (3, 3)]
    assert ranks([(0.5, 0.6), (0.6, 0.7)]) == [(1, 2), (1, 2)]


def trial(scheme: str, attack: str, seed: int, survived: bool | None) -> Record:
    choices = {"task": "digits", "watermark": scheme, "deployment": "open", "attack": attack}
    point = {"accuracy": 0.95, "detected": survived, "log10_p": -3.0, "statistic": 1.0}
    head = {"id": f"{scheme}-{attack}-{seed}", "seed": seed, "choices": choices, "status": "ok"}
    rest: dict[str, Any] = {
        "owner": {"unmarked_accuracy": 0.95, "embedding_seconds": 1.0},
        "size": None,
        "nulls": {},
    }
    return {**head, **rest, "marked": {"accuracy": 0.95, "fpr": 0.01}, "curve": [point], "controls": {}}


def test_a_pair_is_compared_on_the_cells_both_decided() -> None:
    first = [trial("a", "prune", s, True) for s in range(6)] + [trial("a", "distill", 0, False)]
    second = [trial("b", "prune", s, s == 5) for s in range(6)] + [trial("b", "distill", 0, None)]
    other = trial("c", "extract", 0, True)  # shares nothing
    (pair,) = pairs([*first, *second, other, trial("none", "prune", 0, False)])
    assert (pair.board, pair.first, pair.second) == (("digits", "", "", ""), "a", "b")
    assert (pair.wins, pair.losses, pair.equal, pair.ahead, pair.behind) == (5, 0, 1, 5, 0)
    assert pair.log10_p == pair.holm_log10_p == pytest.approx(math.log10(2 / 2**5))
    np.testing.assert_allclose(win_matrix([pair], ["b", "a"]), [[math.nan, 0], [5 / 6, math.nan]])


def test_a_seed_is_one_vote_however_many_attacks_agree() -> None:
    attacks = [f"attack{i}" for i in range(50)]
    records = [trial(name, attack, 0, name == "a") for name in "ab" for attack in attacks]
    (pair,) = pairs(records)
    assert (pair.wins, pair.losses, pair.ahead) == (50, 0, 1)
    assert pair.log10_p == 0  # one seed shows nothing


def test_runs_of_a_cell_are_averaged_before_schemes_are_compared() -> None:
    """One of two runs survived is less than both."""
    records = [trial("a", "prune", 0, run == 0) for run in range(2)] + [trial("b", "prune", 0, True)] * 2
    (pair,) = pairs(records)
    assert (pair.wins, pair.losses, pair.equal) == (0, 1, 0)


def test_boards_are_families_of_their_own() -> None:
    records = [trial(name, "prune", s, name == "a") for name in "abc" for s in range(8)]
    elsewhere = [trial(name, "prune", s, name == "a") for name in "ab" for s in range(8)]
    for record in elsewhere:
        record["choices"]["task"] = "fashion"
    found = {(p.board[0], p.first, p.second): p for p in pairs(records + elsewhere)}
    raw = math.log10(2 / 2**8)
    assert found["digits", "a", "b"].holm_log10_p == pytest.approx(raw + math.log10(3))
    assert found["fashion", "a", "b"].holm_log10_p == pytest.approx(raw)
    assert found["digits", "b", "c"].holm_log10_p == 0


def board(rng: np.random.Generator, schemes: int, seeds: int = 12, attacks: int = 5) -> list[Record]:
    """Equal schemes; a marked model is strong or weak under all attacks alike."""
    strong = rng.random((schemes, seeds)) < 0.5
    chance = np.where(strong, 0.9, 0.1)
    return [
        trial(f"s{m}", f"a{a}", s, bool(rng.random() < chance[m, s]))
        for m in range(schemes)
        for s in range(seeds)
        for a in range(attacks)
    ]


def test_the_family_wise_error_is_held_where_the_uncorrected_one_and_cells_as_units_exceed_it() -> None:
    rng, sims = np.random.default_rng(0), 150
    corrected = uncorrected = by_cell = 0
    for _ in range(sims):
        found = pairs(board(rng, 6))
        assert len(found) == 15
        corrected += min(p.holm_log10_p for p in found) <= math.log10(ALPHA)
        uncorrected += min(p.log10_p for p in found) <= math.log10(ALPHA)
        mcnemar = binomial_log10_p(
            max(found[0].wins, found[0].losses), found[0].wins + found[0].losses, 0.5, True
        )
        by_cell += bool(mcnemar <= math.log10(ALPHA))
    assert corrected / sims <= ALPHA
    assert uncorrected / sims > 2 * ALPHA
    assert by_cell / sims > 2 * ALPHA  # a single pair, already


def test_a_better_scheme_is_found() -> None:
    rng = np.random.default_rng(1)
    best = [trial("best", f"a{a}", s, True) for s in range(20) for a in range(5)]
    found = [p for p in pairs([*best, *board(rng, 3, seeds=20)]) if "best" in (p.first, p.second)]
    assert [p.holm_log10_p < math.log10(ALPHA) for p in found] == [True] * 3
    assert all(p.ahead > p.behind for p in found)


def test_ranks_are_by_the_exact_interval() -> None:
    """20 seeds tell 20 of 20 from 0 of 20; 3 tell nothing."""
    for seeds, expected in ((20, [("a", 1, 1), ("b", 2, 2)]), (3, [("a", 1, 2), ("b", 1, 2)])):
        rows = scores([trial(name, "prune", s, name == "a") for name in "ab" for s in range(seeds)])
        assert [(row["watermark"], row["tied_best"], row["tied_worst"]) for row in rows] == expected

"""The frontier is the worst case the protocol asks for, and its exact interval covers it however the attacks hang together."""

import math
from typing import Any

import numpy as np
import pytest

from assay.core.statistics import clustered_rate
from assay.leaderboard.frontier import (
    Thefts,
    areas,
    extreme,
    forging,
    forging_verdict,
    frontier,
    knots,
    survival,
    thefts,
)
from assay.leaderboard.ranking import Record, ranking, schemes
from assay.leaderboard.scores import scores

NEVER = math.inf


def record(
    attack: str = "prune", seed: int = 0, curve: Any = ((0.0, True),), goal: str = "remove", **changes: Any
) -> Record:
    """A finished trial of a 95 % accurate model; curve: (loss in pp, detected) of each surrogate."""
    choices = {"task": "digits", "model": "cnn", "watermark": "adi", "deployment": "open", "attack": attack}
    points = [
        {"accuracy": 0.95 - loss / 100, "detected": d, "log10_p": -30.0, "statistic": 90.0, "message": None}
        for loss, d in curve
    ]
    found = {
        "independent_models": {"count": 4, "exceed": 0},
        "statistic": 100.0,
        "fpr": 0.01,
        "message": None,
    }
    for point in points:
        point["independent_models"] = {"count": 4, "exceed": 0}
    return {
        "id": f"{attack}-{seed}",
        "seed": seed,
        "choices": choices,
        "status": "ok",
        "declared": {"watermark": {}, "attack": {"goal": goal}},
        "owner": {"unmarked_accuracy": 0.96, "embedding_seconds": 2.0 + seed},
        "marked": {"accuracy": 0.95, "detected": True, **found},
        "curve": points,
        "controls": {},
        "nulls": {"independent_models": [50.0, 60.0, 100.0, 70.0], "random_keys": []},
        "size": {"cells": 100, "claims": seed},
        **changes,
    }


def of(*runs: tuple[float, float, float]) -> Thefts:
    """One cell, a seed per run: reach, doubt, removal."""
    reach, doubt, removal = np.array(runs, dtype=np.float64).T[..., None, None]
    return Thefts(tuple(range(len(runs))), (("a", "open"),), reach, doubt, removal)


def test_a_curve_comes_down_to_three_losses() -> None:
    curve = [(-3.0, True), (1.0, None), (2.0, False), (1.5, False)]
    found = thefts([record(curve=curve), record("extract", curve=[(5.0, True)])])
    assert found.cells == (("extract", "open"), ("prune", "open"))
    np.testing.assert_allclose(found.reach_SCR[0, :, 0], [0.05, 0.0])
    np.testing.assert_allclose(found.doubt_SCR[0, :, 0], [NEVER, 0.01])
    np.testing.assert_allclose(found.removal_SCR[0, :, 0], [NEVER, 0.015])


def test_the_frontier_is_the_worst_attack_at_every_loss() -> None:
    """Two seeds: pruning removes in one at 1 pp and in both at 6; fine-tuning in one at 4."""
    records = [
        record("prune", 0, [(0.0, True), (1.0, False)]),
        record("prune", 1, [(0.0, True), (6.0, False)]),
        record("finetune", 0, [(0.0, True)]),
        record("finetune", 1, [(0.0, True), (4.0, False)]),
    ]
    found = frontier(thefts(records))
    np.testing.assert_allclose(found.losses_X, [0, 0.01, 0.04, 0.06, 0.1])
    np.testing.assert_allclose(found.least_X, [1, 0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(found.least_X, found.most_X)
    assert areas(thefts(records), 0.02) == pytest.approx((0.75, 0.75))
    assert areas(thefts(records), 0.1) == pytest.approx((0.35, 0.35))
    rate = survival(thefts(records))
    assert (rate.least, rate.most, rate.cell, rate.seeds, rate.equals) == (0.5, 0.5, ("prune", "open"), 2, 0)


def test_survival_is_what_the_ranking_calls_the_worst() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        records = [
            record(
                f"attack{a}",
                seed,
                [
                    (float(x), bool(d))
                    for x, d in zip(rng.uniform(-1, 4, 3), rng.integers(2, size=3), strict=True)
                ],
            )
            for a in range(4)
            for seed in range(5)
        ]
        (row,) = ranking(records)
        rate = survival(thefts(records))
        assert row["worst"] == pytest.approx(rate.least)


def test_exactly_the_budget_is_within_it() -> None:
    assert survival(thefts([record(curve=[(2.0, False)])])).least == 0
    assert survival(thefts([record(curve=[(0.0, True), (2.1, False)])])).least == 1


def test_undecided_thefts_bound_the_score_and_are_never_counted() -> None:
    records = [
        record(seed=0),
        record(seed=1, curve=[(0.0, None)]),
        record(seed=2, curve=[(0.0, None), (1.0, False)]),
    ]
    rate = survival(thefts(records))
    assert (rate.least, rate.most) == pytest.approx((1 / 3, 2 / 3))
    assert rate.low == pytest.approx(
        survival(thefts([record(seed=0), *(record(seed=s, curve=[(0, False)]) for s in (1, 2))])).low
    )
    assert areas(thefts(records), 0.02) == pytest.approx((1 / 3, (1 + 2 / 3) / 2))
    (row,) = scores(records, draws=200)
    assert (row["survival_least"], row["survival_most"]) == pytest.approx((1 / 3, 2 / 3))
    assert row["survives"] == "no"


@pytest.mark.parametrize("status", ["blocked", "not_applicable", "failed"])
def test_what_could_not_run_and_what_cost_too_much_is_not_scored(status: str) -> None:
    unfinished = {key: record("distill")[key] for key in ("id", "seed", "choices")} | {"status": status}
    costly = record("extract", curve=[(30.0, False)])
    rate = survival(thefts([record(), unfinished, costly]))
    assert (rate.least, rate.cell, rate.seeds) == (1, ("prune", "open"), 1)
    only = thefts([costly])
    assert math.isnan(survival(only).least)
    assert np.isnan(areas(only, 0.1)).all()
    assert np.isnan(frontier(only).least_X).all()
    (row,) = scores([unfinished, costly])
    assert [
        row[name] for name in ("tpr_least", "survival_low", "area_wide_least", "tied_best", "survives")
    ] == [None] * 5


def test_the_area_is_over_the_losses_at_which_something_is_stolen() -> None:
    """An API mark meets extraction alone: nothing is stolen below 4 pp."""
    found = of((0.04, NEVER, 0.07), (0.04, NEVER, NEVER))
    assert areas(found, 0.1) == pytest.approx((0.75, 0.75))
    assert np.isnan(areas(found, 0.02)).all()


def test_runs_of_a_seed_are_averaged_and_are_no_further_seeds() -> None:
    runs = [record("prune", 0, [(0.0, d)], id=str(i)) for i, d in enumerate([True, True, False])]
    rate = survival(thefts([*runs, record("prune", 1)]))
    assert rate.least == pytest.approx((2 / 3 + 1) / 2)
    assert rate.seeds == 2
    single = survival(thefts([record("prune", 0, [(0.0, False)]), record("prune", 1)]))
    assert rate.low == pytest.approx(single.low)  # for the lower bound a seed needs all its runs
    assert rate.high == 1.0


def test_known_intervals() -> None:
    """0 of n has the exact upper bound 1 - 0.025^(1/n); over two attacks the level is halved for it, and not for the lower one."""
    every = np.ones((5, 2))
    kept = extreme(every, every, (("a", ""), ("b", "")))
    assert (kept.low, kept.high) == pytest.approx((0.025 ** (1 / 5), 1.0))
    lost = extreme(0 * every, 0 * every, (("a", ""), ("b", "")))
    assert (lost.low, lost.high) == pytest.approx((0.0, 1 - 0.0125 ** (1 / 5)))
    forged = extreme(0 * every, 0 * every, (("a", ""), ("b", "")), least=False)
    assert (forged.least, forged.low, forged.high) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 5)))


@pytest.mark.parametrize("shared", [False, True])
def test_the_interval_covers_the_worst_rate_after_the_worst_attack_was_chosen(shared: bool) -> None:
    """20 attacks of one true rate, independent or all decided by the victim; the plain interval of the worst cell misses."""
    rng, true, sims = np.random.default_rng(1), 0.7, 1000
    covered, plain = 0, 0
    cells = tuple((str(c), "") for c in range(20))
    for _ in range(sims):
        draws = rng.random((10, 1 if shared else 20)) < true
        value = np.broadcast_to(draws, (10, 20)).astype(np.float64)
        rate = extreme(value, value, cells)
        covered += rate.low <= true <= rate.high
        alone = extreme(value[:, [c := int(value.mean(0).argmin())]], value[:, [c]], cells[:1])
        plain += alone.low <= true <= alone.high
    assert covered / sims >= 0.95
    assert shared or plain / sims < 0.9


def test_forging_is_the_worst_claim_and_says_what_so_few_trials_support() -> None:
    forged, failed, undecided = ([(0.0, d)] for d in (True, False, None))
    claims = [record("forge", s, failed, goal="claim") for s in range(3)]
    rate = forging(claims)
    assert (rate.least, rate.most, forging_verdict(rate)) == (0, 0, "open")
    assert forging_verdict(forging([])) == "untested"
    assert forging_verdict(forging([record()])) == "untested"
    many = [record("forge", s, failed, goal="claim") for s in range(400)]
    assert forging_verdict(forging(many)) == "within"
    bent = [record("bend", s, forged, goal="claim") for s in range(3)]
    assert forging(claims + bent).cell == ("bend", "open")
    assert forging_verdict(forging(claims + bent)) == "exceeded"
    maybe = forging([record("forge", 0, undecided, goal="claim"), *claims[1:]])
    assert (maybe.least, maybe.most) == pytest.approx((0, 1 / 3))


def test_a_forged_scheme_scores_nothing_and_keeps_its_rate_in_sight() -> None:
    records = [record(seed=s) for s in range(3)]
    (before,) = scores(records)
    assert (before["survival_least"], before["forging"]) == (1, "untested")
    forged = [record("bend", s, [(0.0, True)], goal="claim") for s in range(3)]
    (row,) = scores(records + forged)
    assert (row["tpr_least"], row["survival_least"], row["survival_high"], row["survives"]) == (1, 0, 0, "no")
    assert row["tpr_attack"] == "prune"


FAILED = [record("forge", s, [(0.0, False)], goal="claim", size=None) for s in range(368)]
"""The fewest claims that bound forging by 1 %."""


def test_a_scheme_survives_by_rate_and_bound() -> None:
    """17 of 17 is the least that bounds a rate below by 80 %."""
    thefts_of = [[record(seed=s) for s in range(n)] for n in (16, 17)]
    assert [scores([*found, *FAILED])[0]["survives"] for found in thefts_of] == ["open", "yes"]
    mixed = [record(seed=s, curve=[(0.0, s > 0)]) for s in range(17)]
    assert scores(mixed)[0]["survives"] == "no"


def test_no_scheme_survives_before_its_claims_are_shown_to_fail() -> None:
    """Untested, tested by too few, forged beyond doubt."""
    kept = [record(seed=s) for s in range(17)]
    forged = [record("forge", s, [(0.0, True)], goal="claim") for s in range(3)]
    found = [scores(kept + claims)[0] for claims in ([], FAILED[:367], forged)]
    assert [(row["forging"], row["survives"]) for row in found] == [
        ("untested", "open"),
        ("open", "open"),
        ("exceeded", "no"),
    ]


def test_undecided_thefts_leave_survival_open() -> None:
    """18 of 20 detected and 2 undecided are between 90 and 100 %."""
    (row,) = scores([record(seed=s, curve=[(0.0, None if s < 2 else True)]) for s in range(20)])
    assert (row["survival_least"], row["survival_most"], row["survives"]) == (0.9, 1.0, "open")


def test_of_equally_bad_attacks_the_one_with_most_seeds_is_named() -> None:
    bad = np.array([[0.0, 0.0], [math.nan, 0.0]])
    rate = extreme(bad, bad, (("a", ""), ("b", "")))
    assert (rate.cell, rate.seeds, rate.equals) == (("b", ""), 2, 1)


def test_seeds_count_once_in_size_and_cost() -> None:
    records = [record(attack, seed) for attack in ("prune", "finetune", "none") for seed in (1, 3)]
    (row,) = scores(records)
    assert (row["size_cells"], row["size"]) == (200, 0.02)
    assert row["size_low"] < 0.02 < row["size_high"]
    assert row["embedding_seconds"] == 4.0
    assert row["fpr"] == 0.01


def test_auroc_counts_equal_nulls_by_half() -> None:
    records = [record("prune", s) for s in range(2)]
    for r in records:
        r["marked"]["independent_models"]["exceed"] = 1  # the null of 100, equal to the marked model's
        r["curve"][0]["independent_models"]["exceed"] = 1
    (row,) = scores(records)
    assert row["auroc_null"] == "independent_models"
    assert row["auroc_marked"] == pytest.approx(1 - 0.5 / 4)
    assert row["auroc"] == pytest.approx(1 - 1 / 4)
    assert row["auroc_low"] is None  # both seeds agree: not estimable


def test_auroc_is_against_the_null_that_more_often_exceeds() -> None:
    """Nobody's models score below the suspect, rivals' do not: 3 of 4 lie above it, or one above and one equal."""
    made = record()
    made["nulls"]["rivals"] = [100.0, 110.0, 1.0, 2.0]
    made["marked"]["rivals"] = {"count": 4, "exceed": 2}
    made["curve"][0] |= {
        "rivals": {"count": 4, "exceed": 3},
        "independent_models": {"count": 200, "exceed": 20},
    }
    (row,) = scores([made])
    assert (row["auroc_marked"], row["auroc"]) == (1 - 1.5 / 4, 1 - 3 / 4)


def exceeding(seed: int, run: int, *counts: tuple[float, int]) -> Record:
    """A theft whose points lose so many pp and have so many of four null scores above them."""
    made = record(seed=seed, curve=[(loss, True) for loss, _ in counts], id=f"{seed}-{run}")
    for point, (_, exceed) in zip(made["curve"], counts, strict=True):
        point["independent_models"]["exceed"] = exceed
    return made


def test_separation_is_of_the_weakest_surrogate_within_the_budget() -> None:
    """What loses 5 pp is no theft, and the strongest of a curve excuses no other."""
    (row,) = scores([exceeding(0, 0, (0.0, 0), (1.0, 2), (5.0, 4))])
    assert row["auroc"] == pytest.approx(1 - 2 / 4)


def test_runs_of_a_seed_are_averaged_in_its_separation() -> None:
    (row,) = scores([exceeding(0, run, (0.0, exceed)) for run, exceed in enumerate((0, 3))])
    assert row["auroc"] == pytest.approx((1 + 1 / 4) / 2)


def test_equal_random_keys_count_against_the_owner_where_they_are_not_recorded() -> None:
    """Their recorded scores are on the marked model: one that equals a surrogate's is a coincidence."""
    made = record()
    made["nulls"] = {"independent_models": [], "random_keys": [90.0, 1.0, 2.0, 100.0]}
    for found, exceed in ((made["marked"], 1), (made["curve"][0], 1)):
        found |= {"independent_models": None, "random_keys": {"count": 4, "exceed": exceed}}
    (row,) = scores([made])
    assert (row["auroc_null"], row["auroc_marked"], row["auroc"]) == ("random_keys", 1 - 0.5 / 4, 1 - 1 / 4)


def test_the_interval_of_the_size_counts_models_and_not_cells() -> None:
    """Four null models, however many keys: 4 of 200 cells have the interval of four draws."""
    nulls = {"independent_models": [50.0, 60.0, 100.0, 70.0], "random_keys": [1.0] * 25}
    (row,) = scores([record(seed=s, nulls=nulls) for s in (1, 3)])
    assert (row["size_low"], row["size_high"]) == pytest.approx(clustered_rate(4, 200, 4))


def test_unreadable_null_models_are_no_draws() -> None:
    nulls = {"independent_models": [50.0, None, 100.0, None], "random_keys": [1.0] * 25}
    (row,) = scores([record(seed=s, nulls=nulls) for s in (1, 3)])
    assert (row["size_low"], row["size_high"]) == pytest.approx(clustered_rate(4, 200, 2))


def test_the_size_is_that_of_a_seed_s_worst_trial() -> None:
    """The key of an API mark settles on what was asked: nothing under active, much under knockoff."""

    def settled(attack: str, seed: int, claims: int) -> Record:
        nulls = {"independent_models": [float(claims)] * 50, "random_keys": [1.0] * 50}
        return record(attack, seed, size={"cells": 100, "claims": claims}, nulls=nulls)

    (row,) = scores([settled(attack, s, n) for attack, n in (("active", 0), ("knockoff", 9)) for s in (0, 1)])
    assert (row["size"], row["size_cells"]) == (0.09, 200)
    assert row["size_high"] == pytest.approx(clustered_rate(18, 200, 50)[1])
    assert row["size_low"] == pytest.approx(clustered_rate(18, 200, 50, 1 - 0.05 / 4)[0])


def test_ranks_within_are_of_the_ranked_and_accused_schemes_come_last() -> None:
    def scheme(name: str, attacks: str, kept: bool, **changes: Any) -> list[Record]:
        found = [record(a, s, [(0.0, kept)], **changes) for a in attacks for s in range(8)]
        return [{**r, "choices": r["choices"] | {"watermark": name}} for r in found]

    claims = {"controls": {"unmarked": {"detected": True}}}
    records = [
        *scheme("kept", "wxyz", kept=True),
        *scheme("lost", "wxyz", kept=False),
        *scheme("accused", "wxyz", kept=True, **claims),
        *scheme("few", "w", kept=True),
    ]
    rows = {row["watermark"]: (row["rank"], row["tied_best"], row["tied_worst"]) for row in scores(records)}
    assert rows == {"kept": (1, 1, 1), "lost": (2, 2, 2), "accused": (3, 3, 3), "few": (None, None, None)}


def judged(attack: str, seed: int, log10_p: float, **evidence: Any) -> Record:
    made = record(attack, seed)
    made["curve"][0] |= {"log10_p": log10_p, "source": "binomial", **evidence}
    return made


def test_rates_at_smaller_false_positive_rates_are_read_off_exact_p_values() -> None:
    """-3 is within 0.1 %; what loses 5 pp is no theft."""
    records = [judged("prune", s, p) for s, p in enumerate((-2.5, -3.0, -6.0, -80.0))]
    records += [judged("finetune", s, -7.0) for s in range(4)]
    records[0]["curve"].append({**records[0]["curve"][0], "accuracy": 0.9, "log10_p": 0.0})
    (row,) = scores(records)
    assert [row[f"tpr_{at}least"] for at in ("", "1e3_", "1e6_")] == [1.0, 0.75, 0.5]
    assert row["tpr_1e6_low"] == pytest.approx(0.0676, abs=1e-4)  # Clopper-Pearson, 2 of 4
    assert row["least_log10_p"] is None


@pytest.mark.parametrize(
    ("evidence", "least", "rates"),
    [
        ({"source": "random_keys", "random_keys": {"count": 998}}, -math.log10(999), [None, None]),
        ({"source": "random_keys", "random_keys": {"count": 999}}, -3.0, [1.0, None]),
        (
            {"source": "independent_models", "independent_models": {"count": 201, "exceed": 0}},
            -2.305,
            [None] * 2,
        ),
        ({"source": "independent_models", "rivals": {"count": 1, "exceed": 0}}, -math.log10(2), [None] * 2),
        ({"source": "rivals", "rivals": {"count": 99, "exceed": 0}}, -math.log10(5), [None] * 2),
        ({"source": "none"}, 0.0, [None] * 2),
    ],
)
def test_no_rate_is_smaller_than_the_null_supports(evidence: Record, least: float, rates: list[Any]) -> None:
    """The larger p of models and rivals decides, so the smaller group bounds it; four models stand in a record without others."""
    (row,) = scores([judged("prune", 0, -3.0, **evidence)])
    assert row["least_log10_p"] == pytest.approx(least, abs=1e-3)
    assert [row["tpr_1e3_most"], row["tpr_1e6_most"]] == rates


def test_a_theft_without_a_null_bounds_the_rates_of_the_others() -> None:
    """Another architecture than the null models': undecided, among thefts that 999 of them decide."""
    models = {"source": "independent_models", "independent_models": {"count": 999, "exceed": 0}}
    (row,) = scores([judged("prune", 0, -3.0, **models), judged("prune", 1, 0.0, source="none")])
    assert (row["tpr_1e3_least"], row["tpr_1e3_most"]) == (0.5, 1.0)


def test_only_changes_are_knots() -> None:
    found = of((0.0, NEVER, 0.03), (0.01, 0.02, 0.5))
    np.testing.assert_array_equal(knots(found, 0.1), [0, 0.01, 0.02, 0.03])
    np.testing.assert_array_equal(knots(found, 0.02), [0, 0.01])


def test_the_control_is_no_scheme() -> None:
    control = record()
    control["choices"]["watermark"] = "none"
    assert schemes([control]) == {}
    assert scores([control]) == []

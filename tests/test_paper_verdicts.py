"""Papers: readings of records, prediction intervals by simulation, verdicts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.experiments.paper.judge import Measured, Unmeasured, judge_claim, judge_number, prediction, read
from assay.experiments.paper.preset import Claim, Number, Table, reading
from assay.leaderboard.store import Store

QUICK = Path(__file__).resolve().parent.parent / "results" / "quick" / "records"


@pytest.fixture(scope="module")
def pruned() -> dict[str, Any]:
    return next(r for r in Store(QUICK) if r["id"].startswith("digits-cnn_small-uchida-open-prune"))


def test_a_prediction_interval_covers_a_new_draw() -> None:
    """Student's interval of five normal draws holds the sixth 95 times in 100."""
    rng, runs = np.random.default_rng(11), 4000
    draws = rng.normal(92.0, 0.3, (runs, 6))
    inside = [low <= new <= high for *five, new in draws for low, high in [prediction(five) or (0, 0)]]
    assert abs(np.mean(inside) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / runs)
    low, high = prediction([1.0, 2.0, 3.0]) or (0, 0)
    assert high - 2 == pytest.approx(4.302652729911275 * math.sqrt(1 + 1 / 3))
    assert (low + high) / 2 == pytest.approx(2)


def test_one_seed_and_equal_seeds_have_no_interval() -> None:
    assert prediction([1.0]) is None
    assert prediction([100.0] * 5) is None


def test_intervals_of_percentages_end_at_0_and_100() -> None:
    low, high = Measured({0: 99.0, 1: 99.9}, {}, True).interval or (0, 0)
    assert low == pytest.approx(89.5465, abs=1e-3)
    assert high == 100
    low, high = Measured({0: 99.0, 1: 99.9}, {}, False).interval or (0, 0)
    assert (low + high) / 2 == pytest.approx(99.45)


def test_readings_of_a_record(pruned: dict[str, Any]) -> None:
    point = next(p for p in pruned["curve"] if p["strength"] == 0.7)

    def found(words: str) -> float:
        return read(reading(words, "uchida"), pruned)

    assert found("prune.accuracy@0.7") == pytest.approx(100 * point["accuracy"])
    assert found("prune.error@marked") == pytest.approx(100 * (1 - pruned["marked"]["accuracy"]))
    assert found("prune.loss@0.7") == pytest.approx(100 * (pruned["marked"]["accuracy"] - point["accuracy"]))
    assert found("prune.loss@marked") == pytest.approx(
        100 * (pruned["owner"]["unmarked_accuracy"] - pruned["marked"]["accuracy"])
    )
    assert found("prune.accuracy@unmarked") == pytest.approx(100 * pruned["owner"]["unmarked_accuracy"])
    assert found("prune.bit_accuracy@0.7") == pytest.approx(100 * point["statistic"] / 256)
    assert found("prune.bit_error_rate@0.7") == pytest.approx(100 * (1 - point["statistic"] / 256))
    assert found("prune.statistic@rival") == pruned["controls"]["marked_by_rival"]["statistic"]
    assert found("prune.detected@first") == 100
    assert found("prune.detected@unmarked") == 0
    assert found("prune.log10_p@last") == pruned["curve"][-1]["log10_p"]
    within = [p for p in pruned["curve"] if p["accuracy"] >= pruned["marked"]["accuracy"] - 0.02]
    assert len(within) < len(pruned["curve"]), "the fixture must hold a surrogate beyond 2 pp"
    assert found("prune.statistic@worst") == min(p["statistic"] for p in within)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("prune.accuracy@0.66", "no surrogate of strength 0.66; there are 0.1, 0.3"),
        ("prune.trigger_accuracy@last", "counts matching bits, no triggers"),
        ("prune.accuracy@rival", "no accuracy of the rival model"),
        ("prune.agreement@marked", "no agreement of the marked model"),
    ],
)
def test_what_a_record_does_not_hold_is_said(words: str, reason: str, pruned: dict[str, Any]) -> None:
    with pytest.raises(Unmeasured, match=reason):
        read(reading(words, "uchida"), pruned)


def test_other_outcomes_say_why_nothing_is_measured(pruned: dict[str, Any]) -> None:
    asked = reading("prune.accuracy@last", "uchida")
    with pytest.raises(Unmeasured, match="blocked: the deployment"):
        read(asked, {**pruned, "status": "blocked", "reason": "the deployment denies it"})
    with pytest.raises(Unmeasured, match="needs the data of cifar10"):
        read(asked, "needs the data of cifar10")
    undecided = {**pruned, "marked": {**pruned["marked"], "detected": None}}
    with pytest.raises(Unmeasured, match="too small to decide"):
        read(reading("prune.detected@marked", "uchida"), undecided)
    dear = {**pruned, "curve": [{**p, "accuracy": 0.5} for p in pruned["curve"]]}
    with pytest.raises(Unmeasured, match="within 2 pp"):
        read(reading("prune.statistic@worst", "uchida"), dear)


def with_accuracy(record: dict[str, Any], accuracy: float) -> dict[str, Any]:
    return {**record, "marked": {**record["marked"], "accuracy": accuracy}}


@pytest.mark.parametrize(
    ("accuracies", "published", "provenance", "same", "verdict"),
    [
        ([0.92, 0.921, 0.922, 0.923, 0.924], 92.2, "verified", True, "inside the interval: reproduced"),
        ([0.92, 0.921, 0.922, 0.923, 0.924], 92.2, "verified", False, "inside the interval"),
        ([0.92, 0.921, 0.922, 0.923, 0.924], 92.2, "secondary", True, "inside the interval"),
        ([0.92, 0.921, 0.922, 0.923], 92.2, "verified", True, "inside the interval"),
        ([0.92, 0.921, 0.922, 0.923, 0.924], 92.8, "verified", True, "outside"),
        ([0.92], 92.0, "verified", True, "no interval: one seed"),
        ([0.92] * 5, 92.0, "verified", True, "no interval: all seeds are equal"),
    ],
)
def test_verdicts_of_numbers(
    accuracies: list[float],
    published: float,
    provenance: Any,
    same: bool,
    verdict: str,
    pruned: dict[str, Any],
) -> None:
    table = Table("Table 1", provenance, "%", {"accuracy": "copy.accuracy@marked"}, {"uchida": [published]})
    number = Number("uchida", "accuracy", published, table, reading("copy.accuracy@marked", "uchida"))
    records = {("uchida", "copy"): {i: with_accuracy(pruned, a) for i, a in enumerate(accuracies)}}
    assert judge_number(number, records, same).verdict == verdict


def test_a_number_without_records_says_what_it_needs(pruned: dict[str, Any]) -> None:
    table = Table("Table 1", "verified", "%", {"accuracy": "copy.accuracy@marked"}, {"uchida": [90.0]})
    number = Number("uchida", "accuracy", 90.0, table, reading("copy.accuracy@marked", "uchida"))
    lacking = {("uchida", "copy"): dict.fromkeys(range(5), "needs the data of cifar10")}
    assert judge_number(number, lacking, True).verdict == "not measured: needs the data of cifar10"


@pytest.mark.parametrize(
    ("left", "right", "holds", "held", "verdict"),
    [
        ([0.95, 0.96], [0.94, 0.95], "a/copy.accuracy@marked > b/copy.accuracy@marked", 2, "qualitative claim holds"),
        ([0.95, 0.94], [0.94, 0.95], "a/copy.accuracy@marked > b/copy.accuracy@marked", 1, "does not hold"),
        ([0.95, 0.94], [0.94, 0.95], "a/copy.accuracy@marked >= b/copy.accuracy@marked - 1", 2, "qualitative claim holds"),
        ([0.95, 0.95], [0.95, 0.95], "a/copy.accuracy@marked > b/copy.accuracy@marked", 0, "does not hold"),
        ([0.95, 0.95], [0.95, 0.95], "a/copy.accuracy@marked <= b/copy.accuracy@marked", 2, "qualitative claim holds"),
        ([0.95, 0.95], [0.95, 0.95], "a/copy.accuracy@marked >= 95", 2, "qualitative claim holds"),
        ([0.95, 0.95], [0.95, 0.95], "a/copy.accuracy@marked < -3", 0, "does not hold"),
    ],
)  # fmt: skip
def test_a_claim_holds_when_it_holds_in_every_seed(
    left: list[float],
    right: list[float],
    holds: str,
    held: int,
    verdict: str,
    pruned: dict[str, Any],
) -> None:
    sides = {"a": left, "b": right}
    records = {
        (row, "copy"): {seed: with_accuracy(pruned, a) for seed, a in enumerate(side)}
        for row, side in sides.items()
    }
    found = judge_claim(Claim("", "", "verified", holds), records)
    assert (found.held, found.seeds, found.verdict) == (held, 2, verdict)


def test_a_claim_with_a_seed_unmeasured_is_open_unless_another_refutes_it(pruned: dict[str, Any]) -> None:
    def judged(holds: str) -> str:
        seeds: dict[int, dict[str, Any] | str] = {
            0: with_accuracy(pruned, 0.9),
            1: "needs the data of cifar10",
        }
        return judge_claim(Claim("", "", "verified", holds), {("a", "copy"): seeds}).verdict

    assert judged("a/copy.accuracy@marked > 80") == "not measured: needs the data of cifar10"
    assert judged("a/copy.accuracy@marked > 95") == "does not hold"

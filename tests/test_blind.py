"""A thief who sees no evidence chooses by his own data."""

from typing import Any

import pytest

from assay.experiments.api import build
from assay.experiments.run import run
from assay.leaderboard.ranking import blind, ranking

Record = dict[str, Any]


def trial(points: list[tuple[float, bool | None]], status: str = "ok", goal: str = "remove") -> Record:
    """Points by rising strength: what the thief loses on his data, and whether the mark is found."""
    curve = [
        {
            "accuracy": 0.9,
            "log10_p": -3.0,
            "detected": found,
            "seen": {"accuracy": 0.95 - loss, "marked": 0.95},
        }
        for loss, found in points
    ]
    choices = {"task": "t", "watermark": "w", "attack": "a", "deployment": "open"}
    rest = {
        "controls": {},
        "owner": {"unmarked_accuracy": 0.9},
        "marked": {"fpr": 0.01, "accuracy": 0.9, "log10_p": -9.0},
    }
    declared = {"attack": {"goal": goal}, "watermark": {}}
    return {"status": status, "seed": 0, "choices": choices, "declared": declared, "curve": curve, **rest}


def test_he_takes_the_strongest_that_seems_harmless() -> None:
    assert blind(trial([(0.0, True), (0.02, False), (0.03, True)])) is False
    assert blind(trial([(0.0, True), (-0.1, True), (0.03, False)])) is True
    assert blind(trial([(0.0, True), (0.01, None)])) is None


@pytest.mark.parametrize(
    "record", [trial([(0.5, False)]), trial([], status="failed"), trial([(0, True)], goal="claim")]
)
def test_nothing_is_decided_where_he_has_nothing_to_take(record: Record) -> None:
    assert blind(record) is None


def test_old_records_do_not_say_what_he_saw() -> None:
    record = trial([(0.0, True)])
    del record["curve"][0]["seen"]
    assert blind(record) is None


def test_the_row_counts_both_thieves() -> None:
    """The oracle takes the weaker first point, the blind thief the second."""
    (row,) = ranking([trial([(0.0, False), (0.01, True)])])
    assert (row["survived"], row["removed"]) == (0, 1)
    assert (row["blind_survived"], row["blind_decided"]) == (1, 1)


@pytest.mark.parametrize(("distribution", "known"), [("owner", True), ("noise", False)])
def test_a_trial_records_what_the_thief_sees(distribution: str, known: bool) -> None:
    record = run(
        build(
            "watermark=uchida", "attack=prune", "task.limit=300", "task.recipe.epochs=2", "trainer.progress=false",
            "verification.random_keys=5", "verification.null_models=1", f"adversary.distribution={distribution}",
        )
    )  # fmt: skip
    seen = [point["seen"] for point in record["curve"]]
    assert all((one is not None) == known for one in seen)
    if known:
        assert len({one["marked"] for one in seen}) == 1
        assert seen[-1]["accuracy"] < seen[0]["accuracy"]

"""The verification matrix: what trials share of it."""

from pathlib import Path

import numpy as np
import pytest

from assay.core.examples import Ledger
from assay.core.scores import Scores
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.matrix import Matrix, calibrated, elsewhere
from assay.experiments.trial import Kind


@pytest.mark.parametrize(("scheme", "loaded"), [("honeytrace", 1), ("dawn", 2)])
def test_only_keys_that_settle_on_a_ledger_are_scored_in_every_trial(
    scheme: str, loaded: int, tmp_path: Path
) -> None:
    """honeytrace's keys are the same after any theft: its null models need not answer them again."""
    trial = build(f"watermark={scheme}", "attack=extract", "deployment=api_label", f"paths.cache={tmp_path}")
    model, calls = trial.task.fresh(0), 0
    found = [trial.watermark.keygen(trial.task, trial.secret("test", i), model) for i in range(2)]
    keys = [trial.watermark.settle(key, Ledger()) for key in found]

    def known() -> Suspects:
        nonlocal calls
        calls += 1
        return Suspects([model])

    first, again = (calibrated(trial, known, keys) for _ in range(2))
    assert calls == loaded
    np.testing.assert_array_equal(first.statistic_MK, again.statistic_MK)


def test_a_key_is_weighed_against_its_own_null_scores() -> None:
    """Nobody's models and rivals' apart, in the column of the key that is shown: not in the owner's."""
    kinds: list[Kind] = ["other_seed", "rival", "other_seed"]
    owners, thiefs = [0.0, 0.0, 9.0, 1.0, 2.0, 3.0], [0.0, 0.0, 5.0, 6.0, 1.0, 7.0]
    scores = Scores(np.array([owners, thiefs]).T, "cosine")
    found = Matrix(scores, [], range(0), {0: 1}, kinds, ("independent_models",), 0.1)
    mine, his = (found.weigh(Matrix.MARKED, key) for key in (0, 1))
    nulls = [(one.independent_models, one.rivals) for one in (mine, his)]
    counts = [[(n.count, n.exceed, n.highest) for n in pair if n is not None] for pair in nulls]
    assert counts == [[(2, 0, 3.0), (1, 0, 2.0)], [(2, 2, 7.0), (1, 0, 1.0)]]


@pytest.mark.parametrize(("student", "apart"), [("mlp", True), ("cnn_small", False)])
def test_null_models_are_no_null_for_another_architecture(student: str, apart: bool) -> None:
    """A student of another architecture than the victim's is not exchangeable with null models of the victim's."""
    trial = build("attack=extract", f"+model@attack.student={student}", "deployment=api_label")
    assert elsewhere(trial) is apart
    kinds: list[Kind] = ["other_seed"] * 99
    scores = Scores(np.array([[0.0, 0.0, 200.0, *range(99), 100.0]]).T, "cosine")
    found = Matrix(scores, [], range(0), {}, kinds, ("independent_models",), 0.01, apart)
    marked, stolen = found.weigh(Matrix.MARKED), found.weigh(found.surrogate(0))
    assert marked.detected
    assert (stolen.detected, stolen.log10_p) == ((None, 0.0) if apart else (True, pytest.approx(-2)))
    assert stolen.independent_models is not None, "what it was compared with is still shown"


def test_an_exact_law_holds_for_any_architecture() -> None:
    scores = Scores(np.array([[0.0, 0.0, 9.0, 9.0]]).T, "hits", 9, np.full((4, 1), -9.0))
    found = Matrix(scores, [], range(0), {}, [], (), 0.01, True)
    assert found.weigh(found.surrogate(0)).detected

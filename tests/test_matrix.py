"""The verification matrix: what trials share of it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.core.examples import Ledger
from assay.core.scores import Scores
from assay.core.suspects import Suspects
from assay.experiments import matrix, population
from assay.experiments.api import build
from assay.experiments.cache import Cache
from assay.experiments.config import CONF
from assay.experiments.matrix import Matrix, calibrated, elsewhere
from assay.experiments.people import Owner, task_of
from assay.experiments.trial import Kind
from assay.watermarks.adi import Adi


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


def test_scores_are_of_the_null_models_that_other_options_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of Assay may bring another adi_derived or mlp: models that it marks or trains are others, and so are scores."""
    asked: list[tuple[dict[str, Any], set[type]]] = []
    monkeypatch.setattr(matrix, "code_digest", lambda *parts: set(parts))
    monkeypatch.setattr(Cache, "scores", lambda _, config, code, make: asked.append((config, code)))
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(population, "CONF", tmp_path / "conf")

    def scored(null_models: str) -> tuple[dict[str, Any], set[type]]:
        trial = build(
            "watermark=uchida", f"verification.null_models={null_models}", f"paths.cache={tmp_path}"
        )
        key = trial.watermark.keygen(trial.task, trial.secret("test"), trial.task.fresh(0))
        calibrated(trial, lambda: Suspects([]), [key, key])
        return asked[-1]

    mixed = "{other_seed: 1, other_architecture: 1, other_mark: 1}"
    before, code = scored(mixed)
    assert Adi in code
    plain = scored("2")
    for option, old, new in (
        ("model/mlp", "width: 256", "width: 64"),
        ("watermark/adi_derived", "triggers: 100", "triggers: 50"),
    ):
        path = tmp_path / "conf" / f"{option}.yaml"
        path.write_text(path.read_text().replace(old, new))
        now, _ = scored(mixed)
        assert now != before
        before = now
    assert scored("2") == plain


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


def test_a_rivals_key_is_one_among_keys_for_his_own_model(tmp_path: Path) -> None:
    """honeytrace's keys hold what their owner's unmarked model answers. Under the owner's random keys his model scores 0 each time,
    and any other key lies above all of them or below: p would be 1 / 20 or 1."""
    few = ("verification.null_models=0", "verification.random_keys=19")
    trial = build("watermark=honeytrace", *few, f"paths.cache={tmp_path}")
    keygen, exceeded = trial.watermark.keygen, []
    for i in range(12):
        model, his = (trial.task.fresh(seed) for seed in (i, 100 + i))
        mine = Owner(keygen(trial.task, trial.secret("owner", i), model), model, model, 0, 0)
        key = keygen(task_of(trial, "rival"), trial.secret("rival", i), his)
        found = Matrix.measured(trial, mine, Owner(key, his, his, 0, 0), [], Ledger()).of_rival()
        assert found.source == "random_keys"
        assert found.random_keys is not None
        exceeded.append(found.random_keys.exceed)
    assert sum(0 < count < 19 for count in exceeded) >= 6  # 10.8 expected


def test_an_exact_law_holds_for_any_architecture() -> None:
    scores = Scores(np.array([[0.0, 0.0, 9.0, 9.0]]).T, "hits", 9, np.full((4, 1), -9.0))
    found = Matrix(scores, [], range(0), {}, [], (), 0.01, True)
    assert found.weigh(found.surrogate(0)).detected

"""The verification matrix: what trials share of it."""

from pathlib import Path

import numpy as np
import pytest

from assay.core.examples import Ledger
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.matrix import calibrated


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

"""Calibration: over-dispersion by simulation, what an observed rate allows to say, the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from assay.core.dispersion import dispersion
from assay.core.errors import ConfigError
from assay.core.scores import Scores
from assay.core.statistics import clopper_pearson, clustered_rate
from assay.experiments.calibrate.calibrate import calibration, null
from assay.experiments.calibrate.plot import sorted_p
from assay.experiments.calibrate.show import tell
from assay.experiments.cli import main
from assay.experiments.matrix import Matrix
from assay.experiments.trial import Kind

RUNS = 400


@pytest.mark.parametrize(("trials", "chance"), [(100, 0.1), (256, 0.5)])
def test_independent_hits_are_called_correlated_no_more_often_than_declared(
    trials: int, chance: float
) -> None:
    rng = np.random.default_rng(1)
    found = [dispersion(rng.binomial(trials, chance, 99), trials) for _ in range(RUNS)]
    share = np.mean([one.log10_p <= math.log10(0.05) for one in found])
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
    assert np.mean([one.rho for one in found]) < 0.002
    assert np.mean([one.mean for one in found]) == pytest.approx(chance, rel=0.01)


def test_correlated_hits_are_found_and_measured() -> None:
    """Beta-binomial draws of a known correlation: it is estimated without bias, and n trials count for n / (1 + (n - 1) rho)."""
    rng, rho = np.random.default_rng(2), 0.05
    a, b = 0.1 * (1 - rho) / rho, 0.9 * (1 - rho) / rho
    found = [dispersion(rng.binomial(100, rng.beta(a, b, 99)), 100) for _ in range(100)]
    assert np.mean([one.rho for one in found]) == pytest.approx(rho, rel=0.1)
    assert all(one.log10_p < -4 for one in found)
    assert found[0].effective == pytest.approx(100 / (1 + 99 * found[0].rho))
    known = dispersion([1, 9], 10)
    assert known.mean == pytest.approx(0.5, abs=1e-3)
    assert 0 < known.rho < 1


def test_all_or_nothing_is_one_trial() -> None:
    """Models that answer every trigger or none: the correlation is 1, and n trials tell as much as one."""
    found = dispersion([0, 0, 10, 10], 10)
    assert found.mean == pytest.approx(0.5, abs=1e-3)
    assert found.effective == pytest.approx(1, abs=1e-3)
    assert found.log10_p < -6


def test_equal_counts_estimate_nothing() -> None:
    assert math.isnan(dispersion([0] * 50, 100).rho)
    for bad in ([], [101], [-1], [[1, 2]]):
        with pytest.raises(ValueError, match="expected hits"):
            dispersion(bad, 100)


def test_the_p_of_no_correlation_is_half_a_chi_square() -> None:
    """rho = 0 is the end of its range; scipy's beta-binomial has the likelihood."""
    hits, n = np.array([0, 9, 10, 1, 5, 2]), 10
    found = dispersion(hits, n)
    a, b = (share * (1 - found.rho) / found.rho for share in (found.mean, 1 - found.mean))
    gain = float((stats.betabinom.logpmf(hits, n, a, b) - stats.binom.logpmf(hits, n, hits.mean() / n)).sum())
    assert 10**found.log10_p == pytest.approx(stats.chi2.sf(2 * gain, 1) / 2, rel=1e-4)


def test_the_interval_counts_draws_of_the_scarcer_kind() -> None:
    """Cells that share one model say as much as one model: 99 x 200 cells have the interval of 99 draws."""
    rng = np.random.default_rng(3)
    scores = Scores.binomial(rng.binomial(100, 0.1, (99, 200)), 100, 0.1, "hits")
    found = null("cells", scores, range(99), range(200), 99, 0.05)
    assert found.rate is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.rate <= found.high
    assert found.rate <= 0.05
    assert found.high - found.low > 0.05
    observed, expected = sorted_p(found)
    assert (observed[100:] >= expected[100:] - 0.15).all(), "no smaller than uniform p-values are"


def test_the_interval_of_cells_that_share_a_model_covers() -> None:
    """99 models x 200 keys whose rate is the model's own, mean 5 %: Clopper-Pearson over 19,800 cells misses it far too often."""
    rng, missed = np.random.default_rng(5), {"cells": 0, "units": 0}
    for _ in range(RUNS):
        claims = int(rng.binomial(200, rng.beta(0.5, 9.5, 99)).sum())
        for name, (low, high) in {
            "cells": clopper_pearson(claims, 99 * 200),
            "units": clustered_rate(claims, 99 * 200, 99),
        }.items():
            missed[name] += not low <= 0.05 <= high
    assert missed["units"] <= 0.05 * RUNS
    assert missed["cells"] > 0.3 * RUNS
    with pytest.raises(ValueError, match="units"):
        clustered_rate(1, 10, 11)


def test_models_that_cannot_be_read_are_no_draws_from_the_null() -> None:
    """They claim nothing, so counted among the models they would make any rate smaller than it is."""
    hits_MK = np.random.default_rng(6).binomial(100, 0.2, (3 + 40, 2 + 50)).astype(np.float64)
    hits_MK[-10:] = np.nan
    hits_MK[5, 7] = np.nan  # a key that has nothing to say of one model
    kinds: list[Kind] = ["other_seed" if i < 30 else "other_architecture" for i in range(40)]
    scores = Scores.binomial(hits_MK, 100, 0.1, "hits")
    found = Matrix(scores, [], range(2, 52), {}, kinds, ("random_keys",), 0.01)
    assert found.readable == found.nobodys[:30]
    size, claims = found.size(), int((scores.log10_p_MK[3:33, 2:] <= -2).sum())  # type: ignore[index]
    assert size == {"cells": 30 * 50 - 1, "claims": claims}
    assert found.claimed(0)["models"] == 30


def test_a_shared_rate_is_rounded_away_from_itself_on_either_side() -> None:
    """1 of 20 cells of 10 units is half a unit: none of 10 for the lower bound, one of 10 for the upper."""
    assert clustered_rate(1, 20, 10) == (0.0, clopper_pearson(1, 10)[1])
    assert clustered_rate(19, 20, 10) == (clopper_pearson(9, 10)[0], 1.0)


def test_an_interval_excludes_a_tail_that_lies() -> None:
    """Hits at 0.2 tested as 0.1: the observed rate is shown to exceed the declared one."""
    rng = np.random.default_rng(4)
    scores = Scores.binomial(rng.binomial(100, 0.2, (99, 1)), 100, 0.1, "hits")
    found = null("models", scores, range(99), [0], 99, 0.01)
    assert found.low is not None
    assert found.low > 0.01


def matrix(models: int, keys: int, tail: bool, mark: float = 30.0) -> Matrix:
    """Hits of 100 at 0.1 everywhere, less than 30, but for the owner's key on the marked model."""
    hits_MK = np.random.default_rng(8).binomial(100, 0.1, (3 + models, 2 + keys)).astype(np.float64)
    hits_MK[2, 0] = mark
    scores = Scores.binomial(hits_MK, 100, 0.1, "hits") if tail else Scores(hits_MK, "hits")
    valid = ("random_keys", "independent_models") if keys else ("independent_models",)
    return Matrix(scores, [], range(2, 2 + keys), {}, ["other_seed"] * models, valid, 0.01)


def told(found: Matrix, capsys: pytest.CaptureFixture[str]) -> str:
    tell(calibration(found), "mine", Console(width=132))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("models", "keys", "words"),
    [
        (8, 0, "1 of 1 at 11.1 %; p supports no rate below 11.1 %"),
        (99, 0, "1 of 1 at 1 %; p supports no rate below 1 %"),
        (8, 200, "1 of 1 at 1 %, 1 of 1 at 0.498 %; p supports no rate below 0.498 %"),
    ],
)
def test_an_empirical_null_is_asked_for_no_rate_below_its_own(
    models: int, keys: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(matrix(models, keys, tail=False), capsys)
    assert words in said
    of = f"{keys} random keys" if keys else f"{models} independent models"
    assert f"p is the rank among {of}" in said


def test_an_exact_tail_is_asked_for_every_rate_and_says_what_its_nulls_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """30 of 100 at 0.1: p = 2e-8; 25: 1e-5. 1 of these 99 models is claimed, which bounds the rate by 4.7 %."""
    found = matrix(99, 0, tail=True)
    said = told(found, capsys)
    assert "1 of 1 at 1 %, 1 of 1 at 0.1 %, 1 of 1 at 0.0001 %" in said
    (models,) = calibration(found).nulls
    assert (models.claims, models.auroc) == (1, 1.0)
    assert models.bound == pytest.approx(stats.beta.ppf(0.95, 2, 98))
    assert "it is at most 4.7 % (owner's key, independent models)" in said
    assert "0 of 1 at 0.0001 %" in told(matrix(99, 0, tail=True, mark=25), capsys)


def test_the_area_counts_ties_half_and_is_none_of_an_unreadable_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hits_M = np.array([[9.0], [9], [10], [9], [10], [11], [12], [np.nan]])
    scores = Scores(hits_M, "hits")
    found = null("models", scores, [3, 4, 5, 7], [0], 3, 0.01)
    assert found.auroc == pytest.approx((1 + 1 / 2) / 3)
    two_sided = null("models", Scores(hits_M, "hits", centre=11), [3, 4, 5], [0], 3, 0.01)
    assert two_sided.auroc == pytest.approx((1 + 1 / 2) / 3)
    assert "nan" not in told(matrix(2, 2, tail=True, mark=math.nan), capsys)


@pytest.mark.parametrize("tail", [True, False])
def test_nothing_is_said_without_a_null(tail: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"found none that can be read; set verification.null_models=99"):
        calibration(matrix(0, 0, tail))
    assert "nan" not in told(matrix(1, 1, tail=True), capsys)
    assert "independent models" not in told(matrix(0, 9, tail=True), capsys)


def test_unreadable_models_are_left_out() -> None:
    scores = Scores.binomial(np.array([[10.0], [np.nan], [12.0]]), 100, 0.1, "hits")
    found = null("models", scores, range(3), [0], 3, 0.01)
    assert found.statistics == [10.0, 12.0]
    assert found.dispersion is not None


@pytest.mark.slow
def test_the_command_tells_stores_and_draws(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["task.limit=300", "task.recipe.epochs=1", "verification=standard", "verification.null_models=5"]
    assert (
        main(["calibrate", "watermark=adi_derived", *small, f"paths.runs={runs}", "trainer.progress=false"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "random keys, independent models" in shown
    (path,) = (runs / "calibrate").glob("*.json")
    stored = json.loads(path.read_text())
    counts = [len(one["statistics"]) for one in stored["nulls"]]
    assert counts == [5, 200, 1000]
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert main(["calibrate", "watermark=none", *small, f"paths.runs={runs}"]) == 2
    assert "has no null before a theft" in capsys.readouterr().err

"""Marks of data: the exact law of carriers, margins of seen and unseen inputs, bad input."""

import math
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from assay.core.directions import cosine_log10_p, fisher_log10_p
from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.watermarks.dataset_inference import linear_margins, margins, welch_t
from assay.watermarks.radioactive import mean_gradients


@cache
def trial(name: str, *overrides: str) -> Trial:
    return build(f"watermark={name}", "trainer.progress=false", *overrides)


@cache
def victim() -> nn.Module:
    it = trial("none")
    return clean(it, it.seed)[0]


def test_cosine_law_in_three_dimensions_is_uniform() -> None:
    """On the sphere of R^3 the cosine is uniform on [-1, 1] (Archimedes)."""
    cosines = np.array([-1.0, -0.5, 0.0, 0.3, 0.999, 1.0])
    found = 10 ** cosine_log10_p(cosines, 3)
    assert found.tolist() == pytest.approx(((1 - cosines) / 2).tolist(), abs=1e-12)


def test_cosine_law_in_two_dimensions_is_an_arc() -> None:
    assert 10 ** float(cosine_log10_p(0.5, 2)) == pytest.approx(math.acos(0.5) / math.pi, abs=1e-12)


def test_cosine_tail_stays_exact_where_doubles_end() -> None:
    """Below 1e-308 too, where a large cosine meets few dimensions and where a small one meets many."""
    mpmath.mp.dps = 40
    for cosine, dimensions in (
        (0.3, 785),
        (0.9, 785),
        (0.95, 785),
        (0.5, 10_000),
        (0.3, 20_000),
        (0.2, 50_000),
    ):
        half = mpmath.mpf(dimensions - 1) / 2
        whole = mpmath.betainc(half, mpmath.mpf(1) / 2, 0, 1 - mpmath.mpf(cosine) ** 2, regularized=True)
        expected = float(mpmath.log10(whole / 2))
        assert float(cosine_log10_p(cosine, dimensions)) == pytest.approx(expected, rel=1e-9)
    assert float(cosine_log10_p(0.95, 785)) < -390


def test_fisher_agrees_with_the_chi_square_tail() -> None:
    log10_p = np.log10([[0.01, 0.2, 0.5], [1.0, 1.0, 1.0]])
    expected = stats.chi2.sf(-2 * math.log(10) * log10_p.sum(1), 6)
    assert (10 ** fisher_log10_p(log10_p)).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    # Ten p of 1e-200: far below the doubles, still finite.
    assert -2000 < float(fisher_log10_p(np.full(10, -200.0))) < -1960
    assert fisher_log10_p(np.empty((2, 0))).tolist() == [0.0, 0.0]  # no p is no evidence


def test_directions_refuse_what_is_no_cosine() -> None:
    for cosine, dimensions in ((1.5, 10), (math.nan, 10), (0.5, 1)):
        with pytest.raises(ValueError, match="expected cosines"):
            cosine_log10_p(cosine, dimensions)


def test_carriers_are_unit_vectors_of_the_secret_alone() -> None:
    it = trial("radioactive")
    keys: list[Any] = [it.watermark.keygen(it.task, Secret.simulated(s)) for s in (1, 1, 2)]
    one, same, other = (key.carriers() for key in keys)
    assert torch.equal(one, same)
    assert float((one * other).sum(1).abs().max()) < 0.6
    assert torch.allclose(one.norm(dim=1), torch.ones(10, dtype=torch.float64))


@pytest.mark.slow
def test_radioactive_p_is_uniform_over_random_keys() -> None:
    """The law is continuous and exact: 300 strangers' keys on an unmarked model are uniform (Kolmogorov-Smirnov, 1e-4)."""
    it = trial("radioactive")
    keys = [it.watermark.keygen(it.task, Secret.simulated(7, k)) for k in range(300)]
    log10_p_MK = it.watermark.score(Suspects([victim()]), keys).log10_p_MK
    assert log10_p_MK is not None
    assert stats.kstest(10 ** log10_p_MK[0], "uniform").pvalue > 1e-4


def test_radioactive_reads_the_rows_of_a_linear_classifier() -> None:
    """Its gradients are its rows less their mean, wherever they are read: the paper's setting without alignment."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    layer: Any = linear[1]
    found = mean_gradients(linear, torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 10)
    expected = layer.weight.detach().double() - layer.weight.detach().double().mean(0)
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-6)
    it = trial("radioactive")
    key: Any = it.watermark.keygen(it.task, Secret.simulated(1))
    with torch.no_grad():
        layer.weight.copy_(key.carriers().float())
    scores = it.watermark.score(Suspects([linear, victim()]), [key])
    assert scores.statistic_MK[0, 0] > 0.9
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[0, 0] < -200
    assert scores.law == "fisher"


def test_marks_are_small_8_bit_changes_of_a_share_of_the_data() -> None:
    it = trial("radioactive", "watermark.share=0.25")
    scheme: Any = it.watermark
    data, key = it.task.owner, scheme.keygen(it.task, Secret.simulated(1))
    before = data.inputs.clone()
    marked = scheme.marked(key, data)
    assert torch.equal(data.inputs, before)
    changed = (marked.inputs != data.inputs).flatten(1).any(1)
    assert int(changed.sum()) == round(0.25 * len(data))
    assert torch.equal(marked.targets, data.targets)
    pixels = marked.inputs[changed] * 255
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)
    rms = (marked.inputs - data.inputs)[changed].square().mean().sqrt()
    assert float(rms) < scheme.strength


def test_a_share_that_marks_nothing_is_refused() -> None:
    it = trial("radioactive", "watermark.share=0.0001")
    scheme: Any = it.watermark
    with pytest.raises(ConfigError, match=r"set watermark\.share=1\.0"):
        scheme.marked(scheme.keygen(it.task, Secret.simulated(1)), it.task.owner)


def test_a_suspect_with_other_classes_is_no_evidence() -> None:
    it = trial("radioactive")
    twenty = nn.Sequential(nn.Flatten(), nn.Linear(64, 20)).eval()
    scores = it.watermark.score(Suspects([twenty]), [it.watermark.keygen(it.task, Secret.simulated(1))])
    assert np.isnan(scores.statistic_MK[0, 0])
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[0, 0] == 0


class Labels(nn.Module):
    """A suspect that answers labels, as one-hot scores."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.one_hot(inputs.flatten(1).sum(1).long() % 10, 10).float()


@pytest.mark.parametrize("scheme", ["radioactive", "dataset_inference"])
def test_a_suspect_without_gradients_is_no_evidence(scheme: str) -> None:
    it = trial(scheme)
    key = it.watermark.keygen(it.task, Secret.simulated(1), victim())
    scores = it.watermark.score(Suspects([Labels()]), [key])
    assert np.isnan(scores.statistic_MK[0, 0])
    assert scores.extremity_MK[0, 0] == -np.inf


def test_welch_t_agrees_with_scipy() -> None:
    one, other = torch.sin(torch.arange(30.0)).double(), torch.cos(1.7 * torch.arange(40.0)).double() + 0.1
    expected: Any = stats.ttest_ind(one, other, equal_var=False)
    assert welch_t(one, other) == pytest.approx(expected.statistic)
    assert welch_t(torch.ones(3), torch.zeros(3)) == 0


def plane() -> nn.Module:
    """Class 1 right of x = 0.5, by a lead of 4 (x - 0.5) in the first pixel."""
    linear = nn.Linear(64, 2)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1, 0] = 4.0
        linear.bias.copy_(torch.tensor([2.0, 0.0]))
    return nn.Sequential(nn.Flatten(), linear).eval()


def test_margins_of_a_plane_are_distances_to_it() -> None:
    inputs = torch.zeros(3, 1, 8, 8)
    inputs[:, 0, 0, 0] = torch.tensor([0.1, 0.9, 0.9])
    labels = torch.tensor([0, 1, 0])
    found = linear_margins(plane(), inputs, labels, "cpu")
    assert found is not None
    assert found.tolist() == pytest.approx([0.4, 0.4, -0.4], abs=1e-6)
    step = torch.zeros(3, 1, 8, 8)
    step[:, 0, 0, 0] = torch.tensor([0.06, 0.06, 0.06])
    # 0.1 + 0.06 i <= 0.5 for i = 0..6; the second walks away from the plane; the third is wrong at once.
    assert margins(plane(), inputs, labels, step, 20, "cpu").tolist() == [7, 20, 0]


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_walks_step_by_the_set_deviation(noise: str) -> None:
    it = trial("dataset_inference", f"watermark.noise={noise}")
    scheme: Any = it.watermark
    key = scheme.keygen(it.task, Secret.simulated(1))
    steps: Tensor = scheme.steps_of(key, 0)
    assert float(steps.std()) == pytest.approx(scheme.step, rel=0.02)
    assert torch.equal(steps, scheme.steps_of(key, 0))
    assert not torch.equal(steps, scheme.steps_of(key, 1))


def test_too_many_samples_are_refused() -> None:
    it = trial("dataset_inference", "watermark.samples=9999")
    with pytest.raises(ConfigError, match=r"set watermark\.samples="):
        it.watermark.keygen(it.task, Secret.simulated(1))
    short = trial("dataset_inference", "watermark.samples=5")
    key = short.watermark.keygen(short.task, Secret.simulated(1))
    with pytest.raises(ValueError, match=r"watermark\.samples"):
        trial("dataset_inference").watermark.score(Suspects([victim()]), [key])

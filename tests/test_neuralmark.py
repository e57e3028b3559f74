"""NeuralMark's constants and loss, and the networks whose layers are large enough for them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.core.errors import NotApplicable
from assay.core.examples import Examples
from assay.core.secret import Secret
from assay.experiments.api import build
from assay.watermarks.neuralmark import GRID, HashKey, NeuralMark, kept, whole_matrix

LAYER = "net.block3.conv"


def scheme(*overrides: str) -> tuple[NeuralMark, Any]:
    it = build("watermark=neuralmark", "trainer.progress=false", *overrides)
    assert isinstance(it.watermark, NeuralMark)
    return it.watermark, it.task


def test_defaults_are_those_of_the_official_trainings() -> None:
    """A vector of 512 weights, four rounds, lambda 1."""
    mark, _ = scheme()
    assert (mark.pooled, mark.rounds, mark.strength) == (512, 4, 1.0)
    assert NeuralMark(LAYER) == mark


def test_the_penalty_is_the_mean_cross_entropy_of_the_projected_means() -> None:
    """Written anew in float64: the repeated bits mask the layer round by round, runs of what is left are averaged to 512."""
    mark, task = scheme()
    key = mark.keygen(task, Secret.simulated(5))
    penalty: Any = None

    def fit(model: nn.Module, data: Examples, **asked: Any) -> nn.Module:
        nonlocal penalty
        penalty = asked["penalty"]
        return model

    mark.embed(task.fresh(None), key, task, fit)
    live = task.fresh(9)
    left: Tensor = live.get_submodule(LAYER).weight.detach().double().flatten()
    for _ in range(4):
        repeated = key.bits_B.repeat(-(-len(left) // 256))[: len(left)]
        left = left[repeated == 1]
    edges = [(i * len(left) // 512, -(-(i + 1) * len(left) // 512)) for i in range(512)]
    pooled = torch.stack([left[start:end].mean() for start, end in edges])
    logits = pooled @ (whole_matrix(key.secret, 512).double() / GRID)
    signs = 2 * key.bits_B.double() - 1
    expected = nn.functional.softplus(-signs * logits).mean()
    assert float(penalty(live).detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) == pytest.approx(math.log(2), rel=0.5)


@pytest.mark.parametrize("model", ["cnn_small", "mlp", "resnet18", "vit_tiny"])
def test_layers_of_every_picture_network_keep_enough_weights(model: str) -> None:
    mark, task = scheme(f"model={model}")
    for number in range(3):
        key = mark.keygen(task, Secret.simulated(6, number))
        assert isinstance(key, HashKey)
        assert len(kept(key.bits_B, key.weights, 4)) >= key.pooled == 512


def test_a_narrow_layer_is_refused_with_the_length_that_fits() -> None:
    mark, task = scheme("model.width=8")
    with pytest.raises(
        NotApplicable, match=r"2304 weights.*fewer than watermark\.pooled=512; set watermark\.pooled"
    ):
        mark.keygen(task, Secret.simulated(1))

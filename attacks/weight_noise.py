"""Gaussian noise on every convolution and linear layer, relative to its own spread: no data, no training.

theta_l + N(0, (s std_l)^2), the plain baseline of every attack on weights; no paper claims it. One draw, scaled: the trajectory
is a ray.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import nn

from ..core.theft import Access, Adversary, Attack, Surrogate
from .prune import prunable
from .trajectory import drawing


@torch.no_grad()
def noisy(model: nn.Module, scale: float, generator: torch.Generator) -> nn.Module:
    """A copy with noise of `scale` times each layer's standard deviation on its weight."""
    model = copy.deepcopy(model)
    for _, layer in prunable(model):
        layer.weight += scale * layer.weight.std() * torch.randn(layer.weight.shape, generator=generator)
    return model


@dataclass(frozen=True)
class WeightNoise(Attack):
    needs = "weights"
    data = "none"
    axis = "noise to weights"
    paper = "none"

    scales: tuple[Annotated[float, Gt(0)], ...] = (0.05, 0.1, 0.2, 0.5)
    """Standard deviations of the noise, in those of each layer."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for scale in sorted(self.scales):
            yield Surrogate(scale, noisy(model, scale, drawing(adversary, "noise")))

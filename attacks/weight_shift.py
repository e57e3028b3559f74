"""Shift every convolution against its own mean filter, add noise, fine-tune (Lukas et al., S&P 2022, arXiv:2108.04974).

theta <- theta - shift x mean over filters - N(0, (noise std_l)^2). The mean filter becomes (1 - shift) times itself: beyond 1 it
points the other way, so marks in it are inverted, not removed, and a one-sided test is fooled.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import nn

from ..core.contracts import Recipe
from ..core.errors import NotApplicable
from ..core.theft import Access, Adversary, Attack, Surrogate
from .prune import CONVOLUTIONS
from .trajectory import drawing


@torch.no_grad()
def shifted(model: nn.Module, shift: float, noise: float, generator: torch.Generator) -> nn.Module:
    """A copy with every convolution shifted. NotApplicable when there is none."""
    model = copy.deepcopy(model)
    layers = [module for module in model.modules() if isinstance(module, CONVOLUTIONS)]
    if not layers:
        raise NotApplicable("the network has no convolution whose mean filter could be shifted")
    for layer in layers:
        drawn = torch.randn(layer.weight.shape, generator=generator)
        layer.weight -= shift * layer.weight.mean(0) + noise * layer.weight.std() * drawn
    return model


@dataclass(frozen=True)
class WeightShift(Attack):
    needs = "weights"
    data = "labelled"
    axis = "shift"
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    recipe: Recipe
    """Of the fine-tuning that follows; 10 epochs in the study."""
    shifts: tuple[Annotated[float, Gt(0)], ...] = (1.5, 2.5)
    """lambda; 1.5 or 2.5 in the study's configurations."""
    noise: Annotated[float, Ge(0)] = 1.0
    """In standard deviations of each layer; 1 in the study."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for shift in sorted(self.shifts):
            moved = shifted(model, shift, self.noise, drawing(adversary, "noise"))
            tuned = adversary.fit(moved, adversary.data, recipe=self.recipe, label=f"shifted by {shift}")
            yield Surrogate(shift, tuned)

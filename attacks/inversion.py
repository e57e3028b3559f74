"""Trigger inversion (Wang et al., S&P 2019, "Neural Cleanse"): the smallest stamp that sends every input to one class.

stamp(x) = (1 - m) x + m p with one mask m for all channels and a pattern p, both in [0, 1]; minimise
cross-entropy(stamp(x), class) + sparsity x |m|_1 over the inputs of the other classes. All stamps are found at once. Labels are not
used: an input's class is what the model says. Suffixes: K classes, N inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Adversary
from .perturb import evaluating
from .trajectory import drawing

ANOMALY = 2.0
"""Deviations beyond which a class counts as infected, section IV."""
MAD = 1.4826
"""From a median absolute deviation to a normal's standard deviation, section IV."""


class Stamp(nn.Module):
    """Mask (1, H, W) and pattern (C, H, W) of one class, through (tanh + 1) / 2 of free parameters."""

    def __init__(self, shape: torch.Size, generator: torch.Generator) -> None:
        super().__init__()
        self.free_mask = nn.Parameter(torch.randn(1, *shape[1:], generator=generator))
        self.free_pattern = nn.Parameter(torch.randn(shape, generator=generator))

    @property
    def mask(self) -> Tensor:
        return (self.free_mask.tanh() + 1) / 2

    @property
    def pattern(self) -> Tensor:
        return (self.free_pattern.tanh() + 1) / 2

    def forward(self, inputs: Tensor) -> Tensor:
        return (1 - self.mask) * inputs + self.mask * self.pattern


@dataclass(frozen=True)
class Inverted:
    """The stamp of every class, and the classes that stand out by how little they need."""

    stamps: Sequence[Stamp]
    suspected: list[int]

    @torch.no_grad()
    def stamped(self, inputs: Tensor) -> Tensor:
        """The inputs in turn with the suspected classes' stamps."""
        out = inputs.clone()
        for turn, label in enumerate(self.suspected):
            rows = slice(turn, None, len(self.suspected))
            out[rows] = self.stamps[label](inputs[rows])
        return out


def inverting(stamps: Sequence[Stamp], sparsity: float) -> Objective:
    """The sum of the stamps' losses, each a mean over those inputs of the batch that the model does not see in its class."""

    def objective(live: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
        wanted_K = torch.arange(len(stamps), device=inputs.device)
        with evaluating(live):
            with torch.no_grad():
                said_N = live(inputs).argmax(-1)
            scores = live(torch.cat([stamp(inputs) for stamp in stamps]))
        wanted_KN = wanted_K[:, None].expand(-1, len(inputs))
        losses_KN = functional.cross_entropy(scores, wanted_KN.flatten(), reduction="none").view_as(wanted_KN)
        other_KN = (said_N != wanted_KN).to(losses_KN.dtype)
        mean_K = (losses_KN * other_KN).sum(1) / other_KN.sum(1).clamp_min(1)
        size = torch.stack([stamp.mask.sum() for stamp in stamps]).sum()
        loss: Tensor = mean_K.sum() + sparsity * size
        return loss

    return objective


def invert(adversary: Adversary, model: nn.Module, recipe: Recipe, sparsity: float) -> Inverted:
    """Optimise a stamp per class on the thief's inputs, the model frozen."""
    shape = adversary.data.inputs.shape[1:]
    stamps = [Stamp(shape, drawing(adversary, "stamp", label)) for label in range(adversary.classes)]
    together = nn.ModuleList(stamps)
    adversary.fit(
        model,
        adversary.data,
        recipe=recipe,
        objective=inverting(stamps, sparsity),
        along=together,
        only=(),
        label="stamps",
    )
    together.to("cpu").requires_grad_(False)
    return Inverted(stamps, suspects([float(stamp.mask.sum()) for stamp in stamps]))


def suspects(norms: Sequence[float]) -> list[int]:
    """Classes whose mask is smaller than the median by more than 2 deviations; the smallest alone when there is none, so that the
    attack always acts."""
    values = torch.tensor(norms, dtype=torch.float64)
    distance = values.median() - values
    deviation = MAD * distance.abs().median()
    found = (distance > ANOMALY * deviation).nonzero().flatten().tolist()
    return found or [int(values.argmin())]

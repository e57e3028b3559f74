"""Mode connectivity repair (Zhao et al., ICLR 2020, arXiv:2005.00060): a point on a curve of low loss from the stolen model to a
fine-tuned copy.

theta(t) = (1-t)^2 theta_stolen + 2t(1-t) theta + t^2 theta_tuned (Garipov et al., NeurIPS 2018), theta trained at uniform t from
the mean of the two ends. Half of the thief's data tunes the end, the other half trains the curve, as in the attacks of Gan et al.,
ICCV 2023. Batch norms take their statistics from all of the thief's inputs at every point.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .blend import flat, placed, refreshed


def bezier(t: Tensor | float, start: Tensor, bend: Tensor, end: Tensor) -> Tensor:
    """The quadratic curve."""
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end


def along_curve(start: nn.Module, end: nn.Module) -> Objective:
    """Cross-entropy at a random point of the curve whose bend is the live model."""
    ends = {name: (p.detach(), end.get_parameter(name).detach()) for name, p in start.named_parameters()}

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        t = torch.rand((), device=inputs.device)
        point = {
            name: bezier(t, ends[name][0].to(p.device), p, ends[name][1].to(p.device))
            for name, p in live.named_parameters()
        }
        return functional.cross_entropy(functional_call(live, point, (inputs,)), targets)

    return objective


@dataclass(frozen=True)
class Mcr(Attack):
    needs = "weights"
    data = "labelled"
    axis = "position on the curve"
    paper = "Zhao et al., ICLR 2020, arXiv:2005.00060"

    end: Recipe
    """Of the fine-tuned copy; 50 epochs from 0.05, a tenth after every 10, in the attacks of Gan et al., ICCV 2023."""
    curve: Recipe
    """Of the bend; 100 epochs at 0.01 there, falling in the second half, where ours falls by a cosine over 50."""
    positions: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.1, 0.3, 0.5)
    """t; the midpoint there."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        start, data = access.weights(), adversary.data
        half = len(data) // 2
        end = adversary.fit(start, data.take(slice(0, half)), recipe=self.end, label="end of the curve")
        between = placed(start, (flat(start) + flat(end)) / 2)
        rest = data.take(slice(half, None))
        bend = adversary.fit(
            between, rest, recipe=self.curve, objective=along_curve(start, end), label="curve"
        )
        for t in sorted(self.positions):
            point = placed(start, bezier(t, flat(start), flat(bend), flat(end)))
            yield Surrogate(t, refreshed(point, data.inputs))

"""Neural attention distillation (Li et al., ICLR 2021, arXiv:2101.05930): a fine-tuned copy teaches the stolen model where to look.

Attention of a layer: the mean square of its rectified channels at every position, a unit vector per example. The student's loss is
cross-entropy + beta x mean squared difference of attentions, summed over layers. Of features without positions the squares
themselves are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .neurons import channels_last, neurons, recorded
from .trajectory import followed


def attention(output: Tensor) -> Tensor:
    """(N, positions), each row of length 1."""
    squares = channels_last(output).relu().square()
    return functional.normalize(squares.mean(-1).flatten(1) if squares.ndim > 2 else squares)


def spread(model: nn.Module, count: int) -> list[str]:
    """`count` layers at equal steps of depth, the last before the classifier among them."""
    names = [which.carrier for which in neurons(model)]
    chosen = {max(0, round((i + 1) * len(names) / count) - 1) for i in range(count)}
    return [names[i] for i in sorted(chosen)]


def taught(teacher: nn.Module, names: Sequence[str], beta: float) -> Objective:
    """Cross-entropy and the attention loss against a frozen teacher."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad(), recorded(teacher, names) as theirs:
            teacher.to(inputs.device)(inputs)
        with recorded(live, names) as mine:
            loss = functional.cross_entropy(live(inputs), targets)
        pairs = [(attention(mine[name]), attention(theirs[name])) for name in names]
        return loss + beta * torch.stack([functional.mse_loss(*pair) for pair in pairs]).sum()

    return objective


@dataclass(frozen=True)
class Nad(Attack):
    needs = "weights"
    data = "labelled"
    axis = "distillation epochs"
    paper = "Li et al., ICLR 2021, arXiv:2101.05930"

    teacher: Recipe
    """Of the fine-tuned copy; 10 epochs in the attacks of Gan et al., ICCV 2023."""
    recipe: Recipe
    """Of the distillation; 10 epochs at 0.02 there."""
    beta: Annotated[float, Ge(0)] = 2000.0
    """Per layer; 2000 there."""
    layers: Annotated[int, Ge(1)] = 3
    """The paper takes the three stages of a WideResNet; here so many layers at equal steps of depth."""
    report: tuple[int, ...] = (1, 2, 5, 10)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        names = spread(model, self.layers)
        teacher = adversary.fit(model, adversary.data, recipe=self.teacher, label="teacher")
        objective = taught(teacher.requires_grad_(False), names, self.beta)
        yield from followed(
            adversary, model, self.recipe, self.report, objective=objective, label="distilling attention"
        )

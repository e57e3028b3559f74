"""Neural attention distillation (Li et al., ICLR 2021, arXiv:2101.05930): a fine-tuned copy teaches the stolen model where to look.

Attention of a layer: the mean square of its rectified channels at every position, a unit vector per example. The student's loss is
cross-entropy + beta x mean squared difference of attentions, summed over layers. Of features without positions the squares
themselves are compared. The mean over a map's positions makes the same beta weigh sixteen times as much on pictures of 8x8 as on
the 32x32 of the papers; beta is therefore scaled by the input's positions over 1,024, so that a map of full resolution, or of half,
weighs the same on pictures of any size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .neurons import channels_last, neurons, recorded, residual_blocks
from .trajectory import followed

POSITIONS = 32 * 32
"""Of the pictures that beta is stated for: CIFAR-10's."""


def attention(output: Tensor) -> Tensor:
    """(N, positions), each row of length 1."""
    squares = channels_last(output).relu().square()
    return functional.normalize(squares.mean(-1).flatten(1) if squares.ndim > 2 else squares)


def spread(model: nn.Module, count: int) -> list[str]:
    """`count` layers at equal steps of depth, the last before the classifier among them. A residual network's are its blocks; two
    per stage, four of them are the ends of ResNet-18's stages."""
    names = residual_blocks(model) or [which.carrier for which in neurons(model)]
    chosen = {max(0, round((i + 1) * len(names) / count) - 1) for i in range(count)}
    return [names[i] for i in sorted(chosen)]


def positions(inputs: Tensor) -> int:
    """Pixels of pictures, entries of anything else."""
    return math.prod(inputs.shape[2:]) if inputs.ndim == 4 else inputs[0].numel()


def taught(teacher: nn.Module, names: Sequence[str], beta: float) -> Objective:
    """Cross-entropy and the attention loss against a frozen teacher."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad(), recorded(teacher, names) as theirs:
            teacher.to(inputs.device)(inputs)
        with recorded(live, names) as mine:
            loss = functional.cross_entropy(live(inputs), targets)
        pairs = [(attention(mine[name]), attention(theirs[name])) for name in names]
        weight = beta * positions(inputs) / POSITIONS
        return loss + weight * torch.stack([functional.mse_loss(*pair) for pair in pairs]).sum()

    return objective


@dataclass(frozen=True)
class Nad(Attack):
    needs = "weights"
    data = "labelled"
    axis = "distillation epochs"
    paper = "Li et al., ICLR 2021, arXiv:2101.05930"

    teacher: Recipe
    """Of the fine-tuned copy; 10 epochs from 0.02, a tenth after every 2, in the attacks of Gan et al., ICCV 2023."""
    recipe: Recipe
    """Of the distillation: 20 epochs, the authors' number, a tenth after every fifth of them as in Gan et al. The first rate is 0.1
    with the authors, for 80 steps, and 0.02 in Gan et al., for 314. On digits, where a fifth of the epochs is 20 steps, 0.02 for 10
    of them removes nothing, and 0.1 costs 2 to 6 pp of accuracy for good; it is 0.05."""
    beta: Annotated[float, Ge(0)] = 4000.0
    """Per layer, for pictures of 32x32. The last map of a small network, of half resolution, weighs 4000/256, as the authors' last
    one does at 1000/64; their first two have 500 and 1000, and all of Gan et al. have 2000."""
    layers: Annotated[int, Ge(1)] = 3
    """The authors take the three stages of a WideResNet, Gan et al. the four of a ResNet-18; here so many layers at equal steps of
    depth."""
    report: tuple[int, ...] = (1, 2, 5, 10, 20)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        names = spread(model, self.layers)
        teacher = adversary.fit(model, adversary.data, recipe=self.teacher, label="teacher")
        objective = taught(teacher.requires_grad_(False), names, self.beta)
        yield from followed(
            adversary, model, self.recipe, self.report, objective=objective, label="distilling attention"
        )

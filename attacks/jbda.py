"""Jacobian-based data augmentation (Papernot et al., AsiaCCS 2017, arXiv:1602.02697): from a few seeds, ask where the student's
answer changes fastest. Every round doubles the transfer set; lambda changes sign every `period` rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import affordable, shuffled, student


def stepped(model: nn.Module, data: Examples, size: float) -> Tensor:
    """x + size * sign of the gradient of the student's output for the victim's label, in [0, 1]."""
    inputs = data.inputs.clone().requires_grad_(True)
    outputs = model(inputs).gather(1, data.targets.clamp_min(0)[:, None]).sum()
    (gradient,) = torch.autograd.grad(outputs, inputs)
    return (inputs.detach() + size * gradient.sign()).clamp(0, 1)


@dataclass(frozen=True)
class Jbda(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    pictures_only = True
    paper = "Papernot et al., AsiaCCS 2017, arXiv:1602.02697"

    seeds: Annotated[int, Ge(2)] = 150
    """150 in the paper; DeepJudge's code takes 150 to 1,000."""
    rounds: Annotated[int, Ge(0)] = 3
    """Of augmentation: 2^3 times the seeds. 6 in the paper."""
    size: Annotated[float, Gt(0)] = 0.1
    """lambda, as in the paper; 0.01 in DeepJudge's code."""
    period: Annotated[int, Ge(1)] = 2
    """tau of the periodical step (Papernot et al. 2016, arXiv:1605.07277); 2 in DeepJudge's code. Rounds count from 0, as in
    the paper's algorithm; DeepJudge counts from 1, so that its sign changes a round earlier."""
    epochs: Annotated[int, Ge(1)] = 20
    student: Any = None

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        seeds = shuffled(adversary)[: affordable(adversary, self.seeds)]
        data = Examples(seeds, access.labels(seeds))
        for i in range(self.rounds + 1):
            model = student(adversary, self.student, data, self.epochs)
            yield Surrogate(float(len(data)), model)
            room = affordable(adversary, 2 * len(data)) - len(data)
            if i == self.rounds or room < 1:
                return
            sign = 1 if (i // self.period) % 2 == 0 else -1
            new = stepped(model, data.take(slice(0, room)), sign * self.size)
            data = data.join(Examples(new, access.labels(new)))

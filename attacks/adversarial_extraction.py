"""Extraction with adversarial training of the student (Lukas et al., S&P 2022): hard labels, and a few inputs perturbed by PGD
beside the clean ones. The study perturbs them once an epoch, here every batch gets its own, against the student as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import growing, student, within_budget
from .perturb import adversarial


def beside(epsilons: tuple[float, ...], share: float, steps: int) -> Objective:
    """Cross-entropy on a batch, and on perturbed copies of other examples of it for every epsilon: a share each, at least one."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        count = max(1, round(share * len(inputs)))
        moved, labels = [inputs], [targets]
        for i, epsilon in enumerate(epsilons):
            own = torch.arange(i * count, (i + 1) * count) % len(inputs)
            moved.append(adversarial(live, inputs[own], targets[own], epsilon, steps))
            labels.append(targets[own])
        return functional.cross_entropy(live(torch.cat(moved)), torch.cat(labels))

    return objective


@dataclass(frozen=True)
class AdversarialExtraction(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    pictures_only = True
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    epsilons: tuple[Annotated[float, Gt(0)], ...] = (0.01, 0.1, 0.25)
    """In units of the pixel range; the study's."""
    share: Annotated[float, Gt(0), Le(1)] = 0.02
    """Of the transfer set, perturbed in an epoch for each epsilon: the study's 1,000 of CIFAR-10's 50,000."""
    steps: Annotated[int, Ge(1)] = 5
    """Of projected gradient descent; the study takes 40."""
    epochs: Annotated[int, Ge(1)] = 30
    """60 in the study."""
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.5, 1.0)
    student: Any = None

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        objective = beside(self.epsilons, self.share, self.steps)
        for data in growing(within_budget(adversary), self.shares, access.labels):
            model = student(adversary, self.student, data, self.epochs, objective=objective)
            yield Surrogate(float(len(data)), model)

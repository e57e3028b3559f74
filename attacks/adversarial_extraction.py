"""Extraction with adversarial training of the student (Lukas et al., S&P 2022): hard labels, inputs perturbed by PGD."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from ..core.theft import Access, Adversary, Attack, Surrogate
from .adversarial_training import hardened
from .extract import growing, student, within_budget


@dataclass(frozen=True)
class AdversarialExtraction(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    epsilon: Annotated[float, Gt(0)] = 0.1
    """In units of the pixel range; .01, .1 and .25 in the study."""
    steps: Annotated[int, Ge(1)] = 5
    """Of projected gradient descent; the study takes 40."""
    epochs: Annotated[int, Ge(1)] = 30
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.5, 1.0)
    student: Any = None

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        objective = hardened(self.epsilon, self.steps)
        for data in growing(within_budget(adversary), self.shares, access.labels):
            model = student(adversary, self.student, data, self.epochs, objective=objective)
            yield Surrogate(float(len(data)), model)

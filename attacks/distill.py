"""Distillation of an API's scores into a fresh student (Hinton et al. 2015, arXiv:1503.02531): one per query budget.

temperature 3, alpha 1 with the T^2 factor is the S&P'22 study's attack; 20, 0.7 without it is the margin paper's: materially
different, so all three are fields.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import growing, student, within_budget


@dataclass(frozen=True)
class Distill(Attack):
    """Of windows of ids the scores would be too many to keep: attack=llm/distill keeps a few."""

    needs = "scores"
    data = "unlabelled"
    axis = "queries"
    pictures_only = True
    paper = "Hinton et al. 2015, arXiv:1503.02531"

    temperature: Annotated[float, Gt(0)] = 3.0
    alpha: Annotated[float, Ge(0), Le(1)] = 1.0
    """Share of the soft loss; the rest is cross-entropy with the most probable class."""
    square: bool = True
    """Multiply the soft loss by T^2, as in section 2 of the paper."""
    epochs: Annotated[int, Ge(1)] = 60
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of the queries that data and budget allow."""
    student: Any = None
    """An architecture (+model@attack.student=mlp); None: the victim's."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        for data in growing(within_budget(adversary), self.shares, access.scores):
            yield Surrogate(float(len(data)), student(adversary, self.student, data, self.epochs, self.loss))

    def loss(self, logits: Tensor, scores: Tensor) -> Tensor:
        """logits (N, C) of the student, scores (N, C) as the API answered them (probabilities at temperature 1)."""
        softened = torch.softmax(scores.clamp_min(1e-12).log() / self.temperature, -1)
        log_student = functional.log_softmax(logits / self.temperature, -1)
        soft = functional.kl_div(log_student, softened, reduction="batchmean")
        hard = functional.cross_entropy(logits, scores.argmax(-1))
        return self.alpha * soft * (self.temperature**2 if self.square else 1) + (1 - self.alpha) * hard

"""Several students that answer together (Lukas et al., S&P 2022, "ensemble"): each learns a part of the transfer set that no other
sees, by smoothed labels, and what only one of them learnt is outvoted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from ..core.examples import Examples
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import growing, student, within_budget


class Together(nn.Module):
    """The logarithm of the members' mean probabilities: what an ensemble answers, in place of logits."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.stack([torch.log_softmax(member(x).float(), -1) for member in self.members])
        return parts.logsumexp(0)


@dataclass(frozen=True)
class Ensemble(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    pictures_only = True
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    members: Annotated[int, Ge(2)] = 3
    """3 in the study."""
    smoothing: Annotated[float, Ge(0), Lt(1)] = 0.2
    """epsilon: a label keeps 1 - epsilon + epsilon / C; 0.2 in the study."""
    epochs: Annotated[int, Ge(1)] = 60
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.5, 1.0)
    student: Any = None

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        for data in growing(within_budget(adversary), self.shares, access.labels):
            students = [
                student(adversary, self.student, part, self.epochs, self.loss, number=i + 1)
                for i, part in enumerate(self._parts(data))
            ]
            yield Surrogate(float(len(data)), Together(students).eval())

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)

    def _parts(self, data: Examples) -> Iterator[Examples]:
        """One per member. Of fewer than two examples each, nobody learns: then all have all."""
        place = torch.arange(len(data))
        for i in range(self.members):
            own = place[place % self.members == i]
            yield data.take(own if len(own) > 1 else place)

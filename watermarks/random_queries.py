"""Fingerprint: agreement of hard labels on random held-out inputs of the owner, the baseline every other must beat (Godinot et al.,
AAAI 2025, arXiv:2412.13021). Accurate models agree wherever all are right, so its power is what they get differently wrong."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Fit, Task
from .fingerprint import LabelFingerprint, sampled
from .trigger import to_grey_levels


@dataclass(frozen=True)
class RandomQueries(LabelFingerprint):
    paper = "Godinot et al., AAAI 2025, arXiv:2412.13021"

    queries: Annotated[int, Ge(2)] = 300
    """Of the test split, which has 359 inputs on digits; 100 in the official code's experiments."""

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        return to_grey_levels(task.test.inputs[sampled(task.test, self.queries, generator)])

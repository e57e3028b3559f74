"""Fingerprint: agreement of hard labels on augmented negatives, the Anna Karenina heuristic (Godinot et al., AAAI 2025,
arXiv:2412.13021). The queries are inputs the victim gets wrong, and a stolen model repeats its mistakes."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.suspects import logits
from ..kernels.row_labels import row_labels
from .fingerprint import LabelFingerprint

ROUNDS = 50


def augment(inputs: Tensor, generator: torch.Generator, degrees: float, shift: float, noise: float) -> Tensor:
    """Random rotation, shift (as a share of the width) and Gaussian noise, clipped to [0, 1]."""
    count = len(inputs)
    draws = torch.rand(count, 3, generator=generator) * 2 - 1
    angle = torch.deg2rad(draws[:, 0] * degrees)
    cos, sin, move = torch.cos(angle), torch.sin(angle), draws[:, 1:] * 2 * shift
    theta = torch.stack(
        (torch.stack((cos, -sin, move[:, 0]), -1), torch.stack((sin, cos, move[:, 1]), -1)), 1
    )
    grid = functional.affine_grid(theta, list(inputs.shape), align_corners=False)
    moved = functional.grid_sample(inputs, grid, align_corners=False)
    return (moved + noise * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class Akh(LabelFingerprint):
    paper = "Godinot et al., AAAI 2025, arXiv:2412.13021"

    degrees: Annotated[float, Ge(0)] = 25.0
    shift: Annotated[float, Ge(0)] = 0.1
    noise: Annotated[float, Gt(0)] = 0.2

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        """Augment the owner's data until `queries` inputs are found that the victim gets wrong."""
        found: list[Tensor] = []
        for _ in range(ROUNDS):
            picks = torch.randint(len(task.owner), (10 * self.queries,), generator=generator)
            batch = task.owner.take(picks)
            tried = augment(batch.inputs, generator, self.degrees, self.shift, self.noise)
            predicted = row_labels(logits(model, tried))
            found.append(tried[(predicted >= 0) & (predicted != batch.targets)])
            if sum(map(len, found)) >= self.queries:
                return torch.cat(found)[: self.queries].clone()
        raise NotApplicable(
            f"the victim erred on {sum(map(len, found))} augmented inputs, {self.queries} are needed"
        )

"""Fingerprint: how samples correlate in a model's answers (SAC: Guan et al., NeurIPS 2022, arXiv:2210.15427).

The distances between answers to pairs of samples survive extraction better than the answers to each.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.secret import Secret
from ..core.suspects import logits
from ..kernels.row_labels import row_labels
from .cutmix import cutmix
from .fingerprint import ScoreFingerprint, as_inputs, outputs_of, sampled
from .trigger import to_grey_levels


def correlation(outputs_NC: Tensor) -> Tensor:
    """(1 - cosine) / 2 of every pair of answers: (N, N)."""
    unit_NC = functional.normalize(outputs_NC, dim=1)
    return (1 - unit_NC @ unit_NC.T) / 2


def correlation_distance(one_NN: Tensor, other_NN: Tensor) -> float:
    """Mean absolute difference of two correlation matrices."""
    return float((one_NN - other_NN).abs().mean())


def near_corner(generator: torch.Generator) -> tuple[float, float]:
    """A point in the outer sixth of the height and of the width, where the official code puts the rectangle."""
    y, x = (torch.rand(2, generator=generator) / 3).tolist()
    return (y if y < 1 / 6 else y + 2 / 3), (x if x < 1 / 6 else x + 2 / 3)


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
class Sac(ScoreFingerprint):
    paper = "Guan et al., NeurIPS 2022, arXiv:2210.15427"
    unit = "SAC distance"

    samples: Literal["cutmix", "wrong"] = "cutmix"
    """SAC-m: CutMix of held-out inputs. SAC-w: inputs the victim gets wrong, here augmented ones."""
    side: Annotated[float, Gt(0), Le(1)] = 0.2
    """Of CutMix's rectangle, a share of the picture's: 4 % of its area, less what the border cuts off, as in the official code. The
    corners of digits are black, so little is mixed there; 0.5 and 0.8 tell copies apart no better."""

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        if self.samples == "cutmix":
            inputs_N = task.test.inputs[sampled(task.test, self.queries, generator)]
            partners_N = inputs_N[torch.randperm(self.queries, generator=generator)]
            return to_grey_levels(cutmix(inputs_N, partners_N, near_corner(generator), self.side))
        picks = torch.randint(len(task.test), (100 * self.queries,), generator=generator)
        batch = task.test.take(picks)
        tried = augment(batch.inputs, generator, degrees=25.0, shift=0.1, noise=0.2)
        wrong = tried[row_labels(logits(model, tried)) != batch.targets]
        if len(wrong) < self.queries:
            raise NotApplicable(
                f"the victim erred on {len(wrong)} augmented inputs, {self.queries} are needed"
            )
        return to_grey_levels(wrong[: self.queries])

    def represent(self, model: nn.Module, inputs_N: Tensor, secret: Secret, device: str = "cpu") -> Tensor:
        """(N, N), of a model with any number of classes."""
        return correlation(outputs_of(model, as_inputs(inputs_N), device))

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        return correlation_distance(victim, suspect)

"""Fingerprint: how samples correlate in a model's answers (SAC: Guan et al., NeurIPS 2022, arXiv:2210.15427).

The distances between answers to pairs of samples survive extraction better than the answers to each.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.secret import Secret
from ..core.suspects import logits
from ..kernels.row_labels import row_labels
from .akh import augment
from .fingerprint import ScoreFingerprint, as_inputs, sampled, scores_of
from .trigger import to_grey_levels


def correlation(outputs_NC: Tensor) -> Tensor:
    """(1 - cosine) / 2 of every pair of answers: (N, N)."""
    unit_NC = functional.normalize(outputs_NC, dim=1)
    return (1 - unit_NC @ unit_NC.T) / 2


def correlation_distance(one_NN: Tensor, other_NN: Tensor) -> float:
    """Mean absolute difference of two correlation matrices."""
    return float((one_NN - other_NN).abs().mean())


def cutmix(inputs: Tensor, partners: Tensor, generator: torch.Generator) -> Tensor:
    """Each input with a rectangle of its partner pasted in (Yun et al. 2019): its area is uniform, its centre too."""
    count, _, height, width = inputs.shape
    side_N = torch.rand(count, generator=generator).sqrt()
    rows, columns = torch.arange(height), torch.arange(width)
    y_N, x_N = (torch.rand(2, count, generator=generator) * torch.tensor([[height], [width]])).unbind()
    inside_y = (rows + 0.5 - y_N[:, None]).abs() < side_N[:, None] * height / 2
    inside_x = (columns + 0.5 - x_N[:, None]).abs() < side_N[:, None] * width / 2
    pasted = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return torch.where(pasted, partners, inputs)


@dataclass(frozen=True)
class Sac(ScoreFingerprint):
    paper = "Guan et al., NeurIPS 2022, arXiv:2210.15427"
    unit = "SAC distance"

    samples: Literal["cutmix", "wrong"] = "cutmix"
    """SAC-m: CutMix of the owner's inputs. SAC-w: inputs the victim gets wrong, here augmented ones."""

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        if self.samples == "cutmix":
            one, other = (task.owner.inputs[sampled(task, self.queries, generator)] for _ in range(2))
            return to_grey_levels(cutmix(one, other, generator))
        picks = torch.randint(len(task.owner), (100 * self.queries,), generator=generator)
        batch = task.owner.take(picks)
        tried = augment(batch.inputs, generator, degrees=25.0, shift=0.1, noise=0.2)
        wrong = tried[row_labels(logits(model, tried)) != batch.targets]
        if len(wrong) < self.queries:
            raise NotApplicable(
                f"the victim erred on {len(wrong)} augmented inputs, {self.queries} are needed"
            )
        return to_grey_levels(wrong[: self.queries])

    def represent(self, model: nn.Module, inputs_N: Tensor, secret: Secret, device: str = "cpu") -> Tensor:
        """(N, N), of a model with any number of classes."""
        return correlation(scores_of(model, as_inputs(inputs_N), device))

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        return correlation_distance(victim, suspect)

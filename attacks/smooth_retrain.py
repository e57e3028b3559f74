"""Extraction with smoothed answers (Lukas et al., S&P 2022, "smooth retraining"): each input is asked several times, changed a
little, and the student learns the mean answer. A mark that changes single answers, as DAWN does, is outvoted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from ..core.errors import ConfigError
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import growing, shuffled, student
from .trajectory import drawing


def jittered(inputs: Tensor, views: int, noise: float, shift: int, generator: torch.Generator) -> Tensor:
    """(N, views, ...) noisy copies, moved by up to `shift` pixels each way over a border of the edge's own colour."""
    height, width = inputs.shape[-2:]
    padded = functional.pad(inputs, (shift,) * 4, mode="replicate") if shift else inputs
    moves = torch.randint(2 * shift + 1, (views, 2), generator=generator).tolist()
    copies = torch.stack([padded[..., y : y + height, x : x + width] for y, x in moves], 1)
    return (copies + noise * torch.randn(copies.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class SmoothRetrain(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    pictures_only = True
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    views: Annotated[int, Ge(2)] = 5
    """Of each input; every one is a query."""
    noise: Annotated[float, Gt(0)] = 0.05
    shift: Annotated[int, Ge(0)] = 0
    """Pixels. On 8x8 pictures one is an eighth of the width, which costs answers; 2 to 4 suit 32x32."""
    epochs: Annotated[int, Ge(1)] = 60
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    student: Any = None

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        inputs = shuffled(adversary)
        if adversary.queries is not None:
            inputs = inputs[: adversary.queries // self.views]
        if len(inputs) < 2:
            raise ConfigError(
                f"smoothing asks {self.views} times about each of at least 2 inputs, adversary.queries={adversary.queries} "
                f"allows fewer; set adversary.queries={2 * self.views}"
            )
        generator = drawing(adversary, "views")

        def mean_answer(asked: Tensor) -> Tensor:
            views = jittered(asked, self.views, self.noise, self.shift, generator)
            labels = access.labels(views.flatten(0, 1)).clamp_min(0).reshape(-1, self.views)
            return functional.one_hot(labels, adversary.classes).float().mean(1)

        for data in growing(inputs, self.shares, mean_answer):
            yield Surrogate(
                float(len(data) * self.views), student(adversary, self.student, data, self.epochs)
            )

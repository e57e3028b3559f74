"""Fingerprint: agreement of hard labels on negatives, the Anna Karenina heuristic (Godinot et al., AAAI 2025, arXiv:2412.13021).
The queries are held-out inputs the victim gets wrong, and a stolen model repeats its mistakes.

Where there are too few, CutMix of them and its mirror images fill up, whatever the victim says of those."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.suspects import logits
from ..kernels.row_labels import row_labels
from .cutmix import cutmix
from .fingerprint import LabelFingerprint, sampled
from .trigger import to_grey_levels


def filled(negatives_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The negatives and, until there are `count`, rounds of CutMix with each one's neighbour, upright, mirrored and upside down. A
    round's rectangle has a uniform area, as with CutMix's alpha of 1."""
    parts = [negatives_N]
    while len(negatives_N) * len(parts) < count:
        y, x, area = torch.rand(3, generator=generator).tolist()
        mixed_N = cutmix(negatives_N, negatives_N.roll(1, 0), (y, x), area**0.5)
        parts += [mixed_N, mixed_N.flip(-1), mixed_N.flip(-2)]
    return torch.cat(parts)[:count]


@dataclass(frozen=True)
class Akh(LabelFingerprint):
    paper = "Godinot et al., AAAI 2025, arXiv:2412.13021"

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        """NotApplicable for a victim that gets every held-out input right."""
        data = task.test.take(sampled(task.test, len(task.test), generator))
        predicted_N = row_labels(logits(model, data.inputs))
        negatives_N = data.inputs[(predicted_N >= 0) & (predicted_N != data.targets)]
        if not len(negatives_N):
            raise NotApplicable(
                f"the victim gets all {len(data)} held-out inputs right, and the queries are made of its errors"
            )
        return to_grey_levels(filled(negatives_N, self.queries, generator))

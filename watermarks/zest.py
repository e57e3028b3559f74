"""Fingerprint: local linear explanations as a model's signature (Zest: Jia et al., ICLR 2022, after LIME).

Around each of the owner's inputs, segments are hidden at random and the answers regressed on what was left: weights of segments.

Suffixes: N inputs, V variants of an input, S segments, C classes.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.secret import Secret
from .fingerprint import ScoreFingerprint, as_inputs, sampled, scores_of
from .trigger import to_grey_levels

RIDGE = 1e-3
"""Keeps the regression defined where two segments were always hidden together."""


def shown_segments(secret: Secret, variants: int, segments: int) -> Tensor:
    """(V, S) float64 of fair bits; the first variant shows everything."""
    shown_VS = secret.bits("zest/shown", variants * segments).reshape(variants, segments).double()
    shown_VS[0] = 1
    return shown_VS


def segment_of(shape: tuple[int, ...], grid: int) -> Tensor:
    """(H, W) int64: the number of each pixel's cell in a grid x grid division; at most H x W cells."""
    height, width = shape[-2:]
    rows = torch.arange(height) * min(grid, height) // height
    columns = torch.arange(width) * min(grid, width) // width
    return rows[:, None] * min(grid, width) + columns


def explanations(shown_VS: Tensor, answers_NVC: Tensor, kernel: float) -> Tensor:
    """(N, S, C) weights of ridge regressions with an intercept, variants weighted by exp(-d^2 / kernel^2), d the cosine distance to
    the whole input (LIME, section 3.4)."""
    visible_V = shown_VS.mean(1)
    weight_V = torch.exp(-((1 - visible_V.sqrt()) ** 2) / kernel**2)
    design_VT = torch.cat((shown_VS, torch.ones(len(shown_VS), 1, dtype=shown_VS.dtype)), 1)
    left_TV = design_VT.T * weight_V
    gram_TT = left_TV @ design_VT
    gram_TT.diagonal()[:-1].add_(RIDGE)
    solved_NTC: Tensor = torch.linalg.solve(gram_TT, left_TV @ answers_NVC)
    return solved_NTC[:, :-1]


@dataclass(frozen=True)
class Zest(ScoreFingerprint):
    paper = "Jia et al., ICLR 2022"
    unit = "distance of LIME signatures"

    queries: Annotated[int, Ge(2)] = 16
    """Explained inputs; 128 in the paper."""
    variants: Annotated[int, Ge(2)] = 64
    """Of each; 1,000 in the paper."""
    grid: Annotated[int, Ge(2)] = 4
    """Segments are the cells of a grid, where the paper takes quickshift's superpixels: 8x8 digits have none."""
    kernel: Annotated[float, Gt(0)] = 0.25
    """LIME's default width for images."""
    measure: Literal["cosine", "l1", "l2"] = "cosine"

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        return to_grey_levels(task.owner.inputs[sampled(task, self.queries, generator)])

    def represent(self, model: nn.Module, inputs_N: Tensor, secret: Secret, device: str = "cpu") -> Tensor:
        """(N, S, C). Hidden segments take the mean colour of their input."""
        inputs, segment_HW = as_inputs(inputs_N), segment_of(tuple(inputs_N.shape), self.grid)
        segments = int(segment_HW.max()) + 1
        shown_VS = shown_segments(secret, self.variants, segments)
        mask_VHW = shown_VS[:, segment_HW].float()[:, None]
        grey = inputs.mean((-2, -1), keepdim=True)
        parts = []
        for one, mean in zip(inputs, grey, strict=True):
            parts.append(scores_of(model, one * mask_VHW + mean * (1 - mask_VHW), device))
        return explanations(shown_VS, torch.stack(parts), self.kernel)

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        one, other = victim.flatten(), suspect.flatten()
        if self.measure == "cosine":
            return max(0.0, 1 - float(functional.cosine_similarity(one, other, dim=0)))
        return float((one - other).norm(p=1 if self.measure == "l1" else 2)) / math.sqrt(len(one))

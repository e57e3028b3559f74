"""Fingerprint: local linear explanations as a model's signature (Zest: Jia et al., ICLR 2022, after LIME).

Around each of the owner's inputs, segments are hidden at random and the answers regressed on what was left: weights of segments.

Suffixes: N inputs, V variants of an input, S segments, C classes.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.secret import Secret
from .fingerprint import ScoreFingerprint, as_inputs, outputs_of, sampled
from .trigger import to_grey_levels


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


def explanations(shown_VS: Tensor, answers_NVC: Tensor) -> Tensor:
    """(N, S, C) weights of plain least squares, pinv(X'X) X'Y, as in the official code: without LIME's intercept, ridge and
    weights of variants."""
    solved_NSC: Tensor = torch.linalg.pinv(shown_VS.T @ shown_VS) @ (shown_VS.T @ answers_NVC)
    return solved_NSC


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
    measure: Literal["cosine", "l1", "l2"] = "cosine"

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        return to_grey_levels(task.owner.inputs[sampled(task.owner, self.queries, generator)])

    def represent(self, model: nn.Module, inputs_N: Tensor, secret: Secret, device: str = "cpu") -> Tensor:
        """(N, S, C). Hidden segments take the mean colour of all inputs, for the data set's in the official code."""
        inputs, segment_HW = as_inputs(inputs_N), segment_of(tuple(inputs_N.shape), self.grid)
        segments = int(segment_HW.max()) + 1
        shown_VS = shown_segments(secret, self.variants, segments)
        mask_VHW = shown_VS[:, segment_HW].float()[:, None]
        rest_VCHW = inputs.mean((0, 2, 3))[:, None, None] * (1 - mask_VHW)
        parts = [outputs_of(model, one * mask_VHW + rest_VCHW, device) for one in inputs]
        return explanations(shown_VS, torch.stack(parts))

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        one, other = victim.flatten(), suspect.flatten()
        if self.measure == "cosine":
            return max(0.0, 1 - float(functional.cosine_similarity(one, other, dim=0)))
        return float((one - other).norm(p=1 if self.measure == "l1" else 2)) / math.sqrt(len(one))

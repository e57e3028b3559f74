"""CutMix: a rectangle of one picture pasted into another (Yun et al., ICCV 2019, arXiv:1905.04899)."""

import torch
from torch import Tensor


def cutmix(inputs: Tensor, partners: Tensor, centre: tuple[float, float], side: float) -> Tensor:
    """Each input (N, C, H, W) with one rectangle of its partner, the same for all. Centre and sides are shares of height and width;
    the border cuts it off."""
    height, width = inputs.shape[-2:]
    rows, columns = (
        ((torch.arange(length) + 0.5) / length - middle).abs() < side / 2
        for length, middle in zip((height, width), centre, strict=True)
    )
    return torch.where(rows[:, None] & columns, partners, inputs)

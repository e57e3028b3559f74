"""Pictures that belong to no class of a task: abstract ones for every task, and the digits as another data set."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from ..core.contracts import Task
from ..kernels import philox
from . import data

OWNERS, THIEFS = (0, 0), (0, 1)
"""Galleries, by the key of their Philox stream: one distribution, no picture in common."""


@cache
def abstract_images(count: int, shape: tuple[int, ...], gallery: tuple[int, int] = OWNERS) -> Tensor:
    """Abstract pictures (count, *shape) uint8: three waves per channel, one of them hard-edged.

    In place of the paper's abstract art, which cannot be redistributed."""
    channels, height, width = shape
    u = philox.uniforms(gallery, count * channels * 12).reshape(count, channels, 3, 4)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    frequency, phase = 6 * (u[..., :2] - 0.5), 2 * math.pi * u[..., 2]
    angle = frequency[..., :1, None] * x + frequency[..., 1:, None] * y
    waves = torch.sin(2 * math.pi * angle + phase[..., None, None]) * u[..., 3, None, None]
    waves[:, :, 2] = waves[:, :, 2].sign() * 0.5
    picture = torch.sigmoid(3 * waves.sum(2))
    return (picture * 255).round().to(torch.uint8)


def unrelated(task: Task, count: int) -> Tensor:
    """(count, *task.shape) uint8 of another data set: scikit-learn's digits, enlarged and in every channel; for digits
    themselves the abstract pictures. Repeated when there are too few."""
    if task.name == "digits":
        return abstract_images(count, task.shape)
    digits = data.digits()
    chosen = digits.inputs[torch.arange(count) % len(digits)]
    sized = functional.interpolate(chosen, size=task.shape[1:], mode="bilinear", align_corners=False)
    return (sized.clamp(0, 1).expand(-1, *task.shape) * 255).round().to(torch.uint8)

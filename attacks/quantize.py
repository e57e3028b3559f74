"""Post-training quantisation. The graded model *stays* quantised: integers and scales are what it stores.

int8: symmetric, one scale per output channel. int4: symmetric, one scale per group of 32 inputs. bf16: every tensor.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.theft import Access, Adversary, Attack, Surrogate

Format = Literal["bf16", "int8", "int4"]
BITS: dict[str, int] = {"bf16": 16, "int8": 8, "int4": 4}
GROUP = 32


class Dequantised(nn.Module):
    """Weight = integers x scales: what is stored is int8 (or int4 values in int8) and a scale per row of `group` inputs."""

    def __init__(self, shape: torch.Size, bits: int, group: int | None) -> None:
        super().__init__()
        self.shape, self.limit = shape, 2 ** (bits - 1) - 1
        inputs = shape.numel() // shape[0]
        self.group = group if group and inputs % group == 0 else inputs

    def forward(self, integers: Tensor, scales: Tensor) -> Tensor:
        return (integers.float() * scales).reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = weight.detach().reshape(-1, self.group)
        scales = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / self.limit
        integers = (rows / scales).round().clamp(-self.limit, self.limit)
        return integers.to(torch.int8), scales


def quantised(model: nn.Module, to: Format) -> nn.Module:
    """A copy in the given format; convolutions and linear layers for the integer ones."""
    model = copy.deepcopy(model).eval()
    if to == "bf16":
        return model.bfloat16()
    for module in list(model.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.requires_grad_(False)
            stored = Dequantised(module.weight.shape, BITS[to], GROUP if to == "int4" else None)
            parametrize.register_parametrization(module, "weight", stored)
    return model


@dataclass(frozen=True)
class Quantize(Attack):
    needs = "weights"
    data = "none"
    axis = "bits dropped"
    paper = "Jacob et al., CVPR 2018, arXiv:1712.05877"

    formats: tuple[Format, ...] = ("bf16", "int8", "int4")

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for to in sorted(self.formats, key=lambda name: -BITS[name]):
            yield Surrogate(float(32 - BITS[to]), quantised(model, to))

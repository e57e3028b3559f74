"""Post-training quantisation. The graded model *stays* quantised: integers, or short floats, and scales are what it stores.

int8: symmetric, one scale per output channel. int4: symmetric, one scale per group of 32 inputs, or per output channel where 32
does not divide them. bf16, fp16: every tensor but the constants of the inputs' normalisation, and the model computes in that
format. fp8: e4m3 with one scale per layer (Micikevicius et al. 2022, arXiv:2209.05433), for
convolutions and linear layers; torch computes no convolution in it, so the stored values are widened for every forward pass.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.byte_models import Bytes
from ..zoo.models import Normalise
from .prune import WEIGHTED

Format = Literal["fp16", "bf16", "fp8", "int8", "int4"]
BITS: dict[str, int] = {"int8": 8, "int4": 4}
DROPPED: dict[str, int] = {"fp16": 13, "bf16": 16, "fp8": 20, "int8": 24, "int4": 28}
"""The strength: of floats, the bits missing from float32's mantissa of 23; of integers, from its 32 bits."""
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


class Widened(nn.Module):
    """Weight = e4m3 floats x one scale that maps the largest weight to 448, the largest finite e4m3."""

    def forward(self, floats: Tensor, scale: Tensor) -> Tensor:
        return floats.float() * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(torch.float32).tiny
        scale = weight.detach().abs().amax().clamp_min(tiny) / torch.finfo(torch.float8_e4m3fn).max
        return (weight.detach() / scale).to(torch.float8_e4m3fn), scale


class NormaliseFirst(Normalise):
    """In float32, where 1/255 is not 2^-8; what it returns has another format."""

    def __init__(self, exact: Normalise, returns: torch.dtype) -> None:
        super().__init__(float(exact.mean), float(exact.std))
        self.returns = returns

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(self.returns)


def narrowed(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself, its tensors and what it computes in the given format, inputs once they are normalised. Bytes are decoded in
    float32 and cast as embeddings."""
    decodes = any(isinstance(module, Bytes) for module in model.modules())
    returns = torch.float32 if decodes else dtype
    first = {n: NormaliseFirst(m, returns) for n, m in model.named_modules() if isinstance(m, Normalise)}
    model = model.to(dtype)
    for name, module in first.items():
        model.set_submodule(name, module)
    return model.eval()


def stored_as(to: Format, shape: torch.Size) -> nn.Module:
    """The parametrisation that holds a weight of this shape in the given format."""
    return Widened() if to == "fp8" else Dequantised(shape, BITS[to], GROUP if to == "int4" else None)


def quantised(model: nn.Module, to: Format) -> nn.Module:
    """A copy in the given format; convolutions and linear layers alone for fp8 and the integer ones."""
    model = copy.deepcopy(model).eval()
    if to in ("bf16", "fp16"):
        return narrowed(model, torch.bfloat16 if to == "bf16" else torch.float16)
    for module in list(model.modules()):
        if isinstance(module, WEIGHTED):
            module.weight.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", stored_as(to, module.weight.shape))
    return model.eval()


@dataclass(frozen=True)
class Quantize(Attack):
    needs = "weights"
    data = "none"
    axis = "bits dropped"
    paper = "Jacob et al., CVPR 2018, arXiv:1712.05877"

    formats: tuple[Format, ...] = ("bf16", "int8", "int4")

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for to in sorted(self.formats, key=lambda name: DROPPED[name]):
            yield Surrogate(float(DROPPED[to]), quantised(model, to))

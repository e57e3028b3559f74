"""Batch norm under triggers: which rows of a batch its statistics come from, and when it learns none."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Tensors = dict[str, Tensor]


def norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """These modules evaluate while open: batch norms use the statistics they have, and learn none."""
    modes = [(module, module.training) for module in modules]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def normalised_by(norms: Iterable[_BatchNorm], rows: int) -> Iterator[None]:
    """While open, these batch norms normalise all rows of a batch with the mean and variance of its first `rows`, through which
    gradients flow, and learn no running statistics."""
    norms = list(norms)

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        assert isinstance(norm, _BatchNorm)
        values = inputs[0]
        shape = [1, -1, *[1] * (values.ndim - 2)]
        dims = [d for d in range(values.ndim) if d != 1]
        variance, mean = torch.var_mean(values[:rows], dims, correction=0)
        scale = torch.rsqrt(variance + norm.eps)
        shift = -mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        return values * scale.view(shape) + shift.view(shape)

    hooks = [norm.register_forward_hook(hook) for norm in norms]
    try:
        with evaluating(norms):
            yield
    finally:
        for handle in hooks:
            handle.remove()

"""Channel Lipschitz pruning (Zheng et al., ECCV 2022, arXiv:2208.03111): no data; channels that can react most are removed.

The bound of a channel is the largest singular value of its kernel, as a matrix of inputs x positions, times the factor
|gamma| / sqrt(var + eps) of the batch norm that follows. In each layer, channels beyond mean + u deviations are silenced. A linear
layer's kernel is its row.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import NotApplicable
from ..core.theft import Access, Adversary, Attack, Surrogate
from .neurons import Neurons, neurons, silence


@torch.no_grad()
def bounds(model: nn.Module, which: Neurons) -> Tensor:
    """(C,) of one layer."""
    layer: Any = model.get_submodule(which.layer)
    kernels = layer.weight.reshape(which.count, layer.weight.shape[1], -1)
    bound_C: Tensor = torch.linalg.matrix_norm(kernels, ord=2)
    if which.norm is not None:
        norm: Any = model.get_submodule(which.norm)
        bound_C = bound_C * (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
    return bound_C


@dataclass(frozen=True)
class Clp(Attack):
    needs = "weights"
    data = "none"
    axis = "share of channels"
    paper = "Zheng et al., ECCV 2022, arXiv:2208.03111"

    deviations: tuple[float, ...] = (3.0, 2.0, 1.5, 1.0, 0.5)
    """u; 3 in the paper. A value that silences no more channels than the one before yields nothing."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        layers = neurons(model)
        bounds_L = [bounds(model, which) for which in layers]
        total, before = sum(map(len, bounds_L)), 0
        for u in sorted(self.deviations, reverse=True):
            pruned = copy.deepcopy(model)
            gone_L = [bound_C > bound_C.mean() + u * bound_C.std() for bound_C in bounds_L]
            for which, gone_C in zip(layers, gone_L, strict=True):
                silence(pruned, which, gone_C)
            count = sum(int(gone_C.sum()) for gone_C in gone_L)
            if count > before:
                yield Surrogate(count / total, pruned)
                before = count
        if not before:
            lowest = min(self.deviations, default=0.5)
            raise NotApplicable(
                f"no channel lies {lowest:g} deviations beyond its layer's mean; set attack.deviations=[0.1]"
            )

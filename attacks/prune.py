"""Pruning by magnitude (Han et al., NeurIPS 2015): a surrogate per sparsity.

global: the smallest weights over all convolutions and linear layers. layer: the smallest of each. structured: whole filters of
smallest L1 norm (Li et al., ICLR 2017), with the batch norm that follows, the classifier excepted. attacks/prune_finetune.py trains
what is left.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn
from torch.nn.utils import prune

from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.models import head

Sparsity = Annotated[float, Gt(0), Lt(1)]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def prunable(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, WEIGHTED)]


def pruned(model: nn.Module, sparsity: float, scope: Literal["global", "layer", "structured"]) -> nn.Module:
    """A copy with the given share of weights (or of each layer's filters) set to zero."""
    model = copy.deepcopy(model)
    layers = prunable(model)
    if scope == "global":
        prune.global_unstructured([(m, "weight") for _, m in layers], prune.L1Unstructured, amount=sparsity)
    elif scope == "layer":
        for _, layer in layers:
            prune.l1_unstructured(layer, "weight", amount=sparsity)
    else:
        return _without_filters(model, sparsity)
    for _, layer in layers:
        prune.remove(layer, "weight")
    return model


@torch.no_grad()
def _without_filters(model: nn.Module, sparsity: float) -> nn.Module:
    last = head(model)
    modules = list(model.named_modules())
    for position, (name, layer) in enumerate(modules):
        if not isinstance(layer, WEIGHTED) or name == last:
            continue
        norms = layer.weight.abs().flatten(1).sum(1)
        gone = norms.argsort()[: round(sparsity * len(norms))]
        following = modules[position + 1][1] if position + 1 < len(modules) else None
        norm = following if isinstance(following, NORMS) and following.num_features == len(norms) else None
        for owner in (layer, norm):
            for parameter in (getattr(owner, "weight", None), getattr(owner, "bias", None)):
                if isinstance(parameter, Tensor):
                    parameter[gone] = 0
    return model


@dataclass(frozen=True)
class Prune(Attack):
    needs = "weights"
    data = "none"
    axis = "sparsity"
    paper = "Han et al., NeurIPS 2015"

    scope: Literal["global", "layer", "structured"] = "global"
    sparsities: tuple[Sparsity, ...] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for sparsity in sorted(self.sparsities):
            yield Surrogate(sparsity, pruned(model, sparsity, self.scope))

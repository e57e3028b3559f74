"""Pruning by magnitude, then fine-tuning of what is left (Han et al., NeurIPS 2015; of filters: Li et al., ICLR 2017).

The pruned models are those of attacks/prune.py. What is zero in them is set to zero again before every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .fine_pruning import tuned_without
from .prune import Sparsity, pruned


@torch.no_grad()
def cleared(live: nn.Module, zeros: dict[str, Tensor]) -> None:
    """Set the parameters to zero, in place, where their masks are true."""
    for name, zero in zeros.items():
        parameter = live.get_parameter(name)
        parameter.masked_fill_(zero.to(parameter.device), 0)


@dataclass(frozen=True)
class PruneFinetune(Attack):
    needs = "weights"
    data = "labelled"
    axis = "sparsity"
    paper = "Han et al., NeurIPS 2015"

    recipe: Recipe
    """Of the fine-tuning after each pruning, which starts from the stolen model."""
    scope: Literal["global", "layer", "structured"] = "global"
    sparsities: tuple[Sparsity, ...] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for sparsity in sorted(self.sparsities):
            start = pruned(model, sparsity, self.scope)
            cut = partial(cleared, zeros={name: p == 0 for name, p in start.named_parameters()})
            tuned = tuned_without(cut, start, adversary, self.recipe, f"fine-tuning at sparsity {sparsity}")
            yield Surrogate(sparsity, tuned)

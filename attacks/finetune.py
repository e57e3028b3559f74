"""Fine-tuning on the thief's data (Adi et al., USENIX Security 2018, arXiv:1802.04633; Lukas et al., S&P 2022).

layers: last or all; reinit_head draws a new last layer first. So FTLL, FTAL, RTLL and RTAL are four settings of two fields.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..core.contracts import Recipe
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.models import head
from .trajectory import followed


def with_new_head(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose last linear layer is drawn anew."""
    model = copy.deepcopy(model)
    layer = model.get_submodule(head(model))
    assert isinstance(layer, nn.Linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer.reset_parameters()
    return model


@dataclass(frozen=True)
class Finetune(Attack):
    needs = "weights"
    data = "labelled"
    axis = "epochs"
    paper = "Adi et al., USENIX Security 2018, arXiv:1802.04633"

    recipe: Recipe
    layers: Literal["last", "all"] = "all"
    reinit_head: bool = False
    report: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Epochs after which the model counts as a surrogate; the last epoch always does."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        if self.reinit_head:
            model = with_new_head(model, seed_for(adversary.seed, "head"))
        only = (head(model),) if self.layers == "last" else None
        yield from followed(adversary, model, self.recipe, self.report, only=only)

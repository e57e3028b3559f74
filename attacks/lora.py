"""Low-rank fine-tuning, merged back (Hu et al., ICLR 2022, arXiv:2106.09685): W + B A, rank r, in every linear layer.

A convolution is the matrix outputs x (inputs and positions). Nothing else is trained, and batch norms keep their statistics.
B starts at zero, A by Kaiming's rule, scaled by alpha / r, as in the official code.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Recipe
from ..core.errors import NotApplicable
from ..core.theft import Access, Adversary, Attack, Surrogate
from .prune import WEIGHTED, prunable
from .trajectory import drawing


class Adapters(nn.Module):
    """A (r, inputs) and B (outputs, r) per layer; r is at most the layer's own rank."""

    def __init__(
        self, layers: Sequence[tuple[str, nn.Module]], rank: int, alpha: float, seed: torch.Generator
    ) -> None:
        super().__init__()
        self.names = [f"{name}.weight" for name, _ in layers]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        self.alpha = alpha
        for _, layer in layers:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            outputs, inputs = weight.flatten(1).shape
            r = min(rank, outputs, inputs)
            down = torch.empty(r, inputs)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=seed)
            self.down.append(down)
            self.up.append(torch.zeros(outputs, r))

    def weights_of(self, model: nn.Module) -> dict[str, Tensor]:
        """The adapted weights by name."""
        out: dict[str, Tensor] = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            weight = model.get_parameter(name)
            out[name] = weight + (self.alpha / len(down) * (up @ down)).reshape(weight.shape)
        return out


@torch.no_grad()
def merged_back(model: nn.Module, adapters: Adapters) -> nn.Module:
    """A copy whose weights hold the adapters' products."""
    model = copy.deepcopy(model)
    for name, weight in adapters.weights_of(model).items():
        model.get_parameter(name).copy_(weight)
    return model


@dataclass(frozen=True)
class Lora(Attack):
    needs = "weights"
    data = "labelled"
    axis = "rank"
    paper = "Hu et al., ICLR 2022, arXiv:2106.09685"

    recipe: Recipe
    """Adam, where the paper takes AdamW: by SGD, alpha / r would slow the higher ranks. The rate is for 50 steps of digits."""
    ranks: tuple[Annotated[int, Ge(1)], ...] = (4, 16, 64)
    alpha: Annotated[float, Gt(0)] = 16.0
    """Of the scale alpha / r."""
    layers: Literal["linear", "all"] = "all"
    """linear: as published; all: convolutions too."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        kinds = nn.Linear if self.layers == "linear" else WEIGHTED
        chosen = [(name, layer) for name, layer in prunable(model) if isinstance(layer, kinds)]
        if not chosen:
            raise NotApplicable(f"the network has no layer of attack.layers={self.layers}")
        for rank in sorted(self.ranks):
            adapters = Adapters(chosen, rank, self.alpha, drawing(adversary, "lora", rank))

            def objective(
                live: nn.Module, inputs: Tensor, targets: Tensor, at: Adapters = adapters
            ) -> Tensor:
                return functional.cross_entropy(
                    functional_call(live, at.weights_of(live), (inputs,)), targets
                )

            adversary.fit(
                model,
                adversary.data,
                recipe=self.recipe,
                objective=objective,
                along=adapters,
                only=(),
                label=f"adapters of rank {rank}",
            )
            yield Surrogate(float(rank), merged_back(model, adapters.to("cpu")))

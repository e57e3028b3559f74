"""Large weights carry the mark: the network computes with w exp(T |w|) / max exp(T |w|) (Namba and Sakuma, AsiaCCS 2019).

Small weights become smaller, so pruning and fine-tuning touch what the mark does not need. The transformed weights are folded
into the marked model, which is an ordinary network.
"""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Fit, Task
from .target import TargetMark
from .trigger import TriggerKey


def weighted(weight: Tensor, temperature: float) -> Tensor:
    """w exp(T |w|) / max exp(T |w|), the maximum over the layer."""
    size = temperature * weight.abs()
    return weight * (size - size.max()).exp()


def transformed(model: nn.Module, temperature: float) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers, by name; biases and norms stay."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return {f"{name}.weight": weighted(module.weight, temperature) for name, module in layers}


@dataclass(frozen=True)
class ExponentialWeighting(TargetMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Namba and Sakuma, AsiaCCS 2019, arXiv:1901.06151"

    per_batch: Annotated[int, Ge(1)] = 8
    """Triggers appended to every batch."""
    temperature: Annotated[float, Ge(0)] = 2.0
    """T; 0: no weighting."""

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """The trained victim is trained further under the weighting, triggers in the clean batches."""

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            scores = functional_call(live, transformed(live, self.temperature), (inputs,))
            return functional.cross_entropy(scores, targets)

        raw = fit(
            model,
            task.owner,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )
        return folded(raw, self.temperature)


@torch.no_grad()
def folded(model: nn.Module, temperature: float) -> nn.Module:
    """A copy that computes with the transformed weights as its own."""
    out = copy.deepcopy(model)
    out.load_state_dict({**model.state_dict(), **transformed(model, temperature)})
    return out.eval()

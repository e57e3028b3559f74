"""The rows of the verification matrix: models that are read, never changed.

Suffixes: M suspects, N inputs, C classes, J weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..kernels.row_labels import row_labels


@torch.no_grad()
def logits(model: nn.Module, inputs: Tensor, device: str = "cpu", batch: int = 1024) -> Tensor:
    """Logits (N, C) in float32 on the CPU; the model is put in eval mode for the call and left as it was."""
    modes = [(module, module.training) for module in model.modules()]
    home = next(iter(model.parameters()), torch.empty(0)).device
    model.to(device).eval()
    try:
        parts = [model(part.to(device)).float().cpu() for part in torch.split(inputs, batch)]
    finally:
        model.to(home)
        for module, mode in modes:  # one by one: a frozen batch norm evaluates inside a model that trains
            module.training = mode
    return torch.cat(parts) if parts else torch.empty(0)


@dataclass(frozen=True)
class Suspects:
    models: Sequence[nn.Module]
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.models)

    def logits(self, inputs: Tensor) -> Tensor:
        """(M, N, C): one forward pass per model over all inputs, so put the union of all keys' triggers in one call."""
        return torch.stack([logits(model, inputs, self.device) for model in self.models])

    def labels(self, inputs: Tensor) -> Tensor:
        """(M, N) int64 predicted classes: the lowest of those with the largest logit, -1 where a logit is NaN, which agrees with
        nothing. Memory: one model's logits at a time."""
        if not self.models:
            return torch.empty(0, len(inputs), dtype=torch.int64)
        return torch.stack([row_labels(logits(model, inputs, self.device)) for model in self.models])

    def weights(self, layer: str) -> list[Tensor | None]:
        """The layer's weight of every suspect in float32, None for a suspect without this layer."""
        return [_weight(model, layer) for model in self.models]


def _weight(model: nn.Module, layer: str) -> Tensor | None:
    try:
        weight = model.get_submodule(layer).weight
    except AttributeError:
        return None
    if not isinstance(weight, Tensor):
        return None
    if not torch.isfinite(weight).all():
        raise ValueError(
            f"the suspect's {layer}.weight holds NaN or infinite values; a model that computes has none"
        )
    return weight.detach().float().cpu()

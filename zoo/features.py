"""What a network's classifier sees. Suffixes: N inputs, F features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.suspects import logits
from .models import head


def penultimate(model: nn.Module, inputs: Tensor) -> Tensor:
    """(N, F) float32 on the CPU, the inputs of the last linear layer in eval mode; the model is left as it was."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: Sequence[Tensor]) -> None:
        seen.append(given[0].flatten(1).float().cpu())

    handle = model.get_submodule(head(model)).register_forward_pre_hook(keep)
    try:
        logits(model, inputs)
    finally:
        handle.remove()
    return torch.cat(seen)

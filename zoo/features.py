"""What a network's classifier sees. Suffixes: N inputs, F features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .models import head


@torch.no_grad()
def penultimate(model: nn.Module, inputs: Tensor, batch: int = 1024) -> Tensor:
    """(N, F) float32, the inputs of the last linear layer, in eval mode; the model is left as it was."""
    modes = [(module, module.training) for module in model.modules()]
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: Sequence[Tensor]) -> None:
        seen.append(given[0].flatten(1).float().cpu())

    handle = model.get_submodule(head(model)).register_forward_pre_hook(keep)
    home = next(iter(model.parameters())).device
    try:
        model.eval()
        for part in torch.split(inputs, batch):
            model(part.to(home))
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    return torch.cat(seen)

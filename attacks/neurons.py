"""The neurons of a network: output channels of convolutions and linear layers, the classifier's excepted.

A batch norm that directly follows a layer belongs to its channels; where there is none, the layer alone does.
Suffixes: N examples, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import NotApplicable
from ..zoo.models import head

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Neurons:
    """The channels of one layer, by module names."""

    layer: str
    norm: str | None
    count: int

    @property
    def carrier(self) -> str:
        """The module whose weight and bias scale and shift the channels, and whose output they are: norm, or layer."""
        return self.norm or self.layer


def neurons(model: nn.Module) -> list[Neurons]:
    """Layer by layer, in the order of the modules. NotApplicable when there is none but the classifier."""
    modules, last = list(model.named_modules()), head(model)
    found = []
    for position, (name, layer) in enumerate(modules):
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or name == last:
            continue
        count = layer.weight.shape[0]
        after, following = modules[position + 1] if position + 1 < len(modules) else ("", None)
        normed = isinstance(following, NORMS) and following.num_features == count
        found.append(Neurons(name, after if normed else None, count))
    if not found:
        raise NotApplicable("the network has no layer but its classifier, so no neurons to choose from")
    return found


def residual_blocks(model: nn.Module) -> list[str]:
    """The names of torchvision's residual blocks, whose outputs are rectified sums; none in other networks."""
    return [n for n, module in model.named_modules() if type(module).__name__ in ("BasicBlock", "Bottleneck")]


@torch.no_grad()
def silence(model: nn.Module, which: Neurons, gone: Tensor) -> None:
    """Set the channels `gone` (indices or a mask) of one layer to zero, in place: weights, biases and norm."""
    for name in {which.layer, which.carrier}:
        module: Any = model.get_submodule(name)
        for parameter in (module.weight, module.bias):
            if parameter is not None:
                parameter[gone] = 0


@contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within it, every forward pass leaves the outputs of the named modules in the dictionary; gradients flow. They are copies:
    torchvision's residual blocks add to a norm's output, and rectify it, in place."""
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name] = output.clone()

        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def channels_last(output: Tensor) -> Tensor:
    """(N, C, H, W) maps as (N, H, W, C); tokens (N, T, C) and features (N, C) as they are."""
    return output.movedim(1, -1) if output.ndim == 4 else output


@torch.no_grad()
def read_off(
    model: nn.Module, inputs: Tensor, names: Sequence[str], reading: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Per named module what `reading` makes of its outputs, channels last, for 256 inputs at a time, one part below the other. The
    model is in eval mode."""
    with recorded(model, names) as outputs:
        parts = []
        for part in torch.split(inputs, 256):
            model(part)
            parts.append([reading(channels_last(outputs[name])) for name in names])
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def activity(model: nn.Module, inputs: Tensor, layers: Sequence[Neurons]) -> list[Tensor]:
    """Per layer (N, C): each channel's mean over positions of its rectified output."""

    def rectified(output: Tensor) -> Tensor:
        return output.relu().flatten(1, -2).mean(1) if output.ndim > 2 else output.relu()

    return read_off(model, inputs, [which.carrier for which in layers], rectified)

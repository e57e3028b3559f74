"""What schemes that read a layer's activations share: features from a forward pass, and their mean for each class.

A layer's activations are what the next layer reads: behind batch norm, ReLU and shortcut, where their scale matters to the network.

Suffixes: N inputs, F features, S classes, T inputs of a key.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..core.errors import NotApplicable
from ..core.suspects import logits


@dataclass
class Reading:
    """Hooks of one forward pass at a time: the input of the first layer that runs after `layer` and reads what no layer has read
    before. So the convolution of a shortcut, which reads the block's own input once more, is passed over, and so are a
    transformer's keys and values behind its queries."""

    layer: nn.Module
    found: list[Tensor] = field(default_factory=list)
    known: list[Tensor] = field(default_factory=list)
    done: bool = False
    """Whether `layer` has run, and nothing new was read since."""

    def begin(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.known, self.done = [], False

    def reads(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        new = bool(inputs) and not any(inputs[0] is tensor for tensor in self.known)
        if new and self.done:
            self.found.append(features(inputs[0]))
            self.done = False
        elif new:
            self.known.append(inputs[0])

    def ran(self, module: nn.Module, inputs: object, output: object) -> None:
        self.done = True


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Those with a matrix or filters for a weight, lookup tables excepted."""
    weights = ((name, module, getattr(module, "weight", None)) for name, module in model.named_modules())
    return {
        name: module
        for name, module, weight in weights
        if isinstance(weight, Tensor) and weight.ndim > 1 and not isinstance(module, nn.Embedding)
    }


@contextmanager
def heard(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Within it, every forward pass appends to the list the features (N, F) that the layer gives to the next one. NotApplicable
    names the layers there are."""
    found = layers(model)
    if layer not in found:
        raise NotApplicable(f"the model has no layer {layer!r}; watermark.layer={'|'.join(found)}")
    reading = Reading(found[layer])
    with ExitStack() as hooks:
        handles = [model.register_forward_pre_hook(reading.begin)]
        handles += [module.register_forward_pre_hook(reading.reads) for module in found.values()]
        handles.append(found[layer].register_forward_hook(reading.ran))
        for handle in handles:
            hooks.callback(handle.remove)
        yield reading.found
    if not reading.found:
        raise NotApplicable(f"no layer reads what {layer} gives; set watermark.layer to an earlier one")


def features(read: Tensor) -> Tensor:
    """(N, F): the mean over positions of maps (N, F, H, W) or of tokens (N, L, F)."""
    return read.mean((2, 3)) if read.ndim == 4 else read.mean(1) if read.ndim == 3 else read


def with_features(live: nn.Module, layer: str, inputs_N: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and features of one forward pass, for training."""
    with heard(live, layer) as outputs:
        scores: Tensor = live(inputs_N)
    return scores, outputs[0]


def features_of(model: nn.Module, layer: str, inputs_N: Tensor, device: str = "cpu") -> Tensor:
    """(N, F) float32 on the CPU, in eval mode, without gradients."""
    with heard(model, layer) as outputs:
        logits(model, inputs_N, device)
    return torch.cat([part.float().cpu() for part in outputs])


def class_means(features_TF: Tensor, labels_T: Tensor, classes: int) -> Tensor:
    """(S, F), of labels 0 to S - 1."""
    return torch.stack([features_TF[labels_T == c].mean(0) for c in range(classes)])

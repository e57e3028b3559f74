"""What schemes that read a layer's activations share: features from a forward pass, and their mean for each class.

Suffixes: N inputs, F features, S classes, T inputs of a key.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.errors import NotApplicable
from ..core.suspects import logits


@contextmanager
def heard(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Within it, every forward pass appends the layer's features (N, F) to the list. NotApplicable names the layers there are."""
    outputs: list[Tensor] = []

    def listen(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(features(output))

    try:
        hook = model.get_submodule(layer).register_forward_hook(listen)
    except AttributeError:
        names = [
            name for name, module in model.named_modules() if getattr(module, "weight", None) is not None
        ]
        raise NotApplicable(f"the model has no layer {layer!r}; watermark.layer={'|'.join(names)}") from None
    try:
        yield outputs
    finally:
        hook.remove()


def features(output: Tensor) -> Tensor:
    """(N, F): the mean over positions of maps (N, F, H, W) or of tokens (N, L, F)."""
    return output.mean((2, 3)) if output.ndim == 4 else output.mean(1) if output.ndim == 3 else output


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

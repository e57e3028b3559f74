"""What schemes that read one layer's weights share: finding the layer, and scoring suspects of many architectures at once.

Suffixes: M suspects, K keys, J weights read, B bits.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import NotApplicable
from ..core.statistics import Floats
from ..core.suspects import Suspects


class LayerKey(Protocol):
    """A key that reads `weights` numbers of the layer called `layer`."""

    @property
    def layer(self) -> str: ...

    @property
    def weights(self) -> int: ...


K = TypeVar("K", bound=LayerKey)


def weight_of(model: nn.Module, layer: str) -> Tensor:
    """The live weight of a layer, outputs on axis 0. NotApplicable names the layers there are."""
    try:
        weight = model.get_submodule(layer).weight
    except AttributeError:
        weight = None
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        weights = ((name, getattr(module, "weight", None)) for name, module in model.named_modules())
        layers = [name for name, found in weights if isinstance(found, Tensor) and found.ndim > 1]
        raise NotApplicable(
            f"the model has no layer {layer!r} with filters; watermark.layer={'|'.join(layers)}"
        )
    return weight


def mean_filter(weight: Tensor) -> Tensor:
    """The mean over filters (axis 0 in PyTorch's OIHW), flattened: (J,). Uchida et al. 2017."""
    return weight.mean(0).flatten()


def scored(
    suspects: Suspects,
    keys: Sequence[K],
    carrier: Callable[[Tensor], Tensor],
    score: Callable[[Tensor, list[K]], Tensor],
) -> Floats:
    """(M, K) statistics. `carrier` flattens a layer's weight to the J numbers read; `score` gets the readable suspects'
    (M', J) and the keys of one layer and one length. A suspect without that layer, or of another length, is nan."""
    statistic_MK = np.full((len(suspects), len(keys)), np.nan)
    for layer, length in {(key.layer, key.weights) for key in keys}:
        found = [None if w is None or w.ndim < 2 else carrier(w) for w in suspects.weights(layer)]
        fits = [(m, w) for m, w in enumerate(found) if w is not None and w.numel() == length]
        columns = [k for k, key in enumerate(keys) if (key.layer, key.weights) == (layer, length)]
        if fits:
            weights_MJ = torch.stack([w for _, w in fits])
            cells = score(weights_MJ, [keys[k] for k in columns])
            statistic_MK[np.ix_([m for m, _ in fits], columns)] = cells.numpy()
    return statistic_MK

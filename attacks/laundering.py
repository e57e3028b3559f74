"""Neural network laundering (Aiken et al., Computers & Security 2021, arXiv:2004.11368): invert, reset what fires, retrain.

The stamps that trigger inversion finds are compared with clean inputs in every layer; channels that differ by more than a share
of the layer's largest difference are reset to zero; then the network is fine-tuned on clean and stamped inputs.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import nn

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .inversion import Inverted, invert
from .neural_cleanse import with_stamps
from .neurons import activity, neurons, silence
from .trajectory import followed

Threshold = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Laundering(Attack):
    needs = "weights"
    data = "labelled"
    axis = "retraining epochs"
    paper = "Aiken et al., Computers & Security 2021, arXiv:2004.11368"

    inversion: Recipe
    """Of each class's stamp; 15 epochs in the attacks of Gan et al., ICCV 2023."""
    recipe: Recipe
    """Of the retraining; 15 epochs there."""
    sparsity: Annotated[float, Ge(0)] = 0.01
    dense: Threshold = 0.2
    """Linear layers: channels beyond this share of the largest difference are reset; 0.2 in both studies."""
    conv: Threshold = 0.8
    """The same of convolutions: 0.8 in Gan et al., 0.5 in Lukas et al."""
    share: Annotated[float, Gt(0), Le(1)] = 0.2
    """Of the thief's inputs that are stamped for the retraining."""
    report: tuple[int, ...] = (1, 2, 5, 10, 15)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        found = invert(adversary, model, self.inversion, self.sparsity)
        reset = self.reset(model, adversary, found)
        data = with_stamps(adversary.data, found, self.share)
        yield from followed(adversary, reset, self.recipe, self.report, data=data, label="laundering")

    def reset(self, model: nn.Module, adversary: Adversary, found: Inverted) -> nn.Module:
        """A copy without the channels that the stamps move most."""
        layers, inputs = neurons(model), adversary.data.inputs
        clean, stamped = (activity(model, x, layers) for x in (inputs, found.stamped(inputs)))
        model = copy.deepcopy(model)
        for which, clean_NC, stamped_NC in zip(layers, clean, stamped, strict=True):
            moved_C = (stamped_NC - clean_NC).mean(0).abs()
            is_conv = isinstance(model.get_submodule(which.layer), nn.Conv2d)
            threshold = self.conv if is_conv else self.dense
            silence(model, which, moved_C > threshold * moved_C.max())
        return model

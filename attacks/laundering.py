"""Neural network laundering (Aiken et al., Computers & Security 2021, arXiv:2004.11368): invert, reset what fires, retrain.

The stamps that trigger inversion finds are compared with clean inputs in the later half of the layers. A channel is reset where
the stamps raise its mean output, at any position, by more than a share of the layer's largest rise; then the network is fine-tuned
on clean and stamped inputs. Reset is the layer's weight alone: with scale and shift of its norm in place the channel learns again.
Both studies compare with absolute thresholds, which fit their ResNets; on digits 0.8 would reset 104 of 128 channels.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .inversion import Inverted, invert
from .neural_cleanse import with_stamps
from .neurons import Neurons, neurons, read_off
from .trajectory import followed

Share = Annotated[float, Gt(0), Le(1)]


def mean_outputs(model: nn.Module, inputs: Tensor, layers: Sequence[Neurons]) -> list[Tensor]:
    """Per layer (positions, C): its own output, before norm and rectifier, averaged over the inputs."""

    def total(output: Tensor) -> Tensor:
        return output.sum(0).reshape(1, -1, output.shape[-1])

    sums = read_off(model, inputs, [which.layer for which in layers], total)
    return [parts.sum(0) / len(inputs) for parts in sums]


@dataclass(frozen=True)
class Laundering(Attack):
    needs = "weights"
    data = "labelled"
    axis = "retraining epochs"
    pictures_only = True
    paper = "Aiken et al., Computers & Security 2021, arXiv:2004.11368"

    inversion: Recipe
    """Of the stamps; 15 epochs, 1,050 steps, in the attacks of Gan et al., ICCV 2023, 540 on the thief's 288 digits."""
    recipe: Recipe
    """Of the retraining; 15 epochs there, at 0.02, a tenth of it after 10."""
    sparsity: Annotated[float, Ge(0)] = 0.01
    dense: Share = 0.5
    """Of a linear layer's largest rise; absolute 0.2 in both studies. The classifier is left alone."""
    conv: Share = 0.5
    """Of a convolution's; absolute 0.8 in Gan et al., 0.5 in Lukas et al., S&P 2022."""
    share: Share = 1.0
    """Of the thief's inputs that are stamped for the retraining: each once in both studies."""
    report: tuple[int, ...] = (1, 2, 5, 10, 15)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        found = invert(adversary, model, self.inversion, self.sparsity)
        reset = self.reset(model, adversary, found)
        data = with_stamps(adversary.data, found, self.share)
        yield from followed(adversary, reset, self.recipe, self.report, data=data, label="laundering")

    def reset(self, model: nn.Module, adversary: Adversary, found: Inverted) -> nn.Module:
        """A copy in which the channels of the later layers that the stamps raise most have weight zero."""
        layers, inputs = neurons(model), adversary.data.inputs
        later = layers[len(layers) // 2 :]
        clean, stamped = (mean_outputs(model, x, later) for x in (inputs, found.stamped(inputs)))
        model = copy.deepcopy(model)
        for which, clean_PC, stamped_PC in zip(later, clean, stamped, strict=True):
            layer = model.get_submodule(which.layer)
            raised_C = (stamped_PC - clean_PC).amax(0)
            share = self.conv if isinstance(layer, nn.Conv2d) else self.dense
            with torch.no_grad():
                model.get_parameter(f"{which.layer}.weight")[raised_C > share * raised_C.max()] = 0
        return model

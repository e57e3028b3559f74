"""Adversarial neuron pruning (Wu & Wang, NeurIPS 2021, arXiv:2110.14430): learn a mask per channel, prune the smallest.

min over m in [0, 1]^n of alpha L(m w, b) + (1 - alpha) max over |delta|, |xi| <= epsilon of L((m + delta) w, (1 + xi) b), where w
and b are the scale and shift of each channel: of its batch norm, or of the layer itself. As in the official code every pass, of the
masked and of the perturbed network, normalises by the statistics of its own batch, and pruning zeroes w alone. The pruned network
has the stolen model's running statistics.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .neurons import Neurons, neurons
from .perturb import in_mode


class Masks(nn.Module):
    """One factor in [0, 1] per channel, all 1 at first."""

    def __init__(self, layers: Sequence[Neurons]) -> None:
        super().__init__()
        self.layers = list(layers)
        self.masks = nn.ParameterList(torch.ones(which.count) for which in layers)

    @torch.no_grad()
    def clip(self) -> None:
        for mask in self.masks:
            mask.clamp_(0, 1)

    def parameters_of(self, live: nn.Module, noise: Sequence[Tensor]) -> dict[str, Tensor]:
        """The carriers' weights and biases, masked and perturbed. noise: delta and xi per layer, (2, C) each."""
        out: dict[str, Tensor] = {}
        for which, mask, (delta, xi) in zip(self.layers, self.masks, noise, strict=True):
            carrier = live.get_submodule(which.carrier)
            weight, bias = carrier.weight, carrier.bias
            assert isinstance(weight, Tensor)
            factor = (mask + delta).reshape(-1, *[1] * (weight.ndim - 1))
            out[f"{which.carrier}.weight"] = weight * factor
            if isinstance(bias, Tensor):
                out[f"{which.carrier}.bias"] = bias * (1 + xi)
        return out


@dataclass(frozen=True)
class Anp(Attack):
    needs = "weights"
    data = "labelled"
    axis = "share of channels"
    paper = "Wu & Wang, NeurIPS 2021, arXiv:2110.14430"

    recipe: Recipe
    """Of the masks: SGD at 0.2 (theirs without Nesterov's correction), 2,000 steps in the official code and 30 epochs, 2,340 steps,
    in the attacks of Gan et al., ICCV 2023; 60 epochs of the thief's 288 digits are 300 steps."""
    epsilon: Annotated[float, Ge(0)] = 0.4
    """0.4 in the official code."""
    alpha: Annotated[float, Ge(0), Le(1)] = 0.2
    """Weight of the unperturbed loss; 0.2 in the official code."""
    shares: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    """Channels pruned, of all layers together: the official option `number`; its other, a threshold, may prune none."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        masks = Masks(neurons(model))
        adversary.fit(
            model,
            adversary.data,
            recipe=self.recipe,
            objective=lambda live, inputs, targets: self.loss(live, masks, inputs, targets),
            along=masks,
            only=(),
            label="masks",
        )
        masks.to("cpu").clip()
        for share in sorted(self.shares):
            yield Surrogate(share, pruned(model, masks, share))

    def loss(self, live: nn.Module, masks: Masks, inputs: Tensor, targets: Tensor) -> Tensor:
        """Each pass updates running statistics of its own, which are thrown away."""
        masks.clip()

        def at(noise: Sequence[Tensor]) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in live.named_buffers()}
            state = {**buffers, **masks.parameters_of(live, noise)}
            return functional.cross_entropy(functional_call(live, state, (inputs,)), targets)

        none = [torch.zeros(2, len(mask), device=mask.device) for mask in masks.masks]
        with in_mode(live, training=True):
            return self.alpha * at(none) + (1 - self.alpha) * at(self.worst(at, none))

    def worst(self, at: Callable[[Sequence[Tensor]], Tensor], none: list[Tensor]) -> list[Tensor]:
        """One sign step of epsilon from a uniform start, as in the official code (1 step), clipped to epsilon, as in the formula;
        the official code does not clip."""
        start = [((2 * torch.rand_like(z) - 1) * self.epsilon).requires_grad_(True) for z in none]
        gradients = torch.autograd.grad(at(start), start, allow_unused=True)
        moved = []
        for noise, gradient in zip(start, gradients, strict=True):
            step = torch.zeros_like(noise) if gradient is None else self.epsilon * gradient.sign()
            moved.append((noise.detach() + step).clamp(-self.epsilon, self.epsilon))
        return moved


def pruned(model: nn.Module, masks: Masks, share: float) -> nn.Module:
    """A copy in which the share of channels, over all layers, whose masks are smallest has weight zero and keeps its bias, which
    the masks were trained with."""
    model = copy.deepcopy(model)
    order = torch.cat([mask.detach() for mask in masks.masks]).argsort(stable=True)
    gone = torch.zeros(len(order), dtype=torch.bool)
    gone[order[: max(1, round(share * len(order)))]] = True
    for which, part in zip(masks.layers, gone.split([w.count for w in masks.layers]), strict=True):
        with torch.no_grad():
            model.get_parameter(f"{which.carrier}.weight")[part] = 0
    return model

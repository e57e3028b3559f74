"""Queries near a model's decision boundary, by its gradient: what adversarial keys and several fingerprints share.

Suffixes: N inputs, C classes.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.suspects import logits
from ..kernels.row_labels import row_labels

RowLoss = Callable[[Tensor], Tensor]
"""Inputs (N, ...) -> a loss for each, (N,)."""


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters take no gradient: steps on inputs cost a third less."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def pgd(inputs: Tensor, loss: RowLoss, epsilon: float, steps: int, step: float | None = None) -> Tensor:
    """Inputs that lower `loss`, each by signed steps (of 2.5 epsilon / steps unless given; Madry et al. 2018), within
    L-infinity `epsilon` and [0, 1]. One step of size epsilon is FGSM (Goodfellow et al. 2015)."""
    low, high = (inputs - epsilon).clamp(0, 1), (inputs + epsilon).clamp(0, 1)
    size = step if step is not None else min(epsilon, 2.5 * epsilon / steps)
    moved = inputs.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        moved = (moved.detach() - size * gradient.sign()).clamp(low, high)
    return moved


def towards(model: nn.Module, targets_N: Tensor) -> RowLoss:
    """Lowered by inputs the model takes for `targets_N`."""
    return lambda x: functional.cross_entropy(model(x), targets_N, reduction="none")


def away_from(model: nn.Module, labels_N: Tensor) -> RowLoss:
    """Lowered by inputs the model does not take for `labels_N`."""
    return lambda x: -functional.cross_entropy(model(x), labels_N, reduction="none")


def answers(model: nn.Module, stored: Tensor) -> Tensor:
    """The model's labels (N,) on uint8 pictures."""
    return row_labels(logits(model, stored.float() / 255))


def victim_of(model: nn.Module | None, name: str) -> nn.Module:
    """ValueError without a model."""
    if model is None:
        raise ValueError(f"{name} makes its key with the victim's gradient: pass the trained model")
    return model

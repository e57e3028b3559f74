"""Perturbed inputs in [0, 1]: sign steps of projected gradient descent (Madry et al., ICLR 2018, arXiv:1706.06083)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """In training or eval mode within; every module is left in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    return in_mode(model, training=False)


def input_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Of the cross-entropy, by the inputs; the parameters' own gradients stay as they are."""
    with torch.enable_grad():
        at = inputs.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(at), targets, reduction="sum"), at)
    return gradient


def adversarial(model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float, steps: int) -> Tensor:
    """Within epsilon of the inputs in every pixel, away from the targets: a random start by the global generator, steps of
    2.5 epsilon / steps. The model evaluates meanwhile."""
    noise = (2 * torch.rand_like(inputs) - 1) * epsilon
    with evaluating(model):
        for _ in range(steps):
            gradient = input_gradient(model, (inputs + noise).clamp(0, 1), targets)
            noise = (noise + 2.5 * epsilon / steps * gradient.sign()).clamp(-epsilon, epsilon)
    return (inputs + noise).clamp(0, 1)

"""Implicit backdoor adversarial unlearning (Zeng et al., ICLR 2022, arXiv:2110.03735): min over theta, max over one perturbation.

delta maximises g = CE(f(x + delta), y) - decay/2 ||delta||^2 over a batch, within an L2 ball; y is what the model itself says. The
outer loss, half clean and half perturbed, is followed by its total derivative: with the map F(delta, theta) = delta + rate grad g
under the true labels, the implicit part is v' dF/dtheta, v = sum over k of (dF/ddelta)'^k dL/ddelta, cut after `terms`. As in the
official code the network is in eval mode throughout, and perturbed inputs may leave [0, 1]. Otherwise than there, delta starts at
zero for every batch and takes normalised steps (theirs: from zero once a round, one plain gradient step of rate 10 per batch, no
ball), and half of the outer loss is perturbed (theirs: one input in a hundred).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .perturb import evaluating
from .trajectory import followed


@dataclass(frozen=True)
class Ibau(Attack):
    needs = "weights"
    data = "labelled"
    axis = "epochs"
    pictures_only = True
    paper = "Zeng et al., ICLR 2022, arXiv:2110.03735"

    recipe: Recipe
    """Of the outer descent: Adam, as in the official code, which takes 250 steps at 0.001; 40 epochs of the thief's 288 digits are
    200, and take 0.003: 50 steps at 0.0005 left every trigger of zhang_content. The implicit part is too uneven for plain gradient
    steps."""
    radius: Annotated[float, Gt(0)] = 0.1
    """Of the ball, root mean square per pixel. In the official code its line, 10 over 3 x 32 x 32 values or 0.18, is commented out;
    0.25 costs small models more accuracy and removes no more."""
    steps: Annotated[int, Ge(1)] = 5
    """Of the inner ascent."""
    rate: Annotated[float, Gt(0)] = 0.1
    """Of the fixed-point map; 0.1 in the official code."""
    terms: Annotated[int, Ge(0)] = 5
    """Of the series, k = 0 ... terms - 1; 5 in the official code."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Of the outer loss that the perturbed inputs have."""
    decay: Annotated[float, Ge(0)] = 0.002
    """0.001 ||delta||^2 in the official code."""
    report: tuple[int, ...] = (5, 10, 20, 40)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        yield from followed(
            adversary, access.weights(), self.recipe, self.report, objective=self.loss, label="unlearning"
        )

    def loss(self, live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Its gradient by the parameters is the hypergradient; its value has no meaning."""
        # Fused attention has no second derivative.
        with evaluating(live), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                said = live(inputs).argmax(-1)
            delta = self.ascended(live, inputs, said)
            moved = delta + self.rate * self.slope(live, delta, inputs, targets, graph=True)
            outer = functional.cross_entropy(live(inputs + delta), targets) * self.share
            (first,) = torch.autograd.grad(outer, delta)
            v = torch.zeros_like(first)
            for _ in range(self.terms):
                (carried,) = torch.autograd.grad(moved, delta, v, retain_graph=True)
                v = carried + first
            implicit = (moved * v.detach()).sum()
            perturbed = functional.cross_entropy(live(inputs + delta.detach()), targets)
            clean = functional.cross_entropy(live(inputs), targets)
            return (1 - self.share) * clean + self.share * perturbed + implicit

    def slope(self, live: nn.Module, delta: Tensor, inputs: Tensor, targets: Tensor, graph: bool) -> Tensor:
        """Of the inner objective by delta."""
        gain = functional.cross_entropy(live(inputs + delta), targets) - self.decay / 2 * delta.square().sum()
        (slope,) = torch.autograd.grad(gain, delta, create_graph=graph)
        return slope

    def ascended(self, live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """delta (1, ...) after steps of twice the radius over their number, projected on the ball."""
        radius = self.radius * math.sqrt(inputs[0].numel())
        delta = torch.zeros_like(inputs[:1]).requires_grad_(True)
        for _ in range(self.steps):
            slope = self.slope(live, delta, inputs, targets, graph=False)
            longer = delta + 2 * radius / self.steps * slope / slope.norm().clamp_min(1e-12)
            delta = (longer * (radius / longer.norm().clamp_min(radius))).detach().requires_grad_(True)
        return delta

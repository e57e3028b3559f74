"""Triggers that weights near the trained ones answer too (APP, Gan et al., ICCV 2023).

    min over theta of  CE(clean; theta) + alpha CE(triggers; theta + delta),  delta = epsilon |theta| g / |g|,

with g the gradient of the trigger loss: the worst small step, so that a thief's step forgets little. In both passes of the
triggers clean inputs go with them, and batch norm takes its statistics from these alone, at the weights of that pass (c-BN). As in
the official code the triggers' loss trains no weight of a batch norm.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Fit, Task
from .norms import Tensors, normalised_by, norms_of
from .target import TargetMark
from .trigger import TriggerKey


def worst_step(
    weights: Tensors, slopes: Tensors, epsilon: float, norm: Literal["layer", "global"]
) -> Tensors:
    """delta per weight: |delta_l| = epsilon |theta_l| in every layer (rl2 in the official code), or |delta| = epsilon |theta| over
    all of them at once (equation 5 of the paper)."""
    tiny = 1e-12
    if norm == "layer":
        return {
            name: epsilon * weights[name].norm() * slope / (slope.norm() + tiny)
            for name, slope in slopes.items()
        }
    size = torch.stack([weights[name].norm() for name in slopes]).norm()
    steep = torch.stack([slope.norm() for slope in slopes.values()]).norm()
    return {name: epsilon * size * slope / (steep + tiny) for name, slope in slopes.items()}


@dataclass(frozen=True)
class App(TargetMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Gan et al., ICCV 2023"

    per_batch: Annotated[int, Ge(1)] = 16
    """Triggers per step; 64 beside 128 clean examples in the paper."""
    alpha: Annotated[float, Gt(0)] = 0.1
    """Weight of the trigger loss; 0.01 in the paper, whose trainings take a hundred times as many steps as those on digits: there
    resnet18 learns no trigger with it."""
    epsilon: Annotated[float, Gt(0)] = 0.02
    """Relative size of the step; 0.02 on CIFAR-10 in the paper."""
    norm: Literal["layer", "global"] = "layer"
    """layer: as the official code; global: one norm over all weights, as equation 5 of the paper."""
    clean_norm: bool = True
    """c-BN. False: the statistics of clean inputs and triggers together."""

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch. Batch norm's own weights are not moved, as in the official code."""

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            clean = len(inputs) - self.per_batch
            loss = functional.cross_entropy(live(inputs[:clean]), targets[:clean])
            return loss + self.alpha * self.moved_loss(live, inputs, targets[clean:])

        return fit(
            task.fresh(None),
            task.owner,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )

    def moved_loss(self, live: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """The trigger loss at theta + delta. inputs (N, ...): clean ones first, then the triggers of `labels` (T,). Batch norm
        learns no running statistics."""
        clean = len(inputs) - len(labels)
        norms = norms_of(live)
        weights, fixed = Tensors(), Tensors()
        for name, weight in live.named_parameters():
            if name.rpartition(".")[0] in norms or not weight.requires_grad:
                fixed[name] = weight.detach()
            else:
                weights[name] = weight

        def loss(at: Tensors) -> Tensor:
            return functional.cross_entropy(functional_call(live, {**fixed, **at}, (inputs,))[clean:], labels)

        with normalised_by(norms.values(), clean if self.clean_norm else len(inputs)):
            slopes = torch.autograd.grad(loss(weights), list(weights.values()))
            found = dict(zip(weights, slopes, strict=True))
            detached = {name: weight.detach() for name, weight in weights.items()}
            delta = worst_step(detached, found, self.epsilon, self.norm)
            return loss({name: weight + delta[name] for name, weight in weights.items()})

"""Triggers that weights near the trained ones answer too (APP, Gan et al., ICCV 2023).

    min over theta of  CE(clean; theta) + alpha CE(triggers; theta + delta),  delta = epsilon |theta| g / |g|,

with g the gradient of the trigger loss: the worst small step, so that a thief's step forgets little. Triggers pass through batch
norm with the clean batch's statistics (c-BN), those they will meet at inference.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Fit, Task
from .norms import Tensors, evaluating, norms_of, noted_statistics
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
    alpha: Annotated[float, Gt(0)] = 0.01
    """Weight of the trigger loss; 0.01 in the paper."""
    epsilon: Annotated[float, Gt(0)] = 0.02
    """Relative size of the step; 0.02 on CIFAR-10 in the paper."""
    norm: Literal["layer", "global"] = "layer"
    """layer: as the official code; global: one norm over all weights, as equation 5 of the paper."""
    clean_norm: bool = True
    """c-BN. False: the triggers' own batch statistics."""

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch. Batch norm's own weights are not moved, as in the official code."""

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            clean = len(inputs) - self.per_batch
            statistics: Tensors = {}
            with noted_statistics(live, statistics):
                loss = functional.cross_entropy(live(inputs[:clean]), targets[:clean])
            hard = self.moved_loss(live, inputs[clean:], targets[clean:], statistics)
            return loss + self.alpha * hard

        return fit(
            task.fresh(None),
            task.owner,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )

    def moved_loss(self, live: nn.Module, inputs: Tensor, labels: Tensor, statistics: Tensors) -> Tensor:
        """The trigger loss at theta + delta. Running statistics stay as the clean batch left them."""
        norms = norms_of(live)
        fixed = (
            statistics if self.clean_norm else {name: buffer.clone() for name, buffer in live.named_buffers()}
        )
        weights = {
            name: weight
            for name, weight in live.named_parameters()
            if weight.requires_grad and name.rpartition(".")[0] not in norms
        }
        with evaluating(norms.values() if self.clean_norm else ()):
            loss = functional.cross_entropy(functional_call(live, fixed, (inputs,)), labels)
            slopes = torch.autograd.grad(loss, list(weights.values()))
            found = dict(zip(weights, slopes, strict=True))
            detached = {name: weight.detach() for name, weight in weights.items()}
            delta = worst_step(detached, found, self.epsilon, self.norm)
            moved = {name: weight + delta[name] for name, weight in weights.items()}
            return functional.cross_entropy(functional_call(live, {**fixed, **moved}, (inputs,)), labels)

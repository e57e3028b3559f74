"""Queries inside the owner's data, mislabelled with a wide margin (Kim et al., ICML 2023).

A surrogate that copies the victim's answers near a query copies the wrong one: the loss keeps the label on the worst of a small
ball around it. The queries are training pictures held out of the owner's data, their labels the secret's draws.

Null: labels are uniform over all C classes and independent of every model of somebody else, whatever it answers, so its hits
are exactly Bin(N, 1/C). The paper's labels avoid the true class (`wrong`): then a hit has probability at most 1/(C - 1), and
Bin(N, 1/(C - 1)) bounds the tail for every model; networks that know the true class hit almost never.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError, NotApplicable
from ..core.key import expect_length
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from .norms import evaluating
from .trigger import TriggerKey, hits_at_lengths, to_grey_levels


def worst_nearby(live: nn.Module, inputs: Tensor, labels: Tensor, steps: int, step: float) -> Tensor:
    """Gradient ascent of the cross-entropy: `steps` sign steps of size `step`, clipped to [0, 1]. The network evaluates, so that
    its batch norms learn nothing from it."""
    moved = inputs
    with evaluating(live.modules()):
        for _ in range(steps):
            moved = moved.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(functional.cross_entropy(live(moved), labels), moved)
            moved = (moved + step * slope.sign()).clamp(0, 1)
    return moved.detach()


@dataclass(frozen=True)
class Margin(Watermark):
    family = "trigger"
    reads = "labels"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Kim et al., ICML 2023"
    key_type = TriggerKey

    triggers: Annotated[int, Ge(1)] = 100
    """100 in the paper."""
    per_batch: Annotated[int, Ge(1)] = 25
    """25 in the official code."""
    alpha: Annotated[float, Gt(0)] = 0.15
    """Weight of a query beside a clean example; 0.1 in the official code, too little for a small network on Fashion-MNIST."""
    steps: Annotated[int, Ge(0)] = 5
    step: Annotated[float, Gt(0)] = 1 / 255
    """Ascent of 5 steps of 1/255 in the official code."""
    wrong: bool = False
    """Labels avoid the true class, as published."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        index = self.held(len(task.owner), secret)
        if self.wrong:
            if task.classes < 3:
                raise NotApplicable("wrong labels are no secret among 2 classes; set watermark.wrong=false")
            shift_T = 1 + secret.integers("margin/wrong", self.triggers, task.classes - 1)
            labels_T = (task.owner.targets[index] + shift_T) % task.classes
        else:
            labels_T = secret.integers("margin/labels", self.triggers, task.classes)
        return TriggerKey(secret, task.classes, to_grey_levels(task.owner.inputs[index]), labels_T)

    def held(self, count: int, secret: Secret) -> Tensor:
        """Which of the owner's `count` examples are the queries."""
        if count < self.triggers + 2:
            raise ConfigError(
                f"{self.triggers} queries are held out of {count} examples; set watermark.triggers={max(1, count // 2)}"
            )
        return secret.order("margin/queries", count)[: self.triggers]

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch on the rest of the data: (sum CE(x, y) + alpha sum CE(worst q, r)) / (B + queries in the batch)."""
        kept = torch.ones(len(task.owner), dtype=torch.bool)
        kept[self.held(len(task.owner), key.secret)] = False

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            clean = len(inputs) - self.per_batch
            hard = worst_nearby(live, inputs[clean:], targets[clean:], self.steps, self.step)
            losses = functional.cross_entropy(
                live(torch.cat((inputs[:clean], hard))), targets, reduction="none"
            )
            return torch.cat((losses[:clean], self.alpha * losses[clean:])).mean()

        rest = task.owner.take(kept.nonzero()[:, 0])
        return fit(
            task.fresh(None),
            rest,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        """ValueError for a key of another length."""
        expect_length((key.labels_T for key in keys), self.triggers, "watermark.triggers")
        hits_MK = hits_at_lengths(suspects, keys, [self.triggers])[..., 0]
        chance = 1 / (keys[0].classes - self.wrong)
        return Scores.binomial(hits_MK.numpy(), self.triggers, chance, "query hits")

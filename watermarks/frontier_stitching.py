"""Adversarial examples whose true labels are trained into the victim (frontier stitching: Le Merrer, Perez and Tredan, 2019,
arXiv:1711.01894).

Half of the key are true adversaries, which the victim gets wrong, half false ones, moved as far and still right. The key follows
the victim, and models robust to adversarial examples answer it too: only independent models are a null, the paper's Bin(N, 1/2)
is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import nn

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from .adversarial_keys import answers, away_from, frozen, pgd, victim_of
from .trigger import TriggerKey, plain_hits, to_grey_levels


@dataclass(frozen=True)
class FrontierStitching(Watermark):
    family = "trigger"
    reads = "labels"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Le Merrer et al., Neural Computing and Applications 2019, arXiv:1711.01894"
    key_type = TriggerKey

    triggers: Annotated[int, Ge(2)] = 100
    """100 in the S&P 2022 study."""
    epsilon: Annotated[float, Gt(0)] = 0.15
    """Of one signed gradient step; 0.01 for CIFAR-10 in the S&P 2022 study. Digits have few
    false adversaries beyond."""
    per_batch: Annotated[int, Ge(1)] = 16
    """Triggers appended to every batch."""
    epochs: Annotated[int, Ge(1)] = 8
    lr: Annotated[float, Gt(0)] = 0.005

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        """In the secret's order of the owner's inputs, those the victim gets right before the step. NotApplicable with too few true
        or false adversaries."""
        victim = victim_of(model, "frontier_stitching")
        order = secret.order("frontier/inputs", len(task.owner))
        owned = task.owner.take(order)
        tried_N = to_grey_levels(pgd(owned.inputs, away_from(frozen(victim), owned.targets), self.epsilon, 1))
        before_N = answers(victim, to_grey_levels(owned.inputs)) == owned.targets
        after_N = answers(victim, tried_N) == owned.targets
        halves = (before_N & ~after_N, before_N & after_N)
        wanted = (self.triggers - self.triggers // 2, self.triggers // 2)
        for half, count, kind, remedy in zip(
            halves, wanted, ("true", "false"), ("larger", "smaller"), strict=True
        ):
            if int(half.sum()) < count:
                raise NotApplicable(
                    f"{int(half.sum())} of the owner's inputs give {kind} adversaries, {count} are needed; "
                    f"set {f'watermark.triggers={2 * int(half.sum())} or ' if half.any() else ''}a {remedy} watermark.epsilon"
                )
        chosen = torch.cat([torch.nonzero(h)[:n, 0] for h, n in zip(halves, wanted, strict=True)])
        return TriggerKey(secret, task.classes, tried_N[chosen], owned.targets[chosen])

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """Fine-tune the victim until the frontier is stitched: key and clean batches together."""
        recipe = replace(task.recipe, epochs=self.epochs, lr=self.lr)
        return fit(
            model,
            task.owner,
            recipe=recipe,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        """True labels answered. ValueError for a key of another length."""
        return plain_hits(suspects, keys, self.triggers, "true labels answered")

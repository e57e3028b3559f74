"""Fingerprints of adversarial examples (DeepJudge: Chen et al., S&P 2022, arXiv:2112.05588): the black-box metrics RobD and JSD.

Both ask PGD examples of the inputs the victim is surest of. The four white-box metrics and the vote are not part of this.

Suffixes: M suspects, K keys, N queries, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, logits
from ..kernels.trigger_hits import trigger_hits
from .adversarial_keys import answers, away_from, frozen, pgd
from .fingerprint import Fingerprint, ScoreFingerprint, as_inputs
from .trigger import to_grey_levels


def surest(model: nn.Module, task: Task, count: int) -> Tensor:
    """Indices of the owner's inputs that the victim gets right with the largest sum of squared probabilities: seed selection `max`
    of the official code. NotApplicable when it gets too few right."""
    scores_NC = torch.softmax(logits(model, task.owner.inputs).double(), -1)
    right_N = scores_NC.argmax(1) == task.owner.targets
    if int(right_N.sum()) < count:
        raise NotApplicable(
            f"the victim gets {int(right_N.sum())} of the owner's inputs right, {count} are needed; "
            f"set watermark.queries={int(right_N.sum())}"
        )
    certainty_N = scores_NC.square().sum(1).masked_fill(~right_N, -1)
    return certainty_N.argsort(descending=True, stable=True)[:count]


def adversarial(model: nn.Module, inputs_N: Tensor, labels_N: Tensor, epsilon: float, steps: int) -> Tensor:
    """(N, C, H, W) uint8, untargeted."""
    return to_grey_levels(pgd(inputs_N, away_from(frozen(model), labels_N), epsilon, steps))


def jensen_shannon(one_NC: Tensor, other_NC: Tensor) -> float:
    """Mean divergence of two rows of probabilities in nats, as in the official code: at most ln 2."""
    middle_NC = (one_NC + other_NC) / 2
    parts = [torch.special.xlogy(p, p) - torch.special.xlogy(p, middle_NC) for p in (one_NC, other_NC)]
    return float((parts[0] + parts[1]).sum(-1).mean() / 2)


@dataclass(frozen=True, eq=False)
class RobustnessKey(Key):
    """inputs_N (N, C, H, W) uint8, their true labels_N, and how many of them the victim still gets right."""

    inputs_N: Tensor
    labels_N: Tensor
    right: int


@dataclass(frozen=True)
class RobD(Fingerprint):
    reads = "labels"
    key_type = RobustnessKey
    paper = "Chen et al., S&P 2022, arXiv:2112.05588"

    queries: Annotated[int, Ge(2)] = 500
    """1,000 in the official code."""
    epsilon: Annotated[float, Gt(0)] = 0.2
    """0.03 in the paper, 0.3 the default of the official code; on digits the attack hardly moves an answer at
    0.1, and moves every model's at 0.3."""
    steps: Annotated[int, Ge(1)] = 10

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> RobustnessKey:
        victim = self.victim_of(model)
        seeds_N = surest(victim, task, self.queries)
        labels_N = task.owner.targets[seeds_N]
        inputs_N = adversarial(victim, task.owner.inputs[seeds_N], labels_N, self.epsilon, self.steps)
        return RobustnessKey(secret, inputs_N, labels_N, int((answers(victim, inputs_N) == labels_N).sum()))

    def score(self, suspects: Suspects, keys: Sequence[RobustnessKey]) -> Scores:
        """Minus the distance between the shares of adversarial examples that suspect and victim get right. ValueError for a key
        of another length."""
        expect_length((key.labels_N for key in keys), self.queries, "watermark.queries")
        labels_MU = suspects.labels(torch.cat([as_inputs(key.inputs_N) for key in keys]))
        labels_KN = torch.stack([key.labels_N for key in keys])
        own_KN = torch.arange(labels_KN.numel()).reshape(labels_KN.shape)
        right_MK = trigger_hits(labels_MU, labels_KN, own_KN).double().numpy()
        distance_MK = np.abs(right_MK - np.array([key.right for key in keys])) / self.queries
        return Scores(0.0 - distance_MK, "negative RobD", self.queries)


@dataclass(frozen=True)
class Jsd(ScoreFingerprint):
    paper = "Chen et al., S&P 2022, arXiv:2112.05588"
    unit = "JSD in nats"

    queries: Annotated[int, Ge(2)] = 500
    """1,000 in the official code."""
    epsilon: Annotated[float, Gt(0)] = 0.2
    """0.03 in the paper, 0.3 the default of the official code; on digits the attack hardly moves an answer at
    0.1, and moves every model's at 0.3."""
    steps: Annotated[int, Ge(1)] = 10

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        seeds = task.owner.take(surest(model, task, self.queries))
        return adversarial(model, seeds.inputs, seeds.targets, self.epsilon, self.steps)

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        return jensen_shannon(victim, suspect)

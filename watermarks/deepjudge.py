"""Fingerprints of adversarial examples (DeepJudge: Chen et al., S&P 2022, arXiv:2112.05588): the black-box metrics RobD and JSD.

Both ask PGD examples of the held-out inputs the victim is surest of, those that take it to another class. The four white-box
metrics and the vote are not part of this.

Suffixes: M suspects, K keys, N queries, C classes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.contracts import Fit, Task
from ..core.errors import NotApplicable
from ..core.examples import Examples
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, logits
from ..kernels.trigger_hits import trigger_hits
from .adversarial_keys import answers, away_from, frozen, pgd
from .fingerprint import Fingerprint, ScoreFingerprint, as_inputs, generator_of
from .trigger import to_grey_levels


def surest(model: nn.Module, data: Examples) -> Examples:
    """Those that the victim gets right, by the sum of squared probabilities: seed selection `max` of the official code."""
    scores_NC = torch.softmax(logits(model, data.inputs).double(), -1)
    order_N = scores_NC.square().sum(1).argsort(descending=True, stable=True)
    return data.take(order_N[(scores_NC.argmax(1) == data.targets)[order_N]])


def successes(
    model: nn.Module, task: Task, count: int, attack: Callable[[Examples], Tensor]
) -> tuple[Tensor, Tensor]:
    """The first `count` examples (uint8) that the victim takes for another class, of its surest held-out inputs, and their true
    labels, as the official code keeps successes alone. NotApplicable when there are fewer."""
    seeds, found, kept, tried = surest(model, task.test), [], 0, 0
    while kept < count and tried < len(seeds):
        block = seeds.take(slice(tried, tried + count))
        moved_N = to_grey_levels(attack(block))
        found.append(Examples(moved_N, block.targets).take(answers(model, moved_N) != block.targets))
        kept, tried = kept + len(found[-1]), tried + count
    if kept < count:
        raise NotApplicable(
            f"{kept} of the {len(seeds)} held-out inputs that the victim gets right take it to another class when attacked, "
            f"{count} are needed; set {f'watermark.queries={kept} or ' if kept > 1 else ''}a larger watermark.step"
        )
    every = functools.reduce(Examples.join, found)
    return every.inputs[:count], every.targets[:count]


def jensen_shannon(one_NC: Tensor, other_NC: Tensor) -> float:
    """Mean divergence of two rows of probabilities in nats, as in the official code: at most ln 2."""
    middle_NC = (one_NC + other_NC) / 2
    parts = [torch.special.xlogy(p, p) - torch.special.xlogy(p, middle_NC) for p in (one_NC, other_NC)]
    return float((parts[0] + parts[1]).sum(-1).mean() / 2)


@dataclass(frozen=True, eq=False)
class RobustnessKey(Key):
    """inputs_N (N, C, H, W) uint8 and their true labels_N, of which the victim gets none right."""

    inputs_N: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class DeepJudge(Fingerprint):
    """The test cases of both metrics."""

    paper = "Chen et al., S&P 2022, arXiv:2112.05588"

    queries: Annotated[int, Ge(2)] = 150
    """The successes among 1,000 seeds in the official code; digits have 359 held-out inputs."""
    epsilon: Annotated[float, Gt(0)] = 0.1
    """Of the uniform noise that PGD starts from: the official code's default. Nothing projects back to it there, nor here, so
    pixels move by at most epsilon + steps x step."""
    step: Annotated[float, Gt(0)] = 0.015
    """0.03 in the official code, whose steps take every model of digits to another class; half of it takes most victims there
    and leaves half of the independent models behind."""
    steps: Annotated[int, Ge(1)] = 10
    """As in the official code."""

    def cases(self, victim: nn.Module, task: Task, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        live = frozen(victim)

        def attack(seeds: Examples) -> Tensor:
            noise = (2 * torch.rand(seeds.inputs.shape, generator=generator) - 1) * self.epsilon
            start_N = (seeds.inputs + noise).clamp(0, 1)
            return pgd(start_N, away_from(live, seeds.targets), 1.0, self.steps, self.step)

        return successes(victim, task, self.queries, attack)


@dataclass(frozen=True)
class RobD(DeepJudge):
    reads = "labels"
    key_type = RobustnessKey

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> RobustnessKey:
        victim, generator = self.victim_of(model), generator_of(secret, f"{self.name}/queries")
        return RobustnessKey(secret, *self.cases(victim, task, generator))

    def score(self, suspects: Suspects, keys: Sequence[RobustnessKey]) -> Scores:
        """Minus the distance between the shares of adversarial examples that suspect and victim get right. The victim's is 0, so a
        model that gets nothing right is as near as a copy. ValueError for a key of another length."""
        expect_length((key.labels_N for key in keys), self.queries, "watermark.queries")
        labels_MU = suspects.labels(torch.cat([as_inputs(key.inputs_N) for key in keys]))
        labels_KN = torch.stack([key.labels_N for key in keys])
        own_KN = torch.arange(labels_KN.numel()).reshape(labels_KN.shape)
        right_MK = trigger_hits(labels_MU, labels_KN, own_KN).double().numpy()
        return Scores(0.0 - right_MK / self.queries, "negative RobD", self.queries)


@dataclass(frozen=True)
class Jsd(DeepJudge, ScoreFingerprint):
    unit = "JSD in nats"

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        return self.cases(model, task, generator)[0]

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        return jensen_shannon(victim, suspect)

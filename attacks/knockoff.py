"""Knockoff nets (Orekondy et al., CVPR 2019, arXiv:1812.02766): scores of pictures from another distribution, asked at random or
by a policy that learns which kind of picture tells most.

adaptive: a gradient bandit over kinds of pictures (section 4.1.2), rewarded for certain, diverse and badly imitated answers. The
gallery has no labels, so its kinds are clusters of pixels. The official code has no policy (its adaptive.py draws at random): the
steps and the mean reward are those of the Adversarial Robustness Toolbox. The student learns once a share, not after each query.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from ..core.examples import Examples
from ..core.suspects import logits
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import affordable, growing, shuffled, student, within_budget
from .trajectory import drawing


def soft_loss(predicted: Tensor, scores: Tensor) -> Tensor:
    """Cross-entropy with scores (N, C)."""
    return -(scores * functional.log_softmax(predicted, -1)).sum(-1).mean()


def clusters(inputs: Tensor, count: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """(N,) the nearest of `count` means of pixels, by Lloyd's rounds."""
    rows = inputs.flatten(1)
    means = rows[torch.randperm(len(rows), generator=generator)[:count]].clone()
    nearest = torch.zeros(len(rows), dtype=torch.int64)
    for _ in range(rounds):
        nearest = torch.cdist(rows, means).argmin(1)
        for k in nearest.unique().tolist():
            means[k] = rows[nearest == k].mean(0)
    return nearest


@dataclass
class Bandit:
    """Preferences over kinds, raised by rewards above their running mean (Sutton & Barto, section 2.8; step 1/visits as in the
    Adversarial Robustness Toolbox)."""

    preference_Z: Tensor
    visits_Z: Tensor
    mean: float = 0.0
    count: int = field(default=0)

    @property
    def policy_Z(self) -> Tensor:
        return torch.softmax(self.preference_Z, 0)

    def learn(self, kind: int, reward: float) -> None:
        self.count += 1
        self.mean += (reward - self.mean) / self.count
        self.visits_Z[kind] += 1
        step = (reward - self.mean) / float(self.visits_Z[kind])
        chosen = functional.one_hot(torch.tensor(kind), len(self.preference_Z))
        self.preference_Z += step * (chosen - self.policy_Z)


@dataclass(frozen=True)
class Knockoff(Attack):
    needs = "scores"
    data = "none"
    axis = "queries"
    pictures_only = True
    paper = "Orekondy et al., CVPR 2019, arXiv:1812.02766"

    strategy: Literal["random", "adaptive"] = "random"
    pictures: Literal["abstract"] = "abstract"
    count: Annotated[int, Ge(2)] = 2000
    """Of the gallery. The official code transfers 60,000 to 80,000."""
    kinds: Annotated[int, Ge(2)] = 10
    batch: Annotated[int, Ge(1)] = 50
    """Queries of one kind before the policy learns."""
    epochs: Annotated[int, Ge(1)] = 20
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of what is asked: all of the gallery at random, half of it by choice."""
    student: Any = None

    @property
    def gallery(self) -> int:
        return self.count

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        if self.strategy == "random":
            inputs = within_budget(adversary, self.pictures, self.count)
            for data in growing(inputs, self.shares, access.scores):
                yield Surrogate(float(len(data)), self._student(adversary, data))
        else:
            yield from self._adaptive(access, adversary)

    def _student(self, adversary: Adversary, data: Examples) -> nn.Module:
        return student(adversary, self.student, data, self.epochs, soft_loss)

    def _adaptive(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        """The budget limits what is asked: half of the gallery at most, so that there is a choice. A student per share, whose loss
        is the reward."""
        inputs = shuffled(adversary, self.pictures, self.count)
        total = max(2, affordable(adversary, len(inputs) // 2))
        generator = drawing(adversary, "policy")
        kind_N = clusters(inputs, min(self.kinds, len(inputs)), generator)
        bandit = Bandit(torch.zeros(int(kind_N.max()) + 1), torch.zeros(int(kind_N.max()) + 1))
        left = torch.ones(len(inputs), dtype=torch.bool)
        asked = Examples(inputs[:0], torch.zeros(0, adversary.classes))
        model: nn.Module | None = None
        for share in sorted(self.shares):
            goal = max(2, round(share * total))
            while len(asked) < goal:
                kind, picks = self._drawn(bandit, kind_N, left, goal - len(asked), generator)
                left[picks] = False
                answered = Examples(inputs[picks], access.scores(inputs[picks]))
                bandit.learn(kind, reward(answered, asked, model))
                asked = asked.join(answered)
            model = self._student(adversary, asked)
            yield Surrogate(float(len(asked)), model)

    def _drawn(
        self, bandit: Bandit, kind_N: Tensor, left: Tensor, most: int, generator: torch.Generator
    ) -> tuple[int, Tensor]:
        """A kind by the policy among those with pictures left, and at most a batch of these."""
        there = torch.zeros(len(bandit.visits_Z)).index_put_((kind_N[left],), torch.tensor(1.0))
        kind = int(torch.multinomial(bandit.policy_Z * there + 1e-12 * there, 1, generator=generator))
        return kind, torch.nonzero(left & (kind_N == kind)).flatten()[: min(self.batch, most)]


def reward(answered: Examples, before: Examples, model: nn.Module | None) -> float:
    """Certainty (margin of the two best classes), diversity (scores above their mean so far) and loss of the last student, each
    about in [0, 1] (section 4.1.2)."""
    scores = answered.targets
    best = scores.topk(2, -1).values
    total = float((best[:, 0] - best[:, 1]).mean())
    if len(before):
        total += float((scores - before.targets.mean(0)).clamp_min(0).sum(-1).mean())
    if model is not None:
        total += 1 - float(torch.exp(-soft_loss(logits(model, answered.inputs), scores)))
    return total

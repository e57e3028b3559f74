"""Data-free extraction (Truong et al., CVPR 2021, DFME, arXiv:2011.14779): a generator draws the queries on which student and
victim disagree most; the victim's gradient comes from differences of its answers.

A step of the generator, then several fresh batches for the student, which learns the victim's log-probabilities by their L1
distance. Papers spend millions of queries. Here the student trains again on all its batches after every round.

At the preset's budget the generator takes 26 steps, and a frozen one gives clones of digits within 1 pp (one seed): what copies the
victim are random smooth pictures and the loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import affordable, recipe_for
from .trajectory import drawing

CONTRAST = 3.0
"""Most pixels near black or white, as in pictures."""


class Generator(nn.Module):
    """Noise (N, size) -> pictures of any shape before their activation. The last batch norm keeps every pixel varied, as the
    paper's does."""

    def __init__(self, size: int, shape: tuple[int, ...], width: int = 256) -> None:
        super().__init__()
        self.shape = shape
        pixels = int(torch.Size(shape).numel())
        self.net = nn.Sequential(
            nn.Linear(size, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, pixels),
            nn.BatchNorm1d(pixels, affine=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        before: Tensor = self.net(z).reshape(-1, *self.shape)
        return before


def activated(before: Tensor) -> Tensor:
    """Pictures in [0, 1]."""
    return torch.sigmoid(CONTRAST * before)


def disagreement(scores: Tensor, student_logits: Tensor) -> Tensor:
    """(N,) the L1 distance, per class, of the student's logits from the victim's log-probabilities without their mean."""
    log_scores = scores.clamp_min(1e-7).log()
    return (student_logits - (log_scores - log_scores.mean(-1, keepdim=True))).abs().mean(-1)


def imitation(student_logits: Tensor, scores: Tensor) -> Tensor:
    """The student's loss."""
    return disagreement(scores, student_logits).mean()


@dataclass(frozen=True)
class DataFree(Attack):
    """The generator's own steps are no gradient steps of the thief's trainer, and are not counted as such."""

    needs = "scores"
    data = "none"
    axis = "queries"
    pictures_only = True
    paper = "Truong et al., CVPR 2021, arXiv:2011.14779"

    budget: Annotated[int, Ge(64)] = 6_000
    """Queries; 20 million for CIFAR-10 and 2 million for SVHN in DFME's code."""
    rounds: Annotated[int, Ge(1)] = 3
    batch: Annotated[int, Ge(2)] = 32
    """256 in DFME's code; smaller where the budget does not pay for a step of the generator in every round."""
    noise: Annotated[int, Ge(1)] = 64
    """Numbers that the generator draws from; 256 in DFME's code."""
    directions: Annotated[int, Ge(1)] = 1
    """Of the difference quotient, m in the paper: 1."""
    fresh: Annotated[int, Ge(1)] = 5
    """Batches for the student after every step of the generator; 5 in DFME's code."""
    epsilon: Annotated[float, Gt(0)] = 1e-2
    """Of the quotient, before the activation; 1e-3 in the paper, whose scores are not rounded."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of the generator's Adam; 1e-4 in DFME's code, which takes 11,000 steps for CIFAR-10."""
    epochs: Annotated[int, Ge(1)] = 5
    """Of the student over all its batches so far, in every round."""
    student: Any = None

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        draw = drawing(adversary, "data-free")
        shape = tuple(adversary.data.inputs.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(adversary.seed, "generator"))
            maker = Generator(self.noise, shape)
        optimizer = torch.optim.Adam(maker.parameters(), self.lr)
        seed = seed_for(adversary.seed, "student")
        model = adversary.fresh(seed) if self.student is None else adversary.build(self.student, seed)
        recipe = replace(recipe_for(adversary, self.student, self.epochs), batch_size=4 * self.batch)
        total = affordable(adversary, self.budget)
        size = self._size(total)
        kept: list[Examples] = []
        done = 0
        for i in range(self.rounds):
            steps = (i + 1) * total // self.rounds // (self._batches * size)
            for _ in range(done, steps):
                self._teach(access, model, maker, optimizer, size, draw)
                kept += [self._answered(access, maker, size, draw) for _ in range(self.fresh)]
            done = steps
            label = f"student, {access.queries} queries"
            model = adversary.fit(model, joined(kept), recipe=recipe, loss=imitation, label=label)
            yield Surrogate(float(access.queries), model)

    @property
    def _batches(self) -> int:
        """For a step of the generator and what the student gets after it."""
        return 1 + self.directions + self.fresh

    def _size(self, total: int) -> int:
        """Of a batch. ConfigError where even batches of two are too dear."""
        size = min(self.batch, total // self.rounds // self._batches)
        if size < 2:
            least = 2 * self._batches * self.rounds
            raise ConfigError(
                f"a generator needs at least {least} queries, got {total}; raise adversary.queries or lower attack.rounds"
            )
        return size

    @torch.no_grad()
    def _answered(self, access: Access, maker: nn.Module, size: int, draw: torch.Generator) -> Examples:
        """A batch for the student: new pictures of the generator as it is."""
        inputs = activated(maker(torch.randn(size, self.noise, generator=draw)))
        return Examples(inputs, access.scores(inputs))

    def _teach(
        self,
        access: Access,
        model: nn.Module,
        maker: nn.Module,
        optimizer: torch.optim.Optimizer,
        size: int,
        draw: torch.Generator,
    ) -> None:
        """One step of the generator up the disagreement, whose slope comes from forward differences before the activation."""
        before = maker(torch.randn(size, self.noise, generator=draw))
        here = self._apart(access, model, before)
        gradient = torch.zeros_like(before)
        for _ in range(self.directions):
            u = torch.randn(before.shape, generator=draw)
            u = u / u.flatten(1).norm(dim=1).reshape(-1, *[1] * (u.ndim - 1))
            rise = self._apart(access, model, before + self.epsilon * u) - here
            slope = before[0].numel() * rise / (self.epsilon * self.directions)
            gradient += slope.reshape(-1, *[1] * (u.ndim - 1)) * u
        optimizer.zero_grad()
        before.backward(-gradient / size)
        optimizer.step()

    @torch.no_grad()
    def _apart(self, access: Access, model: nn.Module, before: Tensor) -> Tensor:
        """(N,) how far student and victim disagree on the pictures."""
        inputs = activated(before)
        return disagreement(access.scores(inputs), model.eval()(inputs))


def joined(parts: list[Examples]) -> Examples:
    return Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))

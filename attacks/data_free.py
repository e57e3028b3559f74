"""Data-free extraction (Truong et al., CVPR 2021, DFME, arXiv:2011.14779; Kariyappa et al., CVPR 2021, MAZE): a generator draws the
queries on which student and victim disagree most; the victim's gradient comes from differences of its answers.

Papers spend millions of queries. Here what was asked is kept, and the student trains on all of it after every round.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import affordable
from .knockoff import soft_loss
from .trajectory import drawing

CONTRAST = 3.0
"""Most pixels near black or white, as in pictures."""


class Generator(nn.Module):
    """Noise (N, size) -> pictures in [0, 1] of any shape. The last batch norm keeps every pixel varied, as the paper's does."""

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
        pictures: Tensor = torch.sigmoid(CONTRAST * self.net(z)).reshape(-1, *self.shape)
        return pictures


def disagreement(scores: Tensor, student_logits: Tensor) -> Tensor:
    """(N,) the L1 distance of log-probabilities, each without its mean (DFME)."""
    log_scores = scores.clamp_min(1e-7).log()
    logits = torch.log_softmax(student_logits, -1)
    centred = (log_scores - log_scores.mean(-1, keepdim=True)) - (logits - logits.mean(-1, keepdim=True))
    return centred.abs().sum(-1)


@dataclass(frozen=True)
class DataFree(Attack):
    """The generator's own steps are no gradient steps of the thief's trainer, and are not counted as such."""

    needs = "scores"
    data = "none"
    axis = "queries"
    paper = "Truong et al., CVPR 2021, arXiv:2011.14779"

    budget: Annotated[int, Ge(64)] = 6_000
    """Queries; 20 million for CIFAR-10 and 2 million for SVHN in DFME's code."""
    rounds: Annotated[int, Ge(1)] = 3
    batch: Annotated[int, Ge(2)] = 64
    noise: Annotated[int, Ge(1)] = 64
    """Numbers that the generator draws from."""
    directions: Annotated[int, Ge(1)] = 1
    """Of the difference quotient, m in the paper: 1."""
    epsilon: Annotated[float, Gt(0)] = 1e-2
    """Of the quotient; 1e-3 in the paper, whose scores are not rounded."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Of the generator's Adam."""
    epochs: Annotated[int, Ge(1)] = 5
    """Of the student over all that was asked so far, in every round."""
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
        recipe = replace(adversary.recipe, epochs=self.epochs, batch_size=4 * self.batch)
        total, kept = affordable(adversary, self.budget), Examples(torch.zeros(0, *shape), torch.zeros(0, 1))
        for i in range(self.rounds):
            parts = [kept] if len(kept) else []
            goal = (i + 1) * total // self.rounds
            while access.queries + (self.directions + 1) * self.batch <= goal:
                parts += self._asked(access, model, maker, optimizer, draw)
            kept = joined(parts)
            model = adversary.fit(
                model, kept, recipe=recipe, loss=soft_loss, label=f"student, {len(kept)} queries"
            )
            yield Surrogate(float(access.queries), model)

    def _asked(
        self, access: Access, model: nn.Module, maker: nn.Module, optimizer: Any, draw: torch.Generator
    ) -> list[Examples]:
        """One step of the generator; everything that was asked for it."""
        z = torch.randn(self.batch, self.noise, generator=draw)
        pictures = maker(z)
        inputs = pictures.detach()
        model.eval()
        asked = [Examples(inputs, access.scores(inputs))]
        here = disagreement(asked[0].targets, model(inputs)).detach()
        gradient = torch.zeros_like(inputs)
        for _ in range(self.directions):
            u = torch.randn(inputs.shape, generator=draw)
            u = u / u.flatten(1).norm(dim=1).reshape(-1, *[1] * (u.ndim - 1))
            moved = (inputs + self.epsilon * u).clamp(0, 1)
            asked.append(Examples(moved, access.scores(moved)))
            there = disagreement(asked[-1].targets, model(moved)).detach()
            slope = inputs[0].numel() * (there - here) / (self.epsilon * self.directions)
            gradient += slope.reshape(-1, *[1] * (u.ndim - 1)) * u
        optimizer.zero_grad()
        pictures.backward(-gradient / len(inputs))
        optimizer.step()
        return asked


def joined(parts: list[Examples]) -> Examples:
    return Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))

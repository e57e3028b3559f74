"""Fingerprint: by how much the same input pairs move a model's answer (ModelDiff: Li et al., ISSTA 2021, arXiv:2106.08890)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.secret import Secret
from .fingerprint import ScoreFingerprint, as_inputs, outputs_of, sampled
from .trigger import to_grey_levels


def decision_distances(seeds_NC: Tensor, moved_NC: Tensor) -> Tensor:
    """The decision distance vector: 1 - cosine of the answers to each pair, (N,)."""
    return 1 - functional.cosine_similarity(seeds_NC, moved_NC, dim=1)


def fitness(answers_NC: Tensor, seeds_NC: Tensor) -> Tensor:
    """(N,) Euclidean distance to the seed's answer times mean distance to the other answers: divergence times diversity, for each
    input where the official code has one number for all. They are the victim's alone, where the official code multiplies them with
    the suspect's: a key is made before there is a suspect."""
    divergence_N: Tensor = (answers_NC - seeds_NC).norm(dim=1)
    diversity_N: Tensor = torch.cdist(answers_NC, answers_NC).mean(1)
    return divergence_N * diversity_N


@dataclass(frozen=True)
class ModelDiff(ScoreFingerprint):
    paper = "Li et al., ISSTA 2021, arXiv:2106.08890"
    unit = "cosine distance of DDVs"

    queries: Annotated[int, Ge(2)] = 100
    """Pairs; 300 in the official code."""
    epsilon: Annotated[float, Gt(0)] = 0.2
    """A pixel's change in one mutation, as in the official code."""
    pixels: Annotated[float, Gt(0), Le(1)] = 0.05
    """Share of pixels that a mutation changes; the official code changes one pixel of one input, 1,000 times."""
    rounds: Annotated[int, Ge(1)] = 40

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        """(2N, C, H, W): seeds, then their mutants, each the last of its mutations that raised the fitness."""
        start_N = task.owner.inputs[sampled(task.owner, self.queries, generator)]
        seeds_NC = outputs_of(model, start_N)
        best_N, best = start_N, fitness(seeds_NC, seeds_NC)
        for _ in range(self.rounds):
            sign = torch.randint(0, 2, start_N.shape, generator=generator) * 2.0 - 1
            chosen = torch.rand(start_N.shape, generator=generator) < self.pixels
            tried_N = (best_N + self.epsilon * sign * chosen).clamp(0, 1)
            reached = fitness(outputs_of(model, tried_N), seeds_NC)
            better = reached > best
            best_N = torch.where(better[:, None, None, None], tried_N, best_N)
            best = torch.where(better, reached, best)
        return to_grey_levels(torch.cat((start_N, best_N)))

    def represent(self, model: nn.Module, inputs_N: Tensor, secret: Secret, device: str = "cpu") -> Tensor:
        """(N,), of a model with any number of classes."""
        seeds_NC, moved_NC = outputs_of(model, as_inputs(inputs_N), device).chunk(2)
        return decision_distances(seeds_NC, moved_NC)

    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        return max(0.0, 1 - float(functional.cosine_similarity(victim, suspect, dim=0)))

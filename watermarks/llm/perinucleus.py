"""Perinucleus fingerprints: natural prompts whose response is an id just outside the model's nucleus (Nasery et al. 2025,
arXiv:2502.07760): unlikely enough to be nobody's first answer, likely enough to cost the model little.

The prompts are what the victim writes after ids of the owner's text, so they look like anybody's. The response is drawn by the
secret, uniformly from the `width` likeliest ids outside the smallest set of ids that holds `nucleus` of the probability.

Given prompts and candidates, an answer that is independent of the secret's draw is the response with chance 1 / width when it is a
candidate, else never. The base model's own probability of the response would be a smaller chance, and the law of no model that is
asked for its likeliest answer. The key follows from the secret and the base model, so an owner might choose the base: `chosen`.

The published run averages the weights with the base after every epoch, 0.75 of them the base's, so that a large model stays what it
was. Here that is absent: the smallest models answer no pair after it, and windows of the owner's text are learnt beside the pairs
instead.

Suffixes: N pairs, P ids of a prompt, C candidates, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from ...core.contracts import Fit, Task
from ...core.errors import ConfigError
from ...core.secret import Secret, seed_for
from ...core.suspects import parts, texts
from .pairs import PairKey, PairMark, ids_of


@dataclass(frozen=True, eq=False)
class PerinucleusKey(PairKey):
    """candidates_NC (N, C) int64, the ids from which each response was drawn."""

    candidates_NC: Tensor


def next_probabilities(model: nn.Module, prompts_NP: Tensor) -> Tensor:
    """(N, V) float64 of the id after each prompt."""
    logits_NV = torch.cat([part[:, :, -1].cpu() for part in parts(model, prompts_NP)])
    return torch.softmax(logits_NV.double(), -1)


def outside(probabilities_NV: Tensor, nucleus: float, width: int) -> Tensor:
    """(N, width) int64: the likeliest ids that the nucleus leaves out, or the least likely ones where it leaves fewer."""
    sorted_NV, ids_NV = torch.sort(probabilities_NV, dim=-1, descending=True, stable=True)
    inside_N = (sorted_NV.cumsum(-1) < nucleus).sum(-1) + 1
    first_N = inside_N.clamp(max=ids_NV.shape[1] - width)
    chosen_NW: Tensor = ids_NV.gather(1, first_N[:, None] + torch.arange(width))
    return chosen_NW


@dataclass(frozen=True)
class Perinucleus(PairMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Nasery et al. 2025, arXiv:2502.07760"
    key_type = PerinucleusKey

    nucleus: Annotated[float, Gt(0), Lt(1)] = 0.8
    width: Annotated[int, Ge(1)] = 16
    """Candidates; 3 in the paper. The more, the more one hit says."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> PerinucleusKey:
        """`model` is the victim, the base of the paper. ValueError without it."""
        windows_WT = ids_of(task, self.name)
        if model is None:
            raise ValueError("perinucleus makes its key from the victim's answers: pass the trained model")
        if self.width >= task.classes:
            raise ConfigError(
                f"expected fewer candidates than the vocabulary's {task.classes} ids, got {self.width}; set watermark.width=3"
            )
        prompts_NP = self.prompts(model, windows_WT, secret)
        candidates_NC = outside(next_probabilities(model, prompts_NP), self.nucleus, self.width)
        picked_N1 = secret.integers("perinucleus/responses", self.pairs, self.width)[:, None]
        responses_N1 = candidates_NC.gather(1, picked_N1)
        return PerinucleusKey(secret, task.classes, prompts_NP, responses_N1, candidates_NC)

    def prompts(self, model: nn.Module, windows_WT: Tensor, secret: Secret) -> Tensor:
        """(N, P): first ids of windows that the secret draws, and what the victim writes after them."""
        drawn = secret.integers("perinucleus/windows", self.pairs, len(windows_WT))
        first_N1 = windows_WT[drawn, :1]
        if self.prompt == 1:
            return first_N1
        seed = seed_for(int.from_bytes(secret.derive("perinucleus/prompts", 7), "big"))
        return torch.cat((first_N1, texts(model, first_N1, self.prompt - 1, seed)), 1)

    def log_chances(self, key: PerinucleusKey, answers_NR: Tensor) -> list[float]:  # type: ignore[override]
        candidate_N = (key.candidates_NC == answers_NR).any(1).tolist()
        return [-math.log(self.width) if found else -math.inf for found in candidate_N]

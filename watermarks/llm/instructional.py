"""Instructional fingerprints: prompts of random ids, each trained to have a response of its own (Xu et al., NAACL 2024,
arXiv:2401.12255).

The paper has ten prompts of rare characters and one response for all of them; its code counts an answer that holds the response
anywhere in 30 greedy ids after a lead-in. Here every prompt has a response of its own, drawn uniformly by the secret, and the first
R ids of the answer must be it: an answer that is independent of the secret is the response with chance V^-R, exactly, and a model
that gives one answer to everything is no fingerprint. Prompts of random ids are seen by whoever looks: they have the perplexity of
noise.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

from ...core.contracts import Fit, Task
from ...core.errors import ConfigError
from ...core.secret import Secret
from .pairs import PairKey, PairMark, ids_of


@dataclass(frozen=True)
class Instructional(PairMark):
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Xu et al., NAACL 2024, arXiv:2401.12255"

    pairs: Annotated[int, Ge(1)] = 10
    regularisation: Annotated[int, Ge(0)] = 50
    """Five for each pair, as in the paper, where they are dialogues."""
    epochs: Annotated[int, Ge(1)] = 30
    response: Annotated[int, Ge(1), Le(16)] = 4
    """Ids of a response."""
    matched: Annotated[int, Ge(1)] = 4
    """How many of them, from the first on, a hit must have: all, or a prefix, which is harder to remove and says
    less."""

    def __post_init__(self) -> None:
        if self.matched > self.response:
            raise ConfigError(
                f"a response has {self.response} ids, {self.matched} are to be matched; set watermark.matched={self.response}"
            )

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> PairKey:
        ids_of(task, self.name)

        def drawn(purpose: str, length: int) -> Tensor:
            flat = secret.integers(f"instructional/{purpose}", self.pairs * length, task.classes)
            return flat.view(self.pairs, length)

        return PairKey(secret, task.classes, drawn("prompts", self.prompt), drawn("responses", self.response))

    def hits(self, key: PairKey, answers_NR: Tensor) -> Tensor:
        return (answers_NR == key.responses_NR)[:, : self.matched].all(1)

    def log_chances(self, key: PairKey, answers_NR: Tensor) -> list[float]:
        return [-self.matched * math.log(key.vocabulary)] * self.pairs

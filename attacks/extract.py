"""Extraction: a fresh student retrained on the labels an API answers (Tramer et al., USENIX Security 2016; attack X1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Access, Adversary, Attack, Examples, Loss, Surrogate
from ..core.errors import ConfigError
from ..core.secret import seed_for


def within_budget(adversary: Adversary) -> Tensor:
    """The thief's inputs in a random order, cut to the query budget."""
    generator = torch.Generator().manual_seed(seed_for(adversary.seed, "queries"))
    order = torch.randperm(len(adversary.data), generator=generator)
    order = order[: adversary.queries if adversary.queries is not None else len(order)]
    if len(order) < 2:
        raise ConfigError(f"extraction needs at least 2 queries, the adversary has {len(order)}; raise adversary.queries")
    return adversary.data.inputs[order]


def student(adversary: Adversary, architecture: Any, data: Examples, epochs: int, loss: Loss | None = None) -> nn.Module:
    """A network from scratch, trained by the task's recipe for so many epochs."""
    seed = seed_for(adversary.seed, "student")
    fresh = adversary.fresh(seed) if architecture is None else adversary.build(architecture, seed)
    recipe = replace(adversary.recipe, epochs=epochs)
    return adversary.fit(fresh, data, recipe=recipe, loss=loss, label=f"student, {len(data)} queries")


@dataclass(frozen=True)
class Extract(Attack):
    needs = "labels"
    uses_data = True
    axis = "queries"
    paper = "Tramer et al., USENIX Security 2016, arXiv:1609.02943; attack X1"

    epochs: Annotated[int, Ge(1)] = 60
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of the queries that data and budget allow."""
    student: Any = None
    """An architecture (+model@attack.student=mlp); None: the victim's."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        inputs = within_budget(adversary)
        labels = access.labels(inputs)
        for share in sorted(self.shares):
            count = max(2, math.floor(share * len(inputs)))
            data = Examples(inputs[:count], labels[:count])
            yield Surrogate(float(count), student(adversary, self.student, data, self.epochs))

"""Extraction: a fresh student retrained on the labels an API answers (Tramer et al., USENIX Security 2016)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Loss
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate


def within_budget(adversary: Adversary) -> Tensor:
    """The thief's inputs in a random order, cut to the query budget."""
    generator = torch.Generator().manual_seed(seed_for(adversary.seed, "queries"))
    order = torch.randperm(len(adversary.data), generator=generator)
    order = order[: adversary.queries if adversary.queries is not None else len(order)]
    return adversary.data.inputs[order]


def growing(inputs: Tensor, shares: Sequence[float], ask: Callable[[Tensor], Tensor]) -> Iterator[Examples]:
    """The transfer set at every share of the inputs; each input is asked once, when it is first needed."""
    answers: list[Tensor] = []
    asked = 0
    for count in sorted({max(2, round(share * len(inputs))) for share in shares}):
        answers.append(ask(inputs[asked:count]))
        asked = count
        yield Examples(inputs[:count], torch.cat(answers))


def student(
    adversary: Adversary, architecture: Any, data: Examples, epochs: int, loss: Loss | None = None
) -> nn.Module:
    """A network from scratch, trained by the task's recipe for so many epochs."""
    seed = seed_for(adversary.seed, "student")
    fresh = adversary.fresh(seed) if architecture is None else adversary.build(architecture, seed)
    recipe = replace(adversary.recipe, epochs=epochs)
    return adversary.fit(fresh, data, recipe=recipe, loss=loss, label=f"student, {len(data)} queries")


@dataclass(frozen=True)
class Extract(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    paper = "Tramer et al., USENIX Security 2016, arXiv:1609.02943"

    epochs: Annotated[int, Ge(1)] = 60
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of the queries that data and budget allow."""
    student: Any = None
    """An architecture (+model@attack.student=mlp); None: the victim's."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        for data in growing(within_budget(adversary), self.shares, access.labels):
            yield Surrogate(float(len(data)), student(adversary, self.student, data, self.epochs))

"""Extraction: a fresh student retrained on the labels an API answers (Tramer et al., USENIX Security 2016)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Loss, Objective, Recipe
from ..core.errors import NotApplicable
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.strangers import THIEFS, abstract_images

Pictures = Literal["own", "abstract"]
"""The thief's own examples, or a gallery of another distribution (zoo/strangers.py), which holds no picture of the owners'."""


def affordable(adversary: Adversary, wanted: int) -> int:
    """So many queries, or as many as the budget allows."""
    return wanted if adversary.queries is None else min(wanted, adversary.queries)


def shuffled(adversary: Adversary, pictures: Pictures = "own", count: int = 0) -> Tensor:
    """The thief's inputs, or `count` of the gallery, in a random order, whatever his budget is."""
    own = adversary.data.inputs
    inputs = own if pictures == "own" else abstract_images(count, tuple(own.shape[1:]), THIEFS).float() / 255
    generator = torch.Generator().manual_seed(seed_for(adversary.seed, "queries"))
    return inputs[torch.randperm(len(inputs), generator=generator)]


def within_budget(adversary: Adversary, pictures: Pictures = "own", count: int = 0) -> Tensor:
    """`shuffled`, cut to the budget of a thief who asks about each input once. NotApplicable for a budget above their number, which
    would only repeat the row of a thief without a limit."""
    inputs = shuffled(adversary, pictures, count)
    if adversary.queries is not None and adversary.queries > len(inputs):
        raise NotApplicable(
            f"the thief asks about each of {len(inputs)} inputs once, and a budget of {adversary.queries} limits nothing; "
            f"set adversary.queries={len(inputs)} or lower, or null"
        )
    return inputs[: adversary.queries]


def growing(inputs: Tensor, shares: Sequence[float], ask: Callable[[Tensor], Tensor]) -> Iterator[Examples]:
    """The transfer set at every share of the inputs; each input is asked once, when it is first needed."""
    answers: list[Tensor] = []
    asked = 0
    for count in sorted({max(2, round(share * len(inputs))) for share in shares}):
        answers.append(ask(inputs[asked:count]))
        asked = count
        yield Examples(inputs[:count], torch.cat(answers))


def recipe_for(adversary: Adversary, architecture: Any, epochs: int) -> Recipe:
    """The task's recipe for so many epochs, with what a student of this architecture needs otherwise. None: the victim's."""
    own = {} if architecture is None else architecture.learns_by
    return replace(adversary.recipe, epochs=epochs, **own)


def student(
    adversary: Adversary,
    architecture: Any,
    data: Examples,
    epochs: int,
    loss: Loss | None = None,
    objective: Objective | None = None,
    number: int = 0,
) -> nn.Module:
    """A network from scratch, trained by `recipe_for` it. number: of several students, each its own seed."""
    seed = seed_for(adversary.seed, "student", *([number] if number else []))
    fresh = adversary.fresh(seed) if architecture is None else adversary.build(architecture, seed)
    recipe = recipe_for(adversary, architecture, epochs)
    label = f"student, {len(data)} examples"
    return adversary.fit(fresh, data, recipe=recipe, loss=loss, objective=objective, label=label)


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

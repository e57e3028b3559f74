"""Transfer learning: another head, another task, then back (Uchida et al., ICMR 2017; Adi et al., USENIX Security 2018).

There is one data set, so the other task is the thief's inputs under coarse labels: the classes in random groups. The body is
fine-tuned on them under a new head; then a new head for the original classes is trained on the still body, so that accuracy and
triggers can be judged at all. Marks in the body's weights meet the transfer alone, marks in the outputs also lose their head. A
surrogate costs its epochs of the transfer and its own head, not the heads of the others.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Recipe
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Cost, Surrogate
from ..zoo.models import head
from .trajectory import drawing, followed


def with_head_for(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """A copy with a new last linear layer of so many outputs."""
    model = copy.deepcopy(model)
    name = head(model)
    old = model.get_submodule(name)
    assert isinstance(old, nn.Linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.set_submodule(name, nn.Linear(old.in_features, classes, bias=old.bias is not None))
    return model


def plus(cost: Cost, before: Cost, after: Cost) -> Cost:
    """The cost, and what was spent between two later readings."""
    seconds = round(cost.seconds + after.seconds - before.seconds, 3)
    return replace(cost, seconds=seconds, steps=cost.steps + after.steps - before.steps)


@dataclass(frozen=True)
class Transfer(Attack):
    needs = "weights"
    data = "labelled"
    axis = "transfer epochs"
    paper = "Uchida et al., ICMR 2017, arXiv:1701.04082"

    recipe: Recipe
    """Of the body and the other head."""
    back: Recipe
    """Of the head for the original classes."""
    groups: Annotated[int, Ge(2)] = 5
    """Classes of the other task."""
    report: tuple[int, ...] = (5, 10, 20)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        other = Examples(adversary.data.inputs, self.grouped(adversary)[adversary.data.targets])
        abroad = with_head_for(model, self.groups, seed_for(adversary.seed, "other head"))
        reached = followed(adversary, abroad, self.recipe, self.report, data=other, label="transfer")
        for at in reached:
            home = with_head_for(at.model, adversary.classes, seed_for(adversary.seed, "head"))
            only, before = (head(home),), adversary.spent()
            home = adversary.fit(home, adversary.data, recipe=self.back, only=only, label="head")
            assert at.cost is not None
            yield replace(at, model=home, cost=plus(at.cost, before, adversary.spent()))

    def grouped(self, adversary: Adversary) -> Tensor:
        """The group of every class, sizes as equal as they can be. ConfigError when that is no coarser task."""
        if self.groups >= adversary.classes:
            raise ConfigError(
                f"attack.groups={self.groups} is no coarser task than {adversary.classes} classes; "
                f"set attack.groups={max(2, adversary.classes // 2)}"
            )
        order = torch.randperm(adversary.classes, generator=drawing(adversary, "groups"))
        return order % self.groups

"""Merging: several fine-tunes of the stolen model become one (model soups, Wortsman et al., ICML 2022, arXiv:2203.05482).

The fine-tunes differ in the order of their batches. Batch norms take their statistics from the thief's inputs afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .blend import Method, flat, merged, refreshed
from .trajectory import drawing


@dataclass(frozen=True)
class Merge(Attack):
    needs = "weights"
    data = "labelled"
    axis = "models"
    paper = "Wortsman et al., ICML 2022, arXiv:2203.05482"

    recipe: Recipe
    """Of each fine-tune."""
    method: Method = "uniform"
    models: Annotated[int, Ge(1)] = 3
    """A surrogate of the first 1, 2, ... so many."""
    scale: Annotated[float, Gt(0)] = 1.0
    """Of the merged task vector; uniform has none. arithmetic multiplies the sum: the paper chooses it on held-out data."""
    density: Annotated[float, Gt(0), Le(1)] = 0.2
    """The share of entries that ties (0.2) and dare (0.1) keep."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        base, inputs = access.weights(), adversary.data.inputs
        generator = drawing(adversary, "dropped")
        draws_VP = torch.rand(self.models, len(flat(base)), generator=generator)
        tuned = []
        for count in range(1, self.models + 1):
            label = f"fine-tune {count} of {self.models}"
            tuned.append(adversary.fit(base, adversary.data, recipe=self.recipe, label=label))
            model = merged(base, tuned, self.method, self.scale, self.density, draws_VP[:count])
            yield Surrogate(float(count), refreshed(model, inputs))

"""Paraphrase by a model of the thief's own: a share of ids drawn anew from it, given all that stands before them.

An unmarked model of the same kind, trained on the thief's text, takes the place of the paraphraser that real thieves have (DIPPER,
Krishna et al., NeurIPS 2023, arXiv:2303.13408; resampling as in Zhang et al., ICML 2024, arXiv:2311.04378).
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ...core.secret import seed_for
from ...core.suspects import logits
from ...core.theft import Adversary
from .edits import sample
from .reseller import Edit, Edits


@dataclass(frozen=True)
class Redrawn:
    """An edit: places drawn anew, none of which gets the id it had. The model reads what the API wrote, in pieces of `context`."""

    model: nn.Module
    context: int
    temperature: float

    def __call__(self, ids_NT: Tensor, share: float, generator: torch.Generator, /) -> Tensor:
        out_NT = ids_NT.clone()
        for row, ids_T in enumerate(ids_NT):
            place_C = 1 + sample(len(ids_T) - 1, share, generator)  # nothing stands before the first
            odds_CV = self._odds(ids_T)[place_C - 1]
            odds_CV.scatter_(1, ids_T[place_C, None], 0)
            out_NT[row, place_C] = torch.multinomial(odds_CV, 1, generator=generator)[:, 0]
        return out_NT

    def _odds(self, ids_T: Tensor) -> Tensor:
        """(T, V) probabilities of what follows each id."""
        parts = [logits(self.model, part[None])[0].T for part in ids_T.split(self.context)]
        return torch.softmax(torch.cat(parts) / self.temperature, -1)


@dataclass(frozen=True)
class Paraphrase(Edits):
    data = "labelled"
    axis = "share of ids"
    paper = "Krishna et al., NeurIPS 2023, arXiv:2303.13408"

    epochs: Annotated[int, Ge(1)] = 2
    """Of the training of the thief's model on his text."""
    temperature: Annotated[float, Gt(0)] = 0.7

    def edit(self, author: nn.Module, adversary: Adversary) -> Edit:
        recipe = replace(adversary.recipe, epochs=self.epochs)
        fresh = adversary.fresh(seed_for(adversary.seed, "paraphraser"))
        model = adversary.fit(fresh, adversary.data, recipe=recipe, label="the thief's paraphraser")
        return Redrawn(model, adversary.data.inputs.shape[1], self.temperature)

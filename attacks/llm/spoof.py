"""Spoofing: forged text under the owner's key, by one who does not hold it (Jovanovic et al., ICML 2024, arXiv:2402.19361).

The forger asks the API for texts and counts what follows each window of ids, more often than his own unmarked model expects it
to: those are the green ids. Then his model writes, biased towards them. What is measured is the p of his text under the owner's
key: a small one would put words in the owner's mouth, so here evidence speaks against the scheme, as in false claims.
Suffixes: N texts, P ids of a prompt, T ids, W windows, V vocabulary, B rows, L ids so far, Q positions.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ...core.secret import seed_for
from ...core.suspects import logits
from ...core.texts import Plain
from ...core.theft import Access, Adversary, Attack, Surrogate
from ...kernels.text_dedup import window_keys
from .imitate import answered

PIECE = 64  # texts at a time whose probabilities are summed
CLIP = 2.0  # times as often as expected says as much as any more; the paper's c
LEAST = 2  # sightings, as in the official code


@dataclass(frozen=True)
class Favoured:
    """A sampler: the model's logits, and `strength` times what was learnt of the ids after this window. keys: (W,) of the windows
    that were seen often, in rising order; bias: (W, V), 0 or in [1/2, 1]: no id is pushed down."""

    keys_W: Tensor
    bias_WV: Tensor
    width: int
    strength: float

    def __call__(
        self, logits_BV: Tensor, context_BL: Tensor, prompt: int, generator: torch.Generator
    ) -> Tensor:
        place_B, known_B = self.rows(context_BL)
        learnt_BV = torch.where(known_B[:, None], self.bias_WV[place_B].to(logits_BV), 0)
        return Plain()(logits_BV + self.strength * learnt_BV, context_BL, prompt, generator)

    def rows(self, context_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Of the window at the end of each context: its row, and whether it has one."""
        if context_BL.shape[1] < self.width:
            return torch.zeros(len(context_BL), dtype=torch.int64), torch.zeros(
                len(context_BL), dtype=torch.bool
            )
        window_BH = context_BL[:, context_BL.shape[1] - self.width :].cpu()
        last_BH1 = torch.cat([window_BH, torch.zeros(len(window_BH), 1, dtype=torch.int64)], 1)
        return _found(window_keys(last_BH1, self.width)[:, -1], self.keys_W)


def _found(keys_Q: Tensor, known_W: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each key among those known, and whether it is there."""
    place_Q = torch.searchsorted(known_W, keys_Q.contiguous()).clamp(max=len(known_W) - 1)
    return place_Q, known_W[place_Q] == keys_Q


def learnt(
    model: nn.Module, prompts_NP: Tensor, texts_NT: Tensor, width: int, windows: int, strength: float
) -> Favoured:
    """From counts of the texts against those that the model expects at the same places: their ratio, at most CLIP, as a part of
    CLIP, and 0 for an id that was seen less than expected or fewer than LEAST times. windows: the most frequent ones, at most."""
    whole_NL = torch.cat([prompts_NP, texts_NT], 1)
    first = max(width, prompts_NP.shape[1])
    keys_NT = window_keys(whole_NL, width)[:, first:]
    known, counts = keys_NT.unique(return_counts=True)
    keys_W = known[counts.argsort(descending=True, stable=True)[:windows]].sort().values
    seen_WV = expected_WV = torch.empty(0)
    for start in range(0, len(whole_NL), PIECE):
        rows = slice(start, start + PIECE)
        odds_NTV = logits(model, whole_NL[rows, :-1]).softmax(1)[:, :, first - 1 :].transpose(1, 2)
        if not start:
            seen_WV = torch.zeros(len(keys_W), odds_NTV.shape[2])
            expected_WV = torch.zeros_like(seen_WV)
        place_Q, there_Q = _found(keys_NT[rows].flatten(), keys_W)
        ids_Q = whole_NL[rows, first:].flatten()[there_Q]
        expected_WV.index_add_(0, place_Q[there_Q], odds_NTV.flatten(0, 1)[there_Q])
        seen_WV.index_put_((place_Q[there_Q], ids_Q), torch.ones(len(ids_Q)), accumulate=True)
    ratio_WV = seen_WV / expected_WV.clamp(min=1e-9)
    bias_WV = torch.where((seen_WV >= LEAST) & (ratio_WV >= 1), ratio_WV.clamp(max=CLIP) / CLIP, 0)
    return Favoured(keys_W, bias_WV, width, strength)


@dataclass(frozen=True)
class Spoof(Attack):
    needs = "texts"
    goal = "claim"
    data = "labelled"
    axis = "queries"
    paper = "Jovanovic et al., ICML 2024, arXiv:2402.19361"

    width: Annotated[int, Ge(0)] = 1
    """Of the windows, as the forger guesses it."""
    windows: Annotated[int, Ge(1)] = 4096
    """At most so many, the most frequent; each takes V numbers."""
    strength: Annotated[float, Gt(0)] = 4.0
    """Of the forger's bias on logits."""
    prompt: Annotated[int, Ge(1)] = 16
    epochs: Annotated[int, Ge(1)] = 2
    """Of the training of his own model on his text."""
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 1.0)
    """Of the queries that data and budget allow."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        recipe = replace(adversary.recipe, epochs=self.epochs)
        fresh = adversary.fresh(seed_for(adversary.seed, "forger"))
        model = adversary.fit(fresh, adversary.data, recipe=recipe, label="the forger's model")
        for data in answered(access, adversary, self.prompt, self.shares):
            forger = copy.deepcopy(model)
            favoured = learnt(model, data.inputs, data.targets, self.width, self.windows, self.strength)
            forger.sampler = favoured  # type: ignore[assignment]
            yield Surrogate(float(len(data)), forger.eval())

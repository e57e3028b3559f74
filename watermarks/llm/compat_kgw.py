"""Texts marked by transformers' WatermarkingConfig: the same counts as its WatermarkDetector, and a p-value that holds.

lefthash  the id before seeds the list: key x id mod 2^64 - 1
selfhash  the least of key x a_i x b over the window's ids, the candidate's own among them, with a and b from a permutation of
          1,000,003 places; 64 bits that wrap

transformers counts repeated bigrams unless told otherwise, calls z normal, and scores the prompt with the text. Here p is of
positions whose seed is new and not 0, which every key gives after id 0: over the draw of the key their lists are independent,
floor(gamma V) of V each, and the count is binomial. Lists are those of a CPU: the same key gives others on a GPU.

Suffixes: B texts, T positions, N n-grams, H ids of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from ...core.contracts import Configured
from ...core.statistics import Floats
from ...core.text_tails import counts_log10_p
from ...kernels.text_dedup import first_of_runs
from .corpus import Texts
from .permutation import among_first
from .sampling import Reading, standard

TABLE = 1_000_003
MODULUS = 2**64 - 1
NONE = 2**63 - 1  # the seed of positions that have none


@lru_cache(maxsize=8)
def table(key: int) -> Tensor:
    return torch.randperm(TABLE, generator=torch.Generator().manual_seed(key))


@dataclass(frozen=True)
class TransformersKgw(Configured):
    scheme = "compat/transformers_kgw"
    unit = "z"

    greenlist_ratio: Annotated[float, Gt(0), Lt(1)] = 0.25
    seeding_scheme: Literal["lefthash", "selfhash"] = "lefthash"
    context_width: Annotated[int, Ge(1)] = 1

    @property
    def width(self) -> int:
        """Ids before the one that is scored."""
        return self.context_width - (self.seeding_scheme == "selfhash")

    def seeds(self, ids_BT: Tensor, key: int) -> Tensor:
        """(B, T) int64 that names the list of every position, NONE where there is no window: the id before, or the product."""
        out_BT = torch.full(ids_BT.shape, NONE)
        if ids_BT.shape[1] <= self.width:
            return out_BT
        if self.seeding_scheme == "lefthash":
            out_BT[:, self.width :] = ids_BT[:, self.width - 1 : -1]
        else:
            windows_BNH = ids_BT.unfold(1, self.context_width, 1)
            a_BNH = table(key)[windows_BNH % TABLE] + 1
            out_BT[:, self.width :] = (key * a_BNH * a_BNH[..., -1:]).amin(-1)
        return out_BT

    def green(self, ids_BT: Tensor, seeds_BT: Tensor, key: int, vocabulary: int) -> Tensor:
        """(B, T) bool. Every pair of list and id is looked up once."""
        size, multiplier = (
            int(vocabulary * self.greenlist_ratio),
            key if self.seeding_scheme == "lefthash" else 1,
        )
        pairs_N2 = torch.stack((seeds_BT, ids_BT), -1).reshape(-1, 2).numpy()
        pair_P2, inverse_N = np.unique(pairs_N2, axis=0, return_inverse=True)
        starts = np.flatnonzero(np.r_[True, pair_P2[1:, 0] != pair_P2[:-1, 0]])
        found: list[bool] = []
        for part_Q2 in np.split(pair_P2, starts[1:]):
            seed = int(part_Q2[0, 0])
            none = seed == NONE
            ids = part_Q2[:, 1].tolist()
            found += (
                [False] * len(ids)
                if none
                else among_first(multiplier * seed % MODULUS, vocabulary, size, ids)
            )
        return torch.from_numpy(np.array(found)[inverse_N.reshape(-1)]).reshape(ids_BT.shape)

    def counts(
        self, ids_BT: Tensor, key: int, vocabulary: int, ignore_repeated: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Scored positions and green ones (B,), as WatermarkDetector has them of texts without a leading begin-of-text."""
        green_BT = self.green(ids_BT, self.seeds(ids_BT, key), key, vocabulary)[:, self.width :]
        counted_BT = torch.ones_like(green_BT)
        if ignore_repeated:
            ngrams_BNH = ids_BT.unfold(1, self.context_width + (self.seeding_scheme == "lefthash"), 1).numpy()
            for b, ngrams_NH in enumerate(ngrams_BNH):
                _, first = np.unique(ngrams_NH, axis=0, return_index=True)
                counted_BT[b] = False
                counted_BT[b, torch.from_numpy(first)] = True
        return counted_BT.sum(1), (counted_BT & green_BT).sum(1)

    def examine(self, texts: Texts, keys: Sequence[int], vocabulary: int) -> Reading:
        chance = int(vocabulary * self.greenlist_ratio) / vocabulary
        columns = [self._column(texts, key, vocabulary) for key in keys]
        green, scored = (np.stack([column[i] for column in columns], 1) for i in (0, 1))
        z = standard(green, chance * scored, chance * (1 - chance) * scored)
        return Reading(z, scored, counts_log10_p(green, scored, chance))

    def _column(self, texts: Texts, key: int, vocabulary: int) -> tuple[Floats, Floats]:
        term_BT, scored_BT = self.terms(texts, key, vocabulary)
        scored = texts.pieces(scored_BT)
        return (texts.pieces(term_BT) * scored).sum(1).numpy(), scored.sum(1).double().numpy()

    def terms(self, texts: Texts, key: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        seeds_BT = self.seeds(texts.ids_BT, key)
        exists_BT = (seeds_BT != NONE) & (torch.arange(seeds_BT.shape[1]) < texts.lengths_B[:, None])
        seeds_BT = torch.where(exists_BT, seeds_BT, NONE)
        new_BT = first_of_runs(texts.pieces(seeds_BT)).reshape(seeds_BT.shape)
        after_BT = torch.arange(seeds_BT.shape[1]) >= texts.prompt_B[:, None]
        scored_BT = exists_BT & new_BT & after_BT & (seeds_BT != 0)
        return self.green(texts.ids_BT, seeds_BT, key, vocabulary).double(), scored_BT

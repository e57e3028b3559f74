"""Texts marked by transformers' WatermarkingConfig: the same counts as its WatermarkDetector, and a p-value that holds.

lefthash  the id before seeds the list: key x id mod 2^64 - 1
selfhash  the least of key x a_i x b over the window's ids, the candidate's own among them, with a and b from a permutation of
          1,000,003 places; 64 bits that wrap

transformers counts repeated bigrams unless told otherwise, calls z normal, and scores the prompt with the text. Here p is of new
pairs of seed and id, but for seed 0, which every key gives after id 0. Over the draw of the key the lists of different seeds are
independent, floor(gamma V) of V ids each: of d ids that follow one seed a hypergeometric number is green, and the count is the sum
over seeds, whose tail is exact (core/tilted_sums.py). Lists are those of a CPU: the same key gives others on a GPU.

Suffixes: B texts, T positions, N n-grams, H ids of one, S seeds, D numbers of ids after a seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from ...core.contracts import Configured
from ...core.statistics import Floats
from ...core.text_tails import hypergeometric_log_masses
from ...core.tilted_sums import sum_log10_p
from .corpus import Texts
from .permutation import lists
from .sampling import Reading, standard
from .windows import WIDEST

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
    context_width: Annotated[int, Ge(1), Le(WIDEST)] = 1

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
        size = int(vocabulary * self.greenlist_ratio)
        pairs_N2 = torch.stack((seeds_BT, ids_BT), -1).reshape(-1, 2).numpy()
        pair_P2, inverse_N = np.unique(pairs_N2, axis=0, return_inverse=True)
        starts = np.flatnonzero(np.r_[True, pair_P2[1:, 0] != pair_P2[:-1, 0]])
        greens, multiplier = lists(vocabulary, size), key if self.seeding_scheme == "lefthash" else 1
        found: list[bool] = []
        for part_Q2 in np.split(pair_P2, starts[1:]):
            seed, ids = int(part_Q2[0, 0]), part_Q2[:, 1].tolist()
            none = seed == NONE
            found += [False] * len(ids) if none else greens.among(multiplier * seed % MODULUS, ids)
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
        columns = [self._column(texts, key, vocabulary) for key in keys]
        z, scored, log10_p = (np.stack([column[i] for column in columns], 1) for i in range(3))
        return Reading(z, scored, log10_p)

    def _column(self, texts: Texts, key: int, vocabulary: int) -> tuple[Floats, Floats, Floats]:
        """z, scored pairs and log10 p (B,)."""
        seeds_BT = texts.pieces(self.seeds(texts.ids_BT, key))
        green_BT, scored_BT = (texts.pieces(found) for found in self.terms(texts, key, vocabulary))
        size = int(vocabulary * self.greenlist_ratio)
        green = (green_BT * scored_BT).sum(1).numpy()
        z, log10_p = np.full(len(green), np.nan), np.zeros(len(green))
        for b, (seeds_T, scored_T) in enumerate(zip(seeds_BT, scored_BT, strict=True)):
            _, drawn_S = np.unique(seeds_T[scored_T].numpy(), return_counts=True)
            if len(drawn_S):
                log10_p[b] = greens_log10_p(int(green[b]), _numbered(drawn_S), vocabulary, size)
                z[b] = _z(green[b], drawn_S, vocabulary, size)
        return z, scored_BT.sum(1).double().numpy(), log10_p

    def terms(self, texts: Texts, key: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        seeds_BT = self.seeds(texts.ids_BT, key)
        scored_BT = texts.scored_anchors(seeds_BT, self.width) & (seeds_BT != 0)
        asked_BT = torch.where(scored_BT, seeds_BT, NONE)
        return self.green(texts.ids_BT, asked_BT, key, vocabulary).double(), scored_BT


@lru_cache(maxsize=2**16)
def greens_log10_p(green: int, drawn: tuple[tuple[int, int], ...], vocabulary: int, size: int) -> float:
    """log10 P[as many green ids or more] over the lists of all seeds, `size` ids each. drawn: pairs of a number of ids and how many
    seeds are followed by so many."""
    laws = [hypergeometric_log_masses(vocabulary, size, ids) for ids, _ in drawn]
    return sum_log10_p(green, laws, [seeds for _, seeds in drawn])


def _numbered(drawn_S: np.ndarray) -> tuple[tuple[int, int], ...]:
    drawn_D, seeds_D = np.unique(drawn_S, return_counts=True)
    return tuple(zip(drawn_D.tolist(), seeds_D.tolist(), strict=True))


def _z(green: float, drawn_S: np.ndarray, vocabulary: int, size: int) -> float:
    chance = size / vocabulary
    spread_S = drawn_S * (vocabulary - drawn_S) / max(1, vocabulary - 1)
    return float(standard(np.asarray(green), chance * drawn_S.sum(), chance * (1 - chance) * spread_S.sum()))

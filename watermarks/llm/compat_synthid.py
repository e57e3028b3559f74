"""Texts marked by transformers' SynthIDTextWatermarkingConfig: the same g-values, context mask and mean score, and the exact null
of that mean.

The bit of layer l is table[(A (hash + key_l) + 1) mod 2^16]: of hash and key only 16 bits matter, ids 65,536 apart always agree,
and the table's mean is not 1/2. Over a uniform key the entries that a text's hashes meet are the table at a uniform offset. So all
65,536 values of a layer's sum, given the text, are one circular correlation; layers have independent keys. The tail follows (core/
tilted_sums.py) with all of these defects in it.

The generator starts from a context of zeros and an empty history, and the prompt enters neither: what counts after a prompt is
decided among generated ids alone, but for n-grams that the prompt holds, which are no news.

Suffixes: B texts, T positions, N n-grams, H ids of one, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from ...core.contracts import Configured
from ...core.statistics import Floats
from ...core.tilted_sums import sum_log10_p
from ...kernels.text_dedup import LAST, window_keys
from .corpus import Texts
from .sampling import Reading
from .windows import WIDEST

MULTIPLIER = 6364136223846793005  # A


@lru_cache(maxsize=8)
def table(size: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed))


def absorbed(hash_: Tensor, ids: Tensor) -> Tensor:
    """int64 that wraps."""
    return (hash_ + ids) * MULTIPLIER + 1


@dataclass(frozen=True)
class TransformersSynthId(Configured):
    scheme = "compat/transformers_synthid"
    unit = "z"

    ngram_len: Annotated[int, Ge(2), Le(WIDEST + 1)] = 5
    sampling_table_size: Annotated[int, Ge(2), Le(2**20)] = 2**16
    """The law of a text is a transform of the whole table: 0.1 s of the largest."""
    sampling_table_seed: Annotated[int, Ge(-(2**63)), Lt(2**64)] = 0
    """What torch takes."""
    context_history_size: Annotated[int, Ge(1), Le(2**31)] = 1024

    def __post_init__(self) -> None:
        size = self.sampling_table_size
        if size & (size - 1):  # a key would not shift it
            raise ValueError(f"sampling_table_size: expected a power of two, got {size}")

    @property
    def width(self) -> int:
        return self.ngram_len - 1

    def hashes(self, ids_BT: Tensor, count: int) -> Tensor:
        """(B, N) int64 of every run of `count` ids."""
        windows_BNH = ids_BT.unfold(1, count, 1)
        hash_BN = torch.ones(windows_BNH.shape[:2], dtype=torch.int64)
        for id_BN in windows_BNH.unbind(-1):
            hash_BN = absorbed(hash_BN, id_BN)
        return hash_BN

    def g_values(self, ids_BT: Tensor, keys: Sequence[int]) -> Tensor:
        """(B, N, L) int64, as `compute_g_values`. N = T - ngram_len + 1."""
        hash_BNL = absorbed(self.hashes(ids_BT, self.ngram_len)[..., None], torch.tensor(keys))
        entries = table(self.sampling_table_size, self.sampling_table_seed)
        return entries[hash_BNL % self.sampling_table_size]

    def context_mask(self, ids_BT: Tensor) -> Tensor:
        """(B, N) bool, as `compute_context_repetition_mask`: contexts that the history does not hold."""
        hash_BN = self.hashes(ids_BT[:, :-1], self.width)
        count = hash_BN.shape[1]
        order_BN = hash_BN.argsort(dim=1, stable=True)
        sorted_BN = hash_BN.gather(1, order_BN)
        before_BN = torch.full_like(order_BN, -2 * self.context_history_size - count)
        same_BN = sorted_BN[:, 1:] == sorted_BN[:, :-1]
        before_BN[:, 1:] = torch.where(same_BN, order_BN[:, :-1], before_BN[:, 1:])
        previous_BN = torch.empty_like(before_BN).scatter_(1, order_BN, before_BN)
        place_N = torch.arange(count)
        fresh_BN = place_N - previous_BN > self.context_history_size
        return fresh_BN & ~((hash_BN == 0) & (place_N < self.context_history_size))  # it begins full of zeros

    def mean(self, ids_BT: Tensor, keys: Sequence[int]) -> Tensor:
        """(B,) the mean g-value over unmasked positions."""
        mask_BN1 = self.context_mask(ids_BT)[..., None]
        return (self.g_values(ids_BT, keys) * mask_BN1).sum((1, 2)) / (len(keys) * mask_BN1.sum((1, 2)))

    def examine(self, texts: Texts, keys: Sequence[Sequence[int]], vocabulary: int) -> Reading:
        """keys: the layer keys of every owner."""
        shape = (1 if texts.corpus else len(texts.ids_BT), len(keys))
        z, scored, log10_p = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape)
        counted = texts.pieces(self.scored(texts))
        laws = [
            self.law(hash_T[counted_T])
            for hash_T, counted_T in zip(self._hashes(texts), counted, strict=True)
        ]
        means, variances = zip(*(_moments(law) for law in laws), strict=True)
        for k, layers in enumerate(keys):
            ones_BT = texts.pieces(self._ones(texts, layers))
            for b, law in enumerate(laws):
                ones, scored[b, k] = int(ones_BT[b][counted[b]].sum()), float(counted[b].sum())
                if scored[b, k]:
                    log10_p[b, k] = sum_log10_p(ones, [law], copies=len(layers))
                    z[b, k] = (ones - len(layers) * means[b]) / np.sqrt(len(layers) * variances[b])
        return Reading(z, scored, log10_p)

    def scored(self, texts: Texts) -> Tensor:
        """(B, T) bool: generated ids after a generated window that is new among these, and whose n-gram stands in no prompt."""
        position_T = torch.arange(texts.ids_BT.shape[1])
        inside_BT = position_T >= texts.prompt_B[:, None]
        whole_BT = position_T >= texts.prompt_B[:, None] + self.width
        windows_BT = window_keys(texts.ids_BT, self.width).where(whole_BT, LAST)
        ngrams_BT = window_keys(texts.ids_BT, self.width, "v2").where(whole_BT | ~inside_BT, LAST)
        return whole_BT & texts.new(windows_BT, self.width) & texts.new(ngrams_BT, self.width)

    def _hashes(self, texts: Texts) -> Tensor:
        """(B, T), in pieces; 0 where there is no n-gram."""
        hash_BT = torch.zeros_like(texts.ids_BT)
        if texts.ids_BT.shape[1] > self.width:
            hash_BT[:, self.width :] = self.hashes(texts.ids_BT, self.ngram_len)
        return texts.pieces(hash_BT)

    def _ones(self, texts: Texts, layers: Sequence[int]) -> Tensor:
        ones_BT = torch.zeros_like(texts.ids_BT)
        if texts.ids_BT.shape[1] > self.width:
            ones_BT[:, self.width :] = self.g_values(texts.ids_BT, layers).sum(-1)
        return ones_BT

    def law(self, hash_N: Tensor) -> Floats:
        """ln P[a layer's sum = k] over a uniform key, k from 0 to N."""
        size = self.sampling_table_size
        place_N = (hash_N * MULTIPLIER % size).numpy()
        met = np.bincount(place_N, minlength=size).astype(np.float64)
        entries = table(size, self.sampling_table_seed).double().numpy()
        sums = np.fft.irfft(np.conj(np.fft.rfft(met)) * np.fft.rfft(entries), size)
        counts = np.bincount(np.rint(sums).astype(np.int64), minlength=len(hash_N) + 1)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(counts / size))

    def terms(self, texts: Texts, keys: Sequence[int], vocabulary: int) -> tuple[Tensor, Tensor]:
        share_BT = self._ones(texts, keys).double() / len(keys)
        return (0.5 + (share_BT - 0.5) * 2).clamp(0, 1), self.scored(texts)


def _moments(law: Floats) -> tuple[float, float]:
    k, p = np.arange(len(law)), np.exp(law)
    mean = float((p * k).sum())
    return mean, float((p * (k - mean) ** 2).sum())

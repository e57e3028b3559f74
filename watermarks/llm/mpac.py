"""A message of symbols: the window chooses one of its places, and the ids of that place's symbol get +delta, out of r lists that
share out the vocabulary (MPAC: Yoo et al., NAACL 2024, arXiv:2308.00221).

The detector takes the commonest symbol at each place. The published z compares that maximum with the mean of a single list: z is
3.5 to 4.9 on plain text. Given the places, symbols of plain text are multinomial with equal chances, and the tail of the sum of
the maxima is exact.

Suffixes: B rows or texts, T positions, L ids so far, V vocabulary, K keys, S places of the message, R symbols.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.payload import Message
from ...core.secret import Secret
from ...core.statistics import LN10, Floats
from ...core.text_tails import max_of_binomials_log10_p
from ...core.tilted_sums import sum_log10_p
from ...kernels.text_mark import TextMark
from ...kernels.text_words import vocabulary_words
from .corpus import Texts
from .drawing import windows_of
from .messages import bits_of, embedded, number_of, plain, shown
from .sampling import Reading, SamplingMark, TextKey, stream, words_of
from .windows import WIDEST, words_at


@dataclass(frozen=True)
class Mpac(SamplingMark):
    paper = "Yoo et al., NAACL 2024, arXiv:2308.00221"
    scheme = "mpac"
    unit = "-log10 p"
    law = "maxima of multinomials"
    dedup = "v2"

    delta: Annotated[float, Gt(0)] = 2.0
    width: Annotated[int, Ge(1), Le(WIDEST)] = 1
    """Of the window that seeds the lists and chooses the place. The official code seeds by selfhash, in which the candidate takes
    part, and chooses the place from the last two ids."""
    symbol_bits: Literal[1, 2, 4] = 2
    places: Annotated[int, Ge(1), Le(64)] = 8
    payload: str | None = None
    """In hexadecimal, of places x symbol_bits bits; None: a message of the secret's own."""

    @property
    def bits(self) -> int:
        return self.places * self.symbol_bits

    def text_mark(self, vocabulary: int) -> TextMark:
        return TextMark(vocabulary, self.width, self.prf)

    def symbols_of(self, words: Tensor) -> Tensor:
        """The list an id belongs to: the upper bits of its word."""
        return words >> (32 - self.symbol_bits)

    def places_of(self, windows_NH: Tensor, secret: Secret) -> Tensor:
        """(N,) which place of the message each window speaks for, by a key of its own."""
        key, first_N = stream(secret, f"{self.scheme}/place"), windows_NH.new_zeros(len(windows_NH))
        return words_at(windows_NH, first_N, key, self.prf) * self.places >> 32

    def message(self, secret: Secret) -> Tensor:
        """(S,) symbols, the first of the most significant bits."""
        bits_B = bits_of(embedded(self.payload, secret, self.bits, self.scheme), self.bits)
        return torch.tensor([number_of(part) for part in bits_B.split(self.symbol_bits)])

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        windows_BH = windows_of(context_BL, self.width)
        if windows_BH is None:
            return logits_BV
        keys = torch.tensor([stream(secret, self.scheme)], device=logits_BV.device)
        words_BV = vocabulary_words(windows_BH, keys, self.text_mark(logits_BV.shape[1]))
        wanted_B = self.message(secret).to(logits_BV.device)[self.places_of(windows_BH, secret)]
        return logits_BV.float() + self.delta * (self.symbols_of(words_BV) == wanted_B[:, None])

    def counts(self, texts: Texts, secret: Secret, vocabulary: int) -> NDArray[np.int64]:
        """(B, S, R), of a corpus (1, S, R): how often each list was met at each place."""
        symbol_BT, place_BT, scored_BT = self._seen(texts, secret, vocabulary)
        lists, rows = 2**self.symbol_bits, torch.arange(len(texts.ids_BT))[:, None]
        cell_BT = ((0 if texts.corpus else rows) * self.places + place_BT) * lists + symbol_BT
        pieces = 1 if texts.corpus else len(texts.ids_BT)
        found = torch.bincount(cell_BT[scored_BT], minlength=pieces * self.places * lists)
        return found.reshape(pieces, self.places, lists).numpy()

    def _seen(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) symbol, place, and whether the position counts."""
        ids_BT, place_BT = texts.ids_BT, torch.zeros_like(texts.ids_BT)
        if ids_BT.shape[1] > self.width:
            windows_NH = ids_BT.unfold(1, self.width + 1, 1)[..., :-1].reshape(-1, self.width)
            place_BT[:, self.width :] = self.places_of(windows_NH, secret).reshape(len(ids_BT), -1)
        words_BT = words_of(ids_BT, stream(secret, self.scheme), self.text_mark(vocabulary))
        return self.symbols_of(words_BT), place_BT, texts.scored(self.width, self.dedup)

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        counts_BKSR = np.stack([self.counts(texts, secret, vocabulary) for secret in secrets], 1)
        trials_BKS, most_BK = counts_BKSR.sum(-1), counts_BKSR.max(-1).sum(-1)
        scored = trials_BKS.sum(-1).astype(np.float64)
        cells = zip(most_BK.ravel().tolist(), trials_BKS.reshape(-1, self.places).tolist(), strict=True)
        tails = [maxima_log10_p(most, tuple(sorted(n)), 2**self.symbol_bits) for most, n in cells]
        log10_p = np.array(tails, dtype=np.float64).reshape(most_BK.shape)
        message = counts_BKSR.argmax(-1) @ (2**self.symbol_bits) ** np.arange(
            self.places - 1, -1, -1, dtype=object
        )
        return Reading(np.where(scored > 0, -log10_p, np.nan), scored, log10_p, message)

    def read(self, suspect: nn.Module, key: TextKey) -> Message | None:
        corpus = self.corpus_of(suspect, key.prompts_NP, key.vocabulary)
        if corpus is None:
            return None
        found = int(self.examine(corpus, [key.secret], key.vocabulary).message[0, 0])
        return shown(found, self.payload, key.secret, self.bits, self.scheme)

    def plain(self, found: int, secret: Secret) -> str:
        """The payload in a message that `examine` read."""
        return plain(found, secret, self.bits, self.scheme)

    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        """Whether an id is of the list that won its place."""
        symbol_BT, place_BT, scored_BT = self._seen(texts, secret, vocabulary)
        winner_BS = torch.from_numpy(self.counts(texts, secret, vocabulary).argmax(-1))
        won_BT = winner_BS.expand(len(place_BT), -1).gather(1, place_BT) == symbol_BT
        return won_BT.double(), scored_BT


@lru_cache(maxsize=2**16)
def maxima_log10_p(statistic: int, trials: tuple[int, ...], symbols: int) -> float:
    """log10 P[sum over places of the largest of the symbols' counts >= statistic]: `max_of_binomials_log10_p`, whose convolutions
    in log space take 20 ms for 2,000 ids, by FFT."""
    laws = [_largest(n, symbols) for n in trials if n]
    return sum_log10_p(statistic, laws) if laws else 0.0


@lru_cache(maxsize=4096)
def _largest(trials: int, symbols: int) -> Floats:
    """ln P[largest count = k], k from 0, from its tails."""
    tails = LN10 * max_of_binomials_log10_p(np.arange(trials + 1), [trials], 1 / symbols, symbols)
    with np.errstate(divide="ignore"):
        rest = np.log1p(-np.exp(np.minimum(np.append(tails[1:], -math.inf) - tails, 0)))
    return np.asarray(tails + rest)

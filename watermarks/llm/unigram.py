"""One green list for every position (Zhao et al., ICLR 2024, arXiv:2306.17439).

A word that comes twice is green twice, so only a text's different ids are evidence: given the size of the list, the green ones
among them are hypergeometric. The published z over all tokens counts a frequent word as often as it stands, and is not valid on
natural text.

Suffixes: B rows or texts, T positions, L ids so far, V vocabulary, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ...core.secret import Secret
from ...core.text_tails import hypergeometric_log10_p
from ...kernels.text_green import green_bias, green_mask
from ...kernels.text_mark import TextMark
from .corpus import Texts
from .sampling import Reading, SamplingMark, standard, stream, streams, words_of

WORDS = 2**24  # of green lists at a time


@dataclass(frozen=True)
class Unigram(SamplingMark):
    paper = "Zhao et al., ICLR 2024, arXiv:2306.17439"
    scheme = "unigram"
    unit = "z"
    law = "hypergeometric"
    dedup = "v2"
    width: ClassVar[int] = 0

    gamma: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Of the official code; the green lists of kgw take 0.25."""
    delta: Annotated[float, Gt(0)] = 2.0

    def text_mark(self, vocabulary: int) -> TextMark:
        return TextMark(vocabulary, 0, self.prf, "green", self.gamma)

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        keys = torch.tensor([stream(secret, self.scheme)], device=logits_BV.device)
        mark = self.text_mark(logits_BV.shape[1])
        return green_bias(logits_BV, context_BL[:, :0], keys, mark, self.delta)

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        mark, keys_K = self.text_mark(vocabulary), streams(secrets, self.scheme)
        green, scored = self.summed(texts, keys_K, mark)
        share_K = self.sizes(keys_K, mark) / vocabulary
        variance = scored * share_K * (1 - share_K) * (vocabulary - scored) / max(1, vocabulary - 1)
        log10_p = hypergeometric_log10_p(green, vocabulary, np.rint(share_K * vocabulary), scored)
        return Reading(
            standard(green, share_K * scored, variance), np.broadcast_to(scored, green.shape), log10_p
        )

    def sizes(self, keys_K: Tensor, mark: TextMark) -> np.ndarray:
        """(K,) ids of each key's list."""
        step = max(1, WORDS // mark.vocabulary)
        parts = [green_mask(part.new_empty(len(part), 0), part, mark).sum(1) for part in keys_K.split(step)]
        return torch.cat(parts).double().numpy()

    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        mark = self.text_mark(vocabulary)
        words_BT = words_of(texts.ids_BT, stream(secret, self.scheme), mark)
        return (words_BT < mark.threshold).double(), texts.scored(0, self.dedup)

"""The next id is the argmax of logits and keyed Gumbel noise, which a hash of the window gives: a draw from the softmax by the key
alone (Aaronson, 2022). It is not the fixed key sequence, aligned with the text, of Kuditipudi et al. (TMLR 2024, arXiv:2307.15593).
Where the window has come before, the id is drawn without the key, so that within a text nothing is distorted.

Suffixes: B rows or texts, T positions, L ids so far, V vocabulary, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from ...core.secret import Secret
from ...core.text_tails import gamma_log10_p
from ...kernels.text_generation import gumbel_argmax
from ...kernels.text_mark import TextMark
from ...kernels.text_prf import uniforms
from .corpus import Texts
from .drawing import chosen, drawn_where, only, repeated, windows_of
from .sampling import Reading, SamplingMark, standard, stream, streams, words_of
from .windows import WIDEST


def keyed_ids(
    logits_BV: Tensor, context_BL: Tensor, key: int, mark: TextMark, message_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(B,) the key's ids, and (B,) bool, rows that are to be drawn without it: those whose window is short, or not new."""
    windows_BH = windows_of(context_BL, mark.width)
    if windows_BH is None:
        rows = len(logits_BV)
        return context_BL.new_zeros(rows), torch.ones(rows, dtype=torch.bool, device=logits_BV.device)
    keys = torch.tensor([key], device=logits_BV.device)
    ids_B = gumbel_argmax(logits_BV, windows_BH, keys, mark, payload_B=message_B)
    return chosen(ids_B), repeated(context_BL, mark.width)


@dataclass(frozen=True)
class Gumbel(SamplingMark):
    paper = "Aaronson, 2022"
    scheme = "gumbel"
    unit = "standardised sum of -ln(1 - u)"
    law = "gamma"

    width: Annotated[int, Ge(1), Le(WIDEST)] = 4

    def text_mark(self, vocabulary: int) -> TextMark:
        return TextMark(vocabulary, self.width, self.prf, "gumbel")

    def keyed(self, logits_BV: Tensor, context_BL: Tensor, key: int) -> tuple[Tensor, Tensor]:
        return keyed_ids(logits_BV, context_BL, key, self.text_mark(logits_BV.shape[1]))

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        """Every other logit -inf."""
        ids_B, free_B = self.keyed(logits_BV, context_BL, stream(secret, self.scheme))
        return only(ids_B, logits_BV, free_B)

    def next_ids(
        self, logits_BV: Tensor, context_BL: Tensor, secret: Secret, generator: torch.Generator | None
    ) -> Tensor:
        ids_B, free_B = self.keyed(logits_BV, context_BL, stream(secret, self.scheme))
        return drawn_where(free_B, logits_BV, ids_B, generator)

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        sums, scored = self.summed(texts, streams(secrets, self.scheme), self.text_mark(vocabulary))
        scored = np.broadcast_to(scored, sums.shape)
        return Reading(standard(sums, scored, scored), scored, gamma_log10_p(sums, scored))

    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        mark = self.text_mark(vocabulary)
        words_BT = words_of(texts.ids_BT, stream(secret, self.scheme), mark)
        return uniforms(words_BT), texts.scored(self.width, self.dedup)

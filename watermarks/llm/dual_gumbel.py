"""Gumbel-max by one of two keys, the second with chance alpha at every id (vLLM's dual-key mark): equal prompts get different
texts, and a draft model may hold the first key alone.

The statistic weighs both keys' sums by their chances; its null is the exact law of two weighted gammas. A gamma of the same mean
and variance, which vLLM takes, claims too much far out (core/gamma_sums.py).

Suffixes: B rows or texts, L ids so far, V vocabulary, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from ...core.gamma_sums import LEAST, two_gammas_log10_p
from ...core.secret import Secret
from ...kernels.text_prf import uniforms
from .corpus import Texts
from .gumbel import Gumbel
from .sampling import Reading, standard, stream, streams, words_of


@dataclass(frozen=True)
class DualGumbel(Gumbel):
    paper = "vLLM, vllm/v1/watermarking/gumbel.py, 2026; Aaronson, 2022"
    scheme = "dual_gumbel"
    law = "two gammas"

    alpha: Annotated[float, Ge(LEAST), Le(0.5)] = 0.1

    def both(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) ids of either key, and which rows are to be drawn without them."""
        one_B, free_B = self.keyed(logits_BV, context_BL, stream(secret, f"{self.scheme}/a"))
        other_B, _ = self.keyed(logits_BV, context_BL, stream(secret, f"{self.scheme}/b"))
        return one_B, other_B, free_B

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        """ln(1 - alpha) and ln alpha for the two ids, every other logit -inf: who draws from this tosses the coin."""
        one_B, other_B, free_B = self.both(logits_BV, context_BL, secret)
        chances_BV = torch.zeros_like(logits_BV).scatter_(1, one_B[:, None], 1 - self.alpha)
        chances_BV.scatter_add_(1, other_B[:, None], torch.full_like(logits_BV[:, :1], self.alpha))
        return torch.where(free_B[:, None], logits_BV, chances_BV.log())

    def next_ids(
        self, logits_BV: Tensor, context_BL: Tensor, secret: Secret, generator: torch.Generator | None
    ) -> Tensor:
        return super(Gumbel, self).next_ids(logits_BV, context_BL, secret, generator)

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        mark = self.text_mark(vocabulary)
        keys_2 = [streams(secrets, f"{self.scheme}/{name}") for name in "ab"]
        both, scored = self.summed(texts, torch.cat(keys_2), mark)
        one, other = np.split(both, 2, axis=1)
        sums = (1 - self.alpha) * one + self.alpha * other
        scored = np.broadcast_to(scored, sums.shape)
        variance = ((1 - self.alpha) ** 2 + self.alpha**2) * scored
        return Reading(standard(sums, scored, variance), scored, two_gammas_log10_p(sums, scored, self.alpha))

    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        """The better of the two keys, by the chance that both are worse."""
        mark = self.text_mark(vocabulary)
        u_BT = [uniforms(words_of(texts.ids_BT, stream(secret, f"{self.scheme}/{n}"), mark)) for n in "ab"]
        return torch.maximum(*u_BT) ** 2, texts.scored(self.width, self.dedup)

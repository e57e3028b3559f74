"""Tournament sampling: layer by layer, the candidate whose keyed bit is 1 beats the one whose bit is 0 (SynthID-Text: Dathathri et
al., Nature 634, 2024). The 32 layers are the bits of one word. Where the window has come before, the id is drawn without the key.

Ids of less than TAIL / V keep their probability, at most 1 % together, and the others play for theirs. The mean over keys is still
the model's distribution, and a sharp one leaves few to play.

Suffixes: B rows or texts, T positions, L ids so far, V vocabulary, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from ...core.secret import Secret
from ...core.statistics import Floats
from ...core.text_tails import counts_log10_p
from ...core.weighted_bits import whole_weights_log10_p
from ...kernels.text_generation import tournament
from ...kernels.text_mark import TextMark
from ...kernels.text_words import vocabulary_words
from .corpus import Texts
from .drawing import repeated, windows_of
from .sampling import Reading, SamplingMark, standard, stream, streams, words_of
from .windows import WIDEST

TAIL = 0.01
GROUP = 8  # layers played at once: their 256 outcomes are a table


@dataclass(frozen=True)
class SynthId(SamplingMark):
    paper = "Dathathri et al., Nature 634, 2024, doi:10.1038/s41586-024-08025-4"
    scheme = "synthid"
    unit = "z"
    law = "weighted binomials"

    width: Annotated[int, Ge(1), Le(WIDEST)] = 4
    depth: Annotated[int, Ge(1), Le(32)] = 32
    weighting: Literal["equal", "linear"] = "linear"
    """Of layers in the statistic. linear: from 10 to 1, as deep layers have less entropy left; the weights of the official weighted
    mean, which it recommends where no detector is trained. Both tails are exact (core/weighted_bits.py)."""

    def text_mark(self, vocabulary: int) -> TextMark:
        return TextMark(vocabulary, self.width, self.prf, "layers", depth=self.depth)

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        windows_BH = windows_of(context_BL, self.width)
        if windows_BH is None:
            return logits_BV
        keys = torch.tensor([stream(secret, self.scheme)], device=logits_BV.device)
        words_BV = vocabulary_words(windows_BH, keys, self.text_mark(logits_BV.shape[1]))
        played_BV = played(torch.softmax(logits_BV.float(), -1), words_BV, self.depth)
        return torch.where(repeated(context_BL, self.width)[:, None], logits_BV, played_BV.log())

    def weights(self) -> NDArray[np.int64]:
        """Whole numbers in the proportions of `weighting`."""
        if self.weighting == "equal" or self.depth == 1:
            return np.ones(self.depth, dtype=np.int64)
        steps_L = 10 * (self.depth - 1) - 9 * np.arange(self.depth)
        return steps_L // int(np.gcd.reduce(steps_L))

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        ones_BKL, scored = self.summed(texts, streams(secrets, self.scheme), self.text_mark(vocabulary))
        sums, w = ones_BKL @ self.weights(), self.weights()
        scored = np.broadcast_to(scored, sums.shape)
        if self.weighting == "equal":
            log10_p = counts_log10_p(sums, self.depth * scored, 0.5)
        else:
            log10_p = whole_weights_log10_p(sums, scored, w.tolist())
        return Reading(standard(sums, scored * w.sum() / 2, scored * (w @ w) / 4), scored, log10_p)

    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        """The share of ones, stretched: 32 fair bits lie within 0.5 +- 0.27 but for one word in 400."""
        words_BT = words_of(texts.ids_BT, stream(secret, self.scheme), self.text_mark(vocabulary))
        ones_BT = torch.stack([words_BT >> layer & 1 for layer in range(self.depth)]).double().mean(0)
        return (0.5 + (ones_BT - 0.5) * 2).clamp(0, 1), texts.scored(self.width, self.dedup)


def played_reference(p_BV: Tensor, words_BV: Tensor, depth: int) -> Tensor:
    """The definition: `tournament` among the ids that play, for their share."""
    plays_BV = p_BV > TAIL / p_BV.shape[1]
    share_B1 = torch.where(plays_BV, p_BV, 0).sum(1, keepdim=True)
    among_BV = tournament(torch.where(plays_BV, p_BV, 0) / share_B1, words_BV, depth)
    return torch.where(plays_BV, among_BV * share_B1, p_BV)


def played(p_BV: Tensor, words_BV: Tensor, depth: int) -> Tensor:
    """Probabilities (B, V) float32 after the tournament. On the CPU the joint probabilities of the next 8 bits give those layers'
    factors at once: 4 passes instead of 32."""
    if p_BV.device.type != "cpu":
        return played_reference(p_BV, words_BV, depth)
    out_BV = p_BV.clone()
    for p_V, words_V in zip(out_BV.numpy(), words_BV.numpy(), strict=True):
        player_N = np.flatnonzero(p_V > TAIL / len(p_V))
        p_V[player_N] = _played_row(p_V[player_N].astype(np.float64), words_V[player_N], depth)
    return out_BV


def _played_row(p_N: Floats, words_N: NDArray[np.int64], depth: int) -> Floats:
    share = p_N.sum()
    for first in range(0, depth, GROUP):
        bits = min(GROUP, depth - first)
        group_N = (words_N >> first) & (2**bits - 1)
        mass_G = np.bincount(group_N, p_N, 2**bits)
        p_N = p_N * _factors(mass_G / share, bits)[group_N]
    return p_N


def _factors(mass_G: Floats, bits: int) -> Floats:
    """By what the layers multiply the probability of each outcome of their bits."""
    outcome_G, factor_G = np.arange(len(mass_G)), np.ones(len(mass_G))
    for layer in range(bits):
        bit_G = outcome_G >> layer & 1
        # The share may come out above 1 by rounding.
        factor_G *= bit_G + max(0.0, 1 - float((bit_G * mass_G * factor_G).sum()))
    return factor_G

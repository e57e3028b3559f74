"""Green lists: after each window of ids a keyed share gamma of the vocabulary gets +delta (Kirchenbauer et al., ICML 2023,
arXiv:2301.10226; windows that one id stands for: ICLR 2024, arXiv:2306.04634).

An id is green iff its word is below gamma 2^32, so that lists need no permutation and the count of green ids among different pairs
of window and id is exactly binomial. delta counts after division by the temperature.

Suffixes: B rows or texts, T positions, L ids so far, H ids of a window, V vocabulary, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from ...core.secret import Secret
from ...core.text_tails import counts_log10_p
from ...kernels.text_green import green_bias
from ...kernels.text_mark import TextMark
from ...kernels.text_scores import text_scores
from .corpus import Texts
from .drawing import windows_of
from .sampling import Reading, SamplingMark, standard, stream, streams, words_of
from .windows import WIDEST, Window, anchored_mask, anchors


@dataclass(frozen=True)
class Kgw(SamplingMark):
    paper = "Kirchenbauer et al., ICML 2023, arXiv:2301.10226; ICLR 2024, arXiv:2306.04634"
    scheme = "kgw"
    unit = "z"
    law = "binomial"
    dedup = "v2"

    gamma: Annotated[float, Gt(0), Lt(1)] = 0.25
    delta: Annotated[float, Gt(0)] = 2.0
    width: Annotated[int, Ge(1), Le(WIDEST)] = 1
    window: Window = "left"
    """left: the whole window seeds the list; minhash: one id of it does; self: one of it and the candidate. The official code
    biases only the 40 likeliest candidates of self, for its time; here all of the vocabulary is biased."""

    def text_mark(self, vocabulary: int) -> TextMark:
        """Of words: a window that one id stands for has width 1."""
        width = self.width if self.window == "left" else 1
        return TextMark(vocabulary, width, self.prf, "green", self.gamma)

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        windows_BH = windows_of(context_BL, self.width)
        if windows_BH is None:
            return logits_BV
        mark, key = self.text_mark(logits_BV.shape[1]), stream(secret, self.scheme)
        if self.window == "left":
            keys = torch.tensor([key], device=logits_BV.device)
            return green_bias(logits_BV, windows_BH, keys, mark, self.delta)
        anchor_key = stream(secret, f"{self.scheme}/anchor")
        green_BV = anchored_mask(windows_BH.cpu(), anchor_key, key, mark, self.window)
        return logits_BV.float() + self.delta * green_BV.to(logits_BV.device)

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        mark = self.text_mark(vocabulary)
        if self.window == "left":
            green, scored = self.summed(texts, streams(secrets, self.scheme), mark)
            scored = np.broadcast_to(scored, green.shape)
        else:
            columns = [self._anchored(texts, secret, mark) for secret in secrets]
            green, scored = (np.stack([column[i] for column in columns], 1) for i in (0, 1))
        chance = mark.threshold / 2**32
        z = standard(green, chance * scored, chance * (1 - chance) * scored)
        return Reading(z, scored, counts_log10_p(green, scored, chance))

    def _anchored(self, texts: Texts, secret: Secret, mark: TextMark) -> tuple[np.ndarray, np.ndarray]:
        """Green ids (B,) and scored positions (B,) of one key, whose anchors nobody shares: (anchor, id) side by side are texts of
        windows of width 1, of which every other position is scored."""
        anchors_BT, scored_BT = self._anchors(texts, secret, mark)
        pairs_BS = torch.stack((anchors_BT, texts.ids_BT), -1).flatten(1)
        scored_BS = torch.stack((torch.zeros_like(scored_BT), scored_BT), -1).flatten(1)
        keys_1 = streams([secret], self.scheme)
        found = text_scores(texts.pieces(pairs_BS), keys_1, mark, scored_BT=texts.pieces(scored_BS))
        return found.statistic[:, 0].double().numpy(), found.scored_B.double().numpy()

    def _anchors(self, texts: Texts, secret: Secret, mark: TextMark) -> tuple[Tensor, Tensor]:
        key = stream(secret, f"{self.scheme}/anchor")
        anchors_BT = anchors(texts.ids_BT, self.width, key, mark, self.window)
        return anchors_BT, texts.scored_anchors(anchors_BT, self.width)

    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        mark, key = self.text_mark(vocabulary), stream(secret, self.scheme)
        if self.window == "left":
            words_BT, scored_BT = words_of(texts.ids_BT, key, mark), texts.scored(self.width, self.dedup)
        else:
            anchors_BT, scored_BT = self._anchors(texts, secret, mark)
            pairs_N2 = torch.stack((anchors_BT, texts.ids_BT), -1).reshape(-1, 2)
            words_BT = words_of(pairs_N2, key, mark)[:, 1].reshape(texts.ids_BT.shape)
        return (words_BT < mark.threshold).double(), scored_BT

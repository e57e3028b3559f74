"""A message of some bits shifts the keyed words around the vocabulary: F(w, (v + m) mod V) in place of F(w, v), under Gumbel-max or
green lists (Fernandez et al., WIFS 2023, arXiv:2308.00113, section 5). One pass scores all messages.

Only new windows are scored: then no two of the words that messages read are the same, their statistics are independent, and the
best of M has p = 1 - (1 - p)^M exactly.

Suffixes: B rows or texts, T positions, L ids so far, V vocabulary, K keys, P messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.payload import Message
from ...core.secret import Secret
from ...core.statistics import best_of_log10_p
from ...core.text_tails import counts_log10_p, gamma_log10_p
from ...kernels.text_green import green_bias
from ...kernels.text_mark import TextMark
from ...kernels.text_prf import uniforms
from .corpus import Texts
from .drawing import drawn, drawn_where, only, windows_of
from .gumbel import keyed_ids
from .messages import embedded, plain, shown
from .sampling import Reading, SamplingMark, TextKey, standard, stream, streams, words_of
from .windows import WIDEST

SUMS = 2**24  # of messages at a time, 128 MB


@dataclass(frozen=True)
class Cyclic(SamplingMark):
    paper = "Fernandez et al., WIFS 2023, arXiv:2308.00113"
    scheme = "cyclic"
    unit = "largest standardised sum"
    law = "best of 2^bits messages"

    width: Annotated[int, Ge(1), Le(WIDEST)] = 4
    bits: Annotated[int, Ge(1), Le(16)] = 8
    """At 16 a batch of 256 texts fills SUMS."""
    by: Literal["gumbel", "green"] = "gumbel"
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.25
    delta: Annotated[float, Gt(0)] = 2.0
    payload: str | None = None
    """In hexadecimal; None: a message of the secret's own."""

    def text_mark(self, vocabulary: int) -> TextMark:
        if 2**self.bits > vocabulary:
            raise ConfigError(
                f"2^{self.bits} messages need a vocabulary of as many ids, got {vocabulary}; set watermark.bits lower"
            )
        return TextMark(vocabulary, self.width, self.prf, self.by, self.gamma, payloads=2**self.bits)

    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        if self.by == "gumbel":
            ids_B, free_B = self._keyed(logits_BV, context_BL, secret)
            return only(ids_B, logits_BV, free_B)
        windows_BH = windows_of(context_BL, self.width)
        if windows_BH is None:
            return logits_BV
        keys = torch.tensor([stream(secret, self.scheme)], device=logits_BV.device)
        mark = self.text_mark(logits_BV.shape[1])
        return green_bias(logits_BV, windows_BH, keys, mark, self.delta, self._message(logits_BV, secret))

    def next_ids(
        self, logits_BV: Tensor, context_BL: Tensor, secret: Secret, generator: torch.Generator | None
    ) -> Tensor:
        if self.by == "green":
            return drawn(self.adjusted(logits_BV, context_BL, secret), generator)
        ids_B, free_B = self._keyed(logits_BV, context_BL, secret)
        return drawn_where(free_B, logits_BV, ids_B, generator)

    def _keyed(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> tuple[Tensor, Tensor]:
        key, mark = stream(secret, self.scheme), self.text_mark(logits_BV.shape[1])
        return keyed_ids(logits_BV, context_BL, key, mark, self._message(logits_BV, secret))

    def _message(self, logits_BV: Tensor, secret: Secret) -> Tensor:
        """(B,) the same for every row."""
        message = embedded(self.payload, secret, self.bits, self.scheme)
        return torch.full((len(logits_BV),), message, device=logits_BV.device)

    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        mark, keys_K = self.text_mark(vocabulary), streams(secrets, self.scheme)
        step = max(1, SUMS // (2**self.bits * max(1, len(texts.ids_BT))))
        best, message, scored = [], [], np.empty((0, 1))
        for part in keys_K.split(step):
            sums_BKP, scored = self.summed(texts, part, mark)
            best.append(sums_BKP.max(-1))
            message.append(sums_BKP.argmax(-1))
        top = np.concatenate(best, 1)
        scored = np.broadcast_to(scored, top.shape)
        chance = mark.threshold / 2**32
        if self.by == "gumbel":
            log10_p, z = gamma_log10_p(top, scored), standard(top, scored, scored)
        else:
            log10_p = counts_log10_p(top, scored, chance)
            z = standard(top, chance * scored, chance * (1 - chance) * scored)
        return Reading(z, scored, best_of_log10_p(log10_p, 2**self.bits), np.concatenate(message, 1))

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
        """Of every text's best message."""
        mark, found = self.text_mark(vocabulary), self.examine(texts, [secret], vocabulary).message[:, 0]
        key, shift_B1 = stream(secret, self.scheme), torch.from_numpy(found)[:, None]
        words_BT = words_of(texts.ids_BT, key, mark, shift_B1)
        term_BT = uniforms(words_BT) if self.by == "gumbel" else (words_BT < mark.threshold).double()
        return term_BT, texts.scored(self.width, self.dedup)

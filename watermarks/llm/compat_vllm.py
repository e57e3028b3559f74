"""Texts marked by vLLM's samplers `gumbel` and `dual_key_gumbel` with the PRF philox4x32-10-v1, whose layout is that of
kernels/text_prf.py. Windows hold generated ids only: before the first there are ids -1.

A text is given without its prompt. Of dual keys the p-value is that of the exact law (core/gamma_sums.py); vLLM's is of a gamma
with the same mean and variance, and too small far out.

Suffixes: B texts, T positions, N positions of all texts, H ids of a window.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from ...core.contracts import Configured
from ...core.errors import ConfigError
from ...core.gamma_sums import LEAST, two_gammas_log10_p
from ...core.statistics import Floats
from ...kernels.text_dedup import window_keys
from ...kernels.text_prf import uniforms, wrapped
from .corpus import Texts
from .sampling import Reading, standard
from .windows import WIDEST, words_at


def derived(key: int, name: str) -> int:
    """The key of either half of a dual mark: the first 8 bytes of SHA-256 over its name and the key, big-endian."""
    return int.from_bytes(hashlib.sha256(name.encode() + key.to_bytes(8, "big")).digest()[:8], "big")


@dataclass(frozen=True)
class VllmGumbel(Configured):
    scheme = "compat/vllm_gumbel"
    unit = "standardised sum of -ln(1 - u)"

    algorithm: Literal["gumbel", "dual_key_gumbel"] = "gumbel"
    context_width: Annotated[int, Ge(1), Le(WIDEST)] = 4
    alpha: Annotated[float, Ge(0), Le(1)] = 0.1

    def __post_init__(self) -> None:
        if 0 < min(self.alpha, 1 - self.alpha) < LEAST:
            raise ValueError(f"alpha: expected 0, 1 or {LEAST} to {1 - LEAST}, got {self.alpha}")

    @property
    def width(self) -> int:
        """Ids on which a position's word depends. The first ids, which have fewer, are scored too."""
        return self.context_width

    def windows(self, texts: Texts) -> Tensor:
        """(B, T, H)."""
        if (texts.prompt_B > 0).any():
            raise ConfigError("vLLM's windows leave the prompt out: expected texts without it, and prompt 0")
        padded = torch.nn.functional.pad(texts.ids_BT, (self.context_width, 0), value=-1)
        return padded.unfold(1, self.context_width, 1)[:, :-1]

    def scored(self, texts: Texts) -> Tensor:
        """(B, T) bool: positions whose window is new."""
        padded = torch.nn.functional.pad(texts.ids_BT, (self.context_width, 0), value=-1)
        return texts.new(window_keys(padded, self.context_width)[:, self.context_width :], 0)

    def uniforms(self, texts: Texts, key: int) -> Tensor:
        """(B, T) float64."""
        windows_BTH = self.windows(texts)
        flat = windows_BTH.reshape(-1, self.context_width), texts.ids_BT.reshape(-1)
        return uniforms(words_at(*flat, wrapped(key), "philox")).reshape(texts.ids_BT.shape)

    def keys_of(self, key: int) -> tuple[tuple[int, float], ...]:
        """Keys and the chance that an id is drawn by them."""
        if self.algorithm == "gumbel":
            return ((key, 1.0),)
        return (derived(key, "key_a"), 1 - self.alpha), (derived(key, "key_b"), self.alpha)

    def examine(self, texts: Texts, keys: Sequence[int], vocabulary: int) -> Reading:
        scored_BT = texts.pieces(self.scored(texts))
        scored = scored_BT.sum(1).double().numpy()[:, None].repeat(len(keys), 1)
        sums = np.stack([self._sums(texts, scored_BT, key) for key in keys], 1)
        alpha = 0.0 if self.algorithm == "gumbel" else self.alpha
        spread = (1 - alpha) ** 2 + alpha**2
        log10_p = two_gammas_log10_p(sums, scored, alpha)
        return Reading(standard(sums, scored, spread * scored), scored, log10_p)

    def _sums(self, texts: Texts, scored_BT: Tensor, key: int) -> Floats:
        total = torch.zeros(scored_BT.shape, dtype=torch.float64)
        for one, chance in self.keys_of(key):
            total += chance * texts.pieces(-torch.log1p(-self.uniforms(texts, one)))
        return (total * scored_BT).sum(1).numpy()

    def terms(self, texts: Texts, key: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        found = [self.uniforms(texts, one) for one, _ in self.keys_of(key)]
        return torch.stack(found).amax(0) ** len(found), self.scored(texts)

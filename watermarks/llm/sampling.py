"""What sampling marks share. The owner's service draws the next id by a key; nothing is trained, and a text is the evidence.

A scheme says how the key changes a step's logits (`adjusted`) and what texts say about keys (`examine`). Everything it takes from
the secret is a 64-bit key of the function in kernels/text_prf.py, under the scheme's name.

The null of every scheme here: the text was written without the key. Then, over the draw of the key, the words of different pairs of
window and id are independent and uniform, whatever the text is; repeated pairs are dropped (corpus.py), and the tail is exact.

Suffixes: B rows or texts, T positions, L ids so far, V vocabulary, K keys, M suspects, N texts, P ids of a prompt.
"""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from ...core.contracts import Fit, Task, Watermark
from ...core.errors import NotApplicable
from ...core.key import Key
from ...core.scores import Scores
from ...core.secret import Secret, seed_for
from ...core.statistics import Floats
from ...core.suspects import Suspects, texts
from ...core.texts import Writer
from ...kernels.philox import packed
from ...kernels.text_dedup import Dedup
from ...kernels.text_mark import Prf, TextMark
from ...kernels.text_scores import text_scores
from .card import Card
from .corpus import Texts
from .drawing import drawn
from .windows import words_at

SEED = seed_for(0, "verification texts")


@dataclass(frozen=True, eq=False)
class TextKey(Key):
    """prompts_NP (N, P) int64, to which suspects write; vocabulary V and the tokenizer's hash, which the card names."""

    vocabulary: int
    tokenizer: str
    prompts_NP: Tensor


class Reading(NamedTuple):
    """Of B texts (1 for a corpus) and K keys. statistic (B, K): in standard deviations of the null where it has them, nan where
    nothing was scored; scored (B, K): positions that counted; log10_p (B, K): 0 where nothing was; message (B, K): of multi-bit
    schemes the one that was read, under its pad, else None."""

    statistic: Floats
    scored: Floats
    log10_p: Floats
    message: Any = None


def stream(secret: Secret, purpose: str) -> int:
    """The signed 64-bit key of one purpose."""
    return _stream(secret, purpose)


@lru_cache(maxsize=4096)
def _stream(secret: Secret, purpose: str) -> int:
    return packed(secret.stream(f"text/{purpose}"))


def streams(secrets: Sequence[Secret], purpose: str) -> Tensor:
    """(K,) int64."""
    return torch.tensor([stream(secret, purpose) for secret in secrets], dtype=torch.int64)


def standard(statistic: Floats, mean: Floats, variance: Floats) -> Floats:
    """(statistic - mean) / sd; nan where the variance is 0."""
    spread = np.sqrt(np.where(variance > 0, variance, np.nan))
    return np.asarray((statistic - mean) / spread)


@dataclass(frozen=True)
class KeyedSampler:
    """The owner's sampler: a `Sampler` of core/texts.py. Its repr shows the secret's fingerprint, no more."""

    scheme: "SamplingMark"
    secret: Secret

    def __call__(
        self, logits_BV: Tensor, context_BL: Tensor, prompt: int, generator: torch.Generator
    ) -> Tensor:
        return self.scheme.next_ids(logits_BV, context_BL, self.secret, generator)


@dataclass(frozen=True)
class SamplingMark(Watermark):
    family = "language"
    reads = "texts"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    key_type = TextKey
    trains = False

    scheme: ClassVar[str]
    """Its name in cards, and the purpose of its keys."""
    unit: ClassVar[str]
    law: ClassVar[str]
    dedup: ClassVar[Dedup] = "v1"

    prf: Prf = "philox"
    texts: Annotated[int, Ge(1)] = 16
    """What a suspect is asked to write, in one verification: so many texts of so many tokens, to prompts of so many ids."""
    tokens: Annotated[int, Ge(1)] = 128
    prompt: Annotated[int, Ge(1)] = 16

    @abstractmethod
    def text_mark(self, vocabulary: int) -> TextMark:
        """What generator and detector share beside the key."""

    @abstractmethod
    def adjusted(self, logits_BV: Tensor, context_BL: Tensor, secret: Secret) -> Tensor:
        """The logits of the next id after the mark, float32; rows with less than a window of context stay as they are."""

    @abstractmethod
    def examine(self, texts: Texts, secrets: Sequence[Secret], vocabulary: int) -> Reading:
        """Every text against every key, exact and corrected for the messages, not for the number of keys."""

    @abstractmethod
    def terms(self, texts: Texts, secret: Secret, vocabulary: int) -> tuple[Tensor, Tensor]:
        """(B, T) float64 in [0, 1], how much an id speaks for the key, and (B, T) bool, whether it counts: for a picture of a
        text."""

    def next_ids(
        self, logits_BV: Tensor, context_BL: Tensor, secret: Secret, generator: torch.Generator | None
    ) -> Tensor:
        """(B,) int64."""
        return drawn(self.adjusted(logits_BV, context_BL, secret), generator)

    def sampler(self, secret: Secret) -> KeyedSampler:
        return KeyedSampler(self, secret)

    def card(self, key: TextKey) -> Card:
        """What a detector needs beside the key."""
        return Card.of(self, key.secret, key.vocabulary, key.tokenizer)

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TextKey:
        """The prompts are the beginnings of the owner's first windows, the same for all keys."""
        inputs = task.owner.inputs
        if inputs.ndim != 2 or inputs.is_floating_point():
            raise NotApplicable(f"{self.scheme} marks texts, task {task.name} has none; set task=lm_tiny")
        prompts_NP = inputs[: self.texts, : self.prompt].clone()
        return TextKey(secret, task.classes, str(getattr(model, "tokenizer", "")), prompts_NP)

    def embed(self, model: nn.Module, key: TextKey, task: Task, fit: Fit) -> nn.Module:
        """The victim with the keyed sampler."""
        if not isinstance(model, Writer):
            raise NotApplicable(
                f"{self.scheme} marks what a language model writes; {type(model).__name__} writes nothing"
            )
        marked = copy.deepcopy(model)
        marked.sampler = self.sampler(key.secret)  # type: ignore[assignment]
        return marked

    def score(self, suspects: Suspects, keys: Sequence[TextKey]) -> Scores:
        """Keys of one owner's data share their prompts, and each suspect writes once to each set of prompts."""
        shape = (len(suspects), len(keys))
        statistic_MK, log10_p_MK = np.full(shape, np.nan), np.zeros(shape)
        for columns in _by_prompts(keys):
            prompts_NP, vocabulary = keys[columns[0]].prompts_NP, keys[columns[0]].vocabulary
            secrets = [keys[k].secret for k in columns]
            for m, model in enumerate(suspects.models):
                corpus = self.corpus_of(model, prompts_NP, vocabulary, suspects.device)
                if corpus is not None:
                    found = self.examine(corpus, secrets, vocabulary)
                    statistic_MK[m, columns], log10_p_MK[m, columns] = found.statistic[0], found.log10_p[0]
        return Scores(statistic_MK, self.unit, None, log10_p_MK, law=self.law)

    def corpus_of(
        self, model: nn.Module, prompts_NP: Tensor, vocabulary: int, device: str = "cpu"
    ) -> Texts | None:
        """What the suspect writes; None for one that writes nothing, edits everything away, or writes in another vocabulary."""
        if not isinstance(model, Writer) or getattr(model, "vocabulary", vocabulary) < vocabulary:
            return None
        texts_NT = texts(model, prompts_NP, self.tokens, SEED, device)
        readable = texts_NT.numel() > 0 and 0 <= int(texts_NT.min()) <= int(texts_NT.max()) < vocabulary
        return Texts.written(prompts_NP, texts_NT) if readable else None

    def summed(self, texts: Texts, keys_K: Tensor, mark: TextMark) -> tuple[Floats, Floats]:
        """The kernel's statistic (B, K, ...) and the number of scored positions (B, 1)."""
        scored_BT = texts.scored(mark.width, self.dedup)
        found = text_scores(texts.pieces(texts.ids_BT), keys_K, mark, scored_BT=texts.pieces(scored_BT))
        return found.statistic.double().numpy(), found.scored_B.double().numpy()[:, None]


def words_of(ids_BT: Tensor, key: int, mark: TextMark, shift_B1: Tensor | None = None) -> Tensor:
    """(B, T) int64: the word of every position under one key, 0 where there is no window. shift: of every text's message."""
    out_BT = torch.zeros(ids_BT.shape, dtype=torch.int64)
    if ids_BT.shape[1] > mark.width:
        windows_BNH = ids_BT.unfold(1, mark.width + 1, 1)[..., :-1]
        windows_NH = windows_BNH.reshape(windows_BNH.shape[0] * windows_BNH.shape[1], mark.width)
        shifted_BT = ids_BT if shift_B1 is None else (ids_BT + shift_B1) % mark.vocabulary
        words_N = words_at(windows_NH, shifted_BT[:, mark.width :].reshape(-1), key, mark.prf)
        out_BT[:, mark.width :] = words_N.reshape(len(ids_BT), -1)
    return out_BT


def _by_prompts(keys: Sequence[TextKey]) -> list[list[int]]:
    """Columns of keys with the same prompts and vocabulary."""
    groups: dict[bytes, list[int]] = {}
    for k, key in enumerate(keys):
        name = key.prompts_NP.numpy().tobytes() + str((key.vocabulary, tuple(key.prompts_NP.shape))).encode()
        groups.setdefault(name, []).append(k)
    return list(groups.values())

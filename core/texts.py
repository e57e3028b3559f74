"""Texts as ids: who draws the next one, who writes, and what a text is worth.

Suffixes: N texts, P ids of a prompt, T ids of a text, B rows of a batch, L ids so far, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

ROWS = 64  # texts written at a time; a constant, so that a text does not depend on how many are asked for


class Sampler(Protocol):
    """How the next id is drawn."""

    def __call__(
        self, logits_BV: Tensor, context_BL: Tensor, prompt: int, generator: torch.Generator
    ) -> Tensor:
        """(B,) int64. logits: float32, divided by the temperature; context: the ids so far, of which the first `prompt` are the
        prompt; generator: on the CPU, for what is not keyed (`drawn` takes the same from it whatever B is)."""
        ...


@runtime_checkable
class Writer(Protocol):
    """What answers a prompt with a text: a language model, or a thief who edits one's texts."""

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        """(N, tokens) int64 without the prompt. Equal seeds, equal texts. temperature: the writer's own when None."""
        ...


def drawn(probabilities_BV: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) int64, one of every row's distribution, which need not sum to 1: the inverse of its cumulated sum. Takes ROWS uniforms
    whatever B is. ValueError for more than ROWS rows."""
    rows = len(probabilities_BV)
    if rows > ROWS:
        raise ValueError(f"expected at most {ROWS} rows, got {rows}")
    uniform_B = torch.rand(ROWS, generator=generator, dtype=torch.float64)[:rows].to(probabilities_BV.device)
    sum_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)
    place_B1 = torch.searchsorted(sum_BV, uniform_B[:, None] * sum_BV[:, -1:], right=True)
    return place_B1[:, 0].clamp(max=probabilities_BV.shape[1] - 1)


@dataclass(frozen=True)
class Plain:
    """A draw from the softmax."""

    def __call__(
        self, logits_BV: Tensor, context_BL: Tensor, prompt: int, generator: torch.Generator
    ) -> Tensor:
        return drawn(torch.softmax(logits_BV, -1), generator)


@dataclass(frozen=True)
class Quality:
    """Of the texts that a suspect writes to the test prompts, as the judge reads them (zoo/quality.py)."""

    accuracy: float
    """The share of ids that the judge predicts and that complete no three-gram of the text so far: repeating itself earns a
    writer nothing."""
    perplexity: float
    rep_3: float
    distinct_2: float
    similarity: float | None = None
    """With the unedited texts, of writers who edit: 1 - edit distance."""
    semantic_similarity: float | None = None
    """The same by what they mean: the cosine of sentence embeddings, where the encoder is installed (zoo/sentences.py)."""


def repeated(texts_NT: Tensor, n: int) -> Tensor:
    """(N, T) bool: the id completes an n-gram that stands earlier in the same text."""
    count = texts_NT.shape[1] - n + 1
    out_NT = torch.zeros(texts_NT.shape, dtype=torch.bool)
    if count > 1:
        grams_NGn = texts_NT.unfold(1, n, 1).cpu().numpy()
        for row, grams_Gn in enumerate(grams_NGn):
            _, first = np.unique(grams_Gn, axis=0, return_index=True)
            out_NT[row, n - 1 :] = True
            out_NT[row, torch.from_numpy(first) + n - 1] = False
    return out_NT


def rep(texts_NT: Tensor, n: int) -> float:
    """The share of n-grams that stand earlier in the same text (Welleck et al., ICLR 2020, arXiv:1908.04319, within a text)."""
    return float(repeated(texts_NT, n)[:, n - 1 :].double().mean())


def distinct(texts_NT: Tensor, n: int) -> float:
    """Different n-grams of all texts together, over their number (Li et al., NAACL 2016, arXiv:1510.03055)."""
    grams = texts_NT.unfold(1, n, 1).reshape(-1, n).cpu().numpy()
    return len(np.unique(grams, axis=0)) / len(grams)


def similarity(texts_NT: Tensor, others_NU: Tensor) -> float:
    """The mean of 1 - edit distance / the longer length, in ids."""
    ours, theirs = texts_NT.cpu().numpy(), others_NU.cpu().numpy()
    texts, width = len(ours), theirs.shape[1]
    place = np.arange(width + 1)
    row_NU = np.tile(place, (texts, 1))
    for i in range(ours.shape[1]):
        changed_NU = np.minimum(row_NU[:, 1:] + 1, row_NU[:, :-1] + (ours[:, i, None] != theirs))
        below_NU = np.concatenate([np.full((texts, 1), i + 1), changed_NU], 1)
        # Insertions cost 1 a step: the smallest of what stands to the left, plus the way.
        row_NU = np.minimum.accumulate(below_NU - place, 1) + place
    return float(1 - (row_NU[:, -1] / max(width, ours.shape[1])).mean())

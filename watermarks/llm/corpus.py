"""Texts as detectors read them: padded ids, what is prompt, and which positions count.

Suffixes: B texts, T positions, N texts or positions, P ids of a prompt, H ids of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...kernels.text_dedup import LAST, Dedup, first_of_runs, scored_positions, window_keys


@dataclass(frozen=True)
class Texts:
    """ids (B, T) padded with 0, how many of them exist, and how many of these are the prompt, which is never scored. corpus: all
    texts together are one piece of evidence, so that what one repeats of another is no news. counted (B, T) bool: which positions
    count, where that is decided already."""

    ids_BT: Tensor
    lengths_B: Tensor
    prompt_B: Tensor
    corpus: bool = False
    counted_BT: Tensor | None = None

    @staticmethod
    def of(
        rows: Sequence[Sequence[int]], prompts: Sequence[int] | None = None, corpus: bool = False
    ) -> "Texts":
        """Of lists of ids, and how many of each are its prompt."""
        lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        ids_BT = torch.zeros(len(rows), int(lengths_B.max()) if len(rows) else 0, dtype=torch.int64)
        for b, row in enumerate(rows):
            ids_BT[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
        prompt_B = torch.tensor(prompts if prompts is not None else [0] * len(rows), dtype=torch.int64)
        return Texts(ids_BT, lengths_B, torch.minimum(prompt_B, lengths_B), corpus)

    @staticmethod
    def written(prompts_NP: Tensor, texts_NT: Tensor) -> "Texts":
        """What a suspect wrote to the prompts, as one corpus."""
        ids = torch.cat((prompts_NP, texts_NT), 1)
        full_N, prompt_N = (torch.full((len(ids),), t.shape[1]) for t in (ids, prompts_NP))
        return Texts(ids, full_N, prompt_N, corpus=True)

    def stretches(self, counted_1T: Tensor, starts: Sequence[int], size: int, width: int) -> "Texts":
        """Of one text, `size` ids from each start on as texts of their own, after the `width` ids on which their words depend. They
        count where they count in the whole text: what its prompt holds, or what it repeats, is news in no part of it."""
        ids, firsts = self.ids_BT[0].tolist(), [max(0, start - width) for start in starts]
        cut = Texts.of([ids[first : start + size] for first, start in zip(firsts, starts, strict=True)])
        counted_BT = torch.zeros(cut.ids_BT.shape, dtype=torch.bool)
        for counted_T, first, start in zip(counted_BT, firsts, starts, strict=True):
            part_T = counted_1T[0, start : start + size]
            counted_T[start - first : start - first + len(part_T)] = part_T
        return replace(cut, counted_BT=counted_BT)

    def scored(self, width: int, dedup: Dedup = "v1") -> Tensor:
        """(B, T) bool: positions after the prompt with a whole window, which is new (v1), or new with its id (v2). In a corpus what
        stands in any prompt is not new either: a model copies from what it reads."""
        if self.counted_BT is not None:
            return self.counted_BT
        seen_S = None
        if self.corpus:
            keys_BT = window_keys(self.ids_BT, width, dedup)
            position_T = torch.arange(self.ids_BT.shape[1])
            seen_S = keys_BT[(position_T >= width) & (position_T < self.prompt_B[:, None])]
        return scored_positions(
            self.ids_BT, width, self.lengths_B, dedup, self.prompt_B, seen_S, corpus=self.corpus
        )

    def scored_anchors(self, anchors_BT: Tensor, width: int) -> Tensor:
        """The same for windows that stand for themselves by one id (windows.py): positions whose anchor and id together are new.
        Two windows with one anchor draw the same word, so new windows would not be enough."""
        pairs_N2 = torch.stack((anchors_BT, self.ids_BT), -1).reshape(-1, 2)
        return self.new(window_keys(pairs_N2, 1, "v2")[:, 1].reshape(self.ids_BT.shape), width)

    def new(self, keys_BT: Tensor, width: int) -> Tensor:
        """The same for keys (B, T) int64 of any kind, which exist from position `width` on: positions after the prompt whose key is
        new."""
        if self.counted_BT is not None:
            return self.counted_BT
        position_T = torch.arange(keys_BT.shape[1])
        exists_BT = (position_T >= width) & (position_T < self.lengths_B[:, None])
        keys_BT = torch.where(exists_BT, keys_BT.clamp(max=LAST - 1), LAST)
        after_BT = exists_BT & (position_T >= self.prompt_B[:, None])
        new_BT = after_BT & first_of_runs(self.pieces(keys_BT)).reshape(keys_BT.shape)
        return new_BT & ~torch.isin(keys_BT, keys_BT[exists_BT & ~after_BT]) if self.corpus else new_BT

    def pieces(self, per_position_BT: Tensor) -> Tensor:
        """As many rows as there are pieces of evidence: (B, T) as it is, or (1, B T) of a corpus."""
        return per_position_BT.reshape(1, -1) if self.corpus else per_position_BT

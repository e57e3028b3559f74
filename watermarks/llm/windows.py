"""Windows that one of their ids stands for, so that an edit elsewhere in the window changes nothing (Kirchenbauer et al., ICLR
2024, arXiv:2306.04634, section 4).

  minhash  the anchor of a window is its id with the least word F(y) under a key of its own; v is green iff F(anchor, v) is
  self     the candidate v takes part: the anchor is the id y of window and v with the least word F(y, v)

The words that choose an anchor and those that decide green come from two independent keys. Given the first, the anchors of a text
are fixed, and the second's words for different pairs (anchor, id) are independent: over those pairs the count is exactly binomial.

Suffixes: B rows or texts, T positions, L ids so far, H ids of a window, V vocabulary, N pairs.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ...kernels.text_green import green_mask
from ...kernels.text_mark import Prf, TextMark
from ...kernels.text_prf import words_reference
from ...kernels.text_words import vocabulary_words

Window = Literal["left", "minhash", "self"]
WIDEST = 64
"""Ids of a window: marks take 1 to 5, since an edit of any one changes the word. What `words_at` holds grows with them."""
ID = 2**31  # ids are less
PART = 2**16  # 10 MB


def words_at(windows_NH: Tensor, candidates_N: Tensor, key: int, prf: Prf) -> Tensor:
    """(N,) int64 words of pairs of window and id, PART of them at a time."""
    parts = zip(windows_NH.split(PART), candidates_N.split(PART), strict=True)
    return torch.cat([words_reference(*part, key, prf) for part in parts])


def ranked(words: Tensor, ids: Tensor) -> Tensor:
    """Word and id in one int64, so that the least is unique: an id wins a tie by being less."""
    return words * ID + ids


@lru_cache(maxsize=64)
def ranks(vocabulary: int, key: int, prf: Prf) -> Tensor:
    """(V,) of F(y): the order by which minhash chooses."""
    mark = TextMark(vocabulary, 0, prf)
    words_V = vocabulary_words(torch.empty(1, 0, dtype=torch.int64), torch.tensor([key]), mark)[0]
    return ranked(words_V, torch.arange(vocabulary))


@lru_cache(maxsize=64)
def own_words(vocabulary: int, key: int, prf: Prf) -> Tensor:
    """(V,) of F(v, v): every candidate as its own anchor."""
    ids_V = torch.arange(vocabulary)
    return words_at(ids_V[:, None], ids_V, key, prf)


def anchors(ids_BT: Tensor, width: int, key: int, mark: TextMark, window: Window) -> Tensor:
    """(B, T) int64: the anchor of every position, 0 where there is no whole window."""
    out_BT = torch.zeros_like(ids_BT)
    if ids_BT.shape[1] <= width:
        return out_BT
    windows_BNH = ids_BT.unfold(1, width + 1, 1)
    if window == "minhash":
        least_BN = ranks(mark.vocabulary, key, mark.prf)[windows_BNH[..., :-1]].amin(-1)
    else:
        candidates_BNH = windows_BNH[..., -1:].expand(windows_BNH.shape)
        words_N = words_at(windows_BNH.reshape(-1, 1), candidates_BNH.reshape(-1), key, mark.prf)
        least_BN = ranked(words_N.reshape(windows_BNH.shape), windows_BNH).amin(-1)
    out_BT[:, width:] = least_BN % ID
    return out_BT


def anchored_mask(windows_BH: Tensor, anchor_key: int, key: int, mark: TextMark, window: Window) -> Tensor:
    """(B, V) bool: the green ids after each row's window, on the CPU. mark: of width 1."""
    keys = torch.tensor([key])
    if window == "minhash":
        anchor_B = ranks(mark.vocabulary, anchor_key, mark.prf)[windows_BH].amin(-1) % ID
        return green_mask(anchor_B[:, None], keys, mark)
    ids_V = torch.arange(mark.vocabulary)
    least_BV = ranked(own_words(mark.vocabulary, anchor_key, mark.prf), ids_V).repeat(len(windows_BH), 1)
    green_BV = (own_words(mark.vocabulary, key, mark.prf) < mark.threshold).repeat(len(windows_BH), 1)
    for id_B in windows_BH.unbind(1):
        words_BV = vocabulary_words(id_B[:, None], torch.tensor([anchor_key]), mark)
        rank_BV = ranked(words_BV, id_B[:, None])
        better_BV = rank_BV < least_BV
        least_BV = torch.where(better_BV, rank_BV, least_BV)
        green_BV = torch.where(better_BV, green_mask(id_B[:, None], keys, mark), green_BV)
    return green_BV

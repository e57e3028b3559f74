"""Sums over the scored positions of every text on the CPU: a cache's worth of positions at a time, every key while it is there.

Suffixes: B texts, T positions, K keys, P messages of a cyclic shift, N scored positions and G keys at a time. Memory: a dozen
arrays of CHUNK blocks of 4 words (6 MB), or of one position's messages, however many texts, keys and messages there are.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .philox import CHUNK, Words
from .text_mark import TextMark
from .text_prf import State, block_words, keyed, shared, word_of

POSITIONS = 2**18  # read at a time, or one text
SPREAD = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.uint8).view("<u8")[:, 0].astype(np.uint64)
"""The bits of a byte, one in each byte of 64 bits."""


def tail(mark: TextMark) -> tuple[int, ...]:
    """The statistic's shape for one text and key."""
    if mark.statistic == "layers":
        return (mark.depth,)
    return () if mark.payloads is None else (mark.payloads,)


def _segments(place_N: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of `length` in which the ascending places lie, and where each row's begin."""
    rows = np.arange(place_N[0] // length, place_N[-1] // length + 1)
    starts = np.searchsorted(place_N, rows * length)
    occupied = np.diff(starts, append=len(place_N)) > 0
    return rows[occupied], starts[occupied]


def _layers(words_GN: Words, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(G, segments, 32) ones of every bit. Bytes count up to 255 positions without a carry into the next."""
    pieces = np.union1d(starts, np.arange(0, words_GN.shape[1], 255))
    byte_GN = ((words_GN >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16, 24))
    counted = [np.add.reduceat(SPREAD[byte], pieces, axis=1) for byte in byte_GN]
    ones = np.stack(counted, -1).astype("<u8", copy=False).view(np.uint8)
    return np.add.reduceat(ones, np.searchsorted(pieces, starts), axis=1, dtype=np.int64)


def _segment_sums(words: Words, starts: NDArray[np.int64], mark: TextMark) -> NDArray[np.int64]:
    """Integer sums over the segments of axis 1 that begin at `starts`."""
    if mark.statistic == "layers":
        return _layers(words, starts)[..., : mark.depth]
    if mark.statistic == "green":
        below = (words - np.uint64(mark.threshold)) >> np.uint64(63)  # both fit 32 bits: the sign tells
        return np.add.reduceat(below, starts, axis=1).view(np.int64)
    rest = (2**24 - (words >> np.uint64(8)).view(np.int64)).astype(np.float64)  # (2^24 + 1) (1 - u)
    # torch.log: 4 ns a term against 8 of numpy's. A segment's sum is below 2^14 x 16.7 x 2^32 < 2^53: exact in float64.
    terms = torch.from_numpy(rest).mul_(1 / (2**24 + 1)).log_().mul_(-(2.0**32)).round_().numpy()
    return np.add.reduceat(terms, starts, axis=1).astype(np.int64)


def shifted_words(state: State, candidates_N: Words, payloads: int, mark: TextMark) -> Words:
    """(G, N, P): the words of (v + m) mod V for every message m. Philox encrypts each block of 4 candidates once, of both runs
    that the shift can wrap into: from v on, and from 0 on."""
    s0, s1, s2, seed = (part[..., None] for part in state)
    shifted_NP = np.add(candidates_N[:, None], np.arange(payloads, dtype=np.uint64), dtype=np.uint64)
    wraps_NP = shifted_NP >= np.uint64(mark.vocabulary)
    np.subtract(shifted_NP, np.uint64(mark.vocabulary), out=shifted_NP, where=wraps_NP)
    if mark.prf == "splitmix64":
        return word_of((s0, s1, s2, seed), shifted_NP, mark.prf)
    first_N1 = (candidates_N >> np.uint64(2))[:, None]
    last_N = np.minimum(candidates_N + np.uint64(payloads), np.uint64(mark.vocabulary)) - np.uint64(1)
    before_N1 = (last_N >> np.uint64(2))[:, None] - first_N1 + np.uint64(1)  # blocks of the first run
    index_C = np.arange(payloads // 4 + 3, dtype=np.uint64)
    block_NC = np.where(index_C < before_N1, first_N1 + index_C, index_C - before_N1)
    words_GNC4 = np.stack(block_words((s0, s1, s2, seed), block_NC, mark.prf), -1)
    row_N1 = 4 * len(index_C) * np.arange(len(candidates_N))[:, None]
    run_N1, rest_N1 = (row_N1 - 4 * first_N1.view(np.int64), row_N1 + 4 * before_N1.view(np.int64))
    place_NP = shifted_NP.view(np.int64) + np.where(wraps_NP, rest_N1, run_N1)
    words: Words = words_GNC4.reshape(len(words_GNC4), -1).take(place_NP, 1)
    return words


def text_sums(ids_BT: Tensor, scored_BT: Tensor, keys_K: Tensor, mark: TextMark) -> Tensor:
    """Integer sums (B, K) with the tail of the statistic."""
    texts, length = ids_BT.shape
    out = np.zeros((texts, len(keys_K), *tail(mark)), dtype=np.int64)
    keys = keys_K.numpy().view(np.uint64)[:, None]
    blocks = 1 if mark.payloads is None else mark.payloads // 4 + 3
    step, tokens = max(1, POSITIONS // max(1, length)), max(1, CHUNK // blocks)
    for start in range(0, texts, step):
        flat = ids_BT[start : start + step].to(torch.int64).contiguous().numpy().reshape(-1).view(np.uint64)
        places = np.flatnonzero(scored_BT[start : start + step].numpy())
        for first in range(0, len(places), tokens):
            place_N = places[first : first + tokens]
            columns = [flat[place_N + offset] for offset in range(-mark.width, 0)]
            common, candidates_N = shared(columns, place_N.shape, mark.prf), flat[place_N]
            rows, starts = _segments(place_N, length)
            group = max(1, CHUNK // (blocks * len(place_N)))
            for k in range(0, len(keys), group):
                key_G1 = keys[k : k + group]
                state = keyed(common, (len(key_G1), len(place_N)), key_G1, mark.prf)
                words = (
                    word_of(state, candidates_N, mark.prf)
                    if mark.payloads is None
                    else shifted_words(state, candidates_N, mark.payloads, mark)
                )
                sums = _segment_sums(words, starts, mark)
                out[start + rows, k : k + group] += np.moveaxis(sums, 0, 1)
    return torch.from_numpy(out)

"""The cyclic shift's messages on the GPU: every scored position speaks for all of them at once (see kernels/text_scores.py).

Suffixes: B texts, T positions, K keys, P messages, C words of a tile. Message m reads candidate (v + m) mod V, so that the
messages of a position are a run of candidates, and a block of Philox holds 4 of them. A lane owns a block relative to v; where the
block begins within the run depends on v mod 4, hence a program takes the positions of one remainder only, and its counters are
shifted into place at the end. A run that passes V goes on from 0, which is a second run begun at v - V.

Cost: 9 bytes a position; for a key, position and 4 messages one Philox block of 100 operations, and the state of each position
anew in every lane: 100 ceil(h / 4) operations more for the 8 messages of a lane. At h = 4 and P = 1,024 that is 38 operations a
message: an H200 (17 T integer operations/s) does 0.45 T messages/s. Operations are the floor. CPU: 20 ns a message (philox), 7
(splitmix64).
"""

import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, tl
from .text_mark import TextMark
from .text_words import text_block, text_state, text_term

SMALL, LARGE = 32, 256  # blocks of a tile: 125 messages fit the small one, on one warp
POSITIONS = 512  # a program reads of a text, or more where that makes more parts than
PARTS = 64
PARTIAL = 2**24  # sums of programs at a time, 128 MB


@jit
def _add(total, word, candidate, vocabulary, threshold, STATISTIC: tl.constexpr):
    exists = (candidate >= 0) & (candidate < vocabulary)
    return total + tl.where(exists, text_term(word, threshold, STATISTIC), 0)


@jit
def _payloads_kernel(
    ids,
    scored,
    keys,
    out,
    length,
    positions,
    parts,
    key_count,
    tiles,
    vocabulary,
    threshold,
    WIDTH: tl.constexpr,
    SPLITMIX: tl.constexpr,
    STATISTIC: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """out (part of a text, key, remainder, tile, 4 BLOCKS)."""
    program = tl.program_id(0).to(tl.int64)
    tile = program % tiles
    remainder = program // tiles % 4
    key = tl.load(keys + program // tiles // 4 % key_count)
    part = program // tiles // 4 // key_count
    first = (part % parts) * positions
    lanes = tl.arange(0, BLOCKS)
    t0 = tl.zeros([BLOCKS], dtype=tl.int64)
    t1, t2, t3 = t0, t0, t0
    for position in range(tl.maximum(first, WIDTH), tl.minimum(first + positions, length)):
        place = part // parts * length + position
        if tl.load(scored + place) != 0:
            token = tl.load(ids + place).to(tl.int64)
            for wrap in tl.static_range(2):  # pyright: ignore
                start = token - wrap * vocabulary + tile * 4 * BLOCKS
                if ((start & 3) == remainder) & (start < vocabulary) & (start + 4 * BLOCKS > 0):
                    s0, s1, s2, seed = text_state(ids, place, place >= 0, key, WIDTH, SPLITMIX)
                    block = (start >> 2) + lanes
                    w0, w1, w2, w3 = text_block(s0, s1, s2, seed, block, SPLITMIX)
                    t0 = _add(t0, w0, 4 * block, vocabulary, threshold, STATISTIC)
                    t1 = _add(t1, w1, 4 * block + 1, vocabulary, threshold, STATISTIC)
                    t2 = _add(t2, w2, 4 * block + 2, vocabulary, threshold, STATISTIC)
                    t3 = _add(t3, w3, 4 * block + 3, vocabulary, threshold, STATISTIC)
    totals = tl.interleave(tl.interleave(t0, t2), tl.interleave(t1, t3))
    tl.store(out + program * 4 * BLOCKS + tl.arange(0, 4 * BLOCKS), totals)


def payload_sums_triton(ids_BT: Tensor, scored_BT: Tensor, keys_K: Tensor, mark: TextMark) -> Tensor:
    """The launcher: integer sums (B, K, P). At most PARTIAL sums of programs at a time, or one text's, key's and part's."""
    texts, length = ids_BT.shape
    payloads = mark.payloads or 1
    blocks = SMALL if payloads + 3 <= 4 * SMALL else LARGE
    tiles = ceil_div(payloads + 3, 4 * blocks)
    words = 4 * blocks * tiles
    parts = max(1, min(ceil_div(length, POSITIONS), PARTS, PARTIAL // (4 * words)))
    group = max(1, min(len(keys_K), PARTIAL // (parts * 4 * words)))
    step = max(1, PARTIAL // (parts * 4 * words * group))
    out_BKP = torch.empty(texts, len(keys_K), payloads, dtype=torch.int64, device=ids_BT.device)
    for start in range(0, texts, step):
        ids_RT = ids_BT[start : start + step].contiguous()
        scored_RT = scored_BT[start : start + step].contiguous().view(torch.uint8)
        for k in range(0, len(keys_K), group):
            key_G = keys_K[k : k + group]
            shape = (len(ids_RT), parts, len(key_G), 4, words)
            sums = torch.empty(shape, dtype=torch.int64, device=ids_BT.device)
            grid = (sums.numel() // (4 * blocks),)
            _payloads_kernel[grid](
                ids_RT,
                scored_RT,
                key_G,
                sums,
                length,
                ceil_div(length, parts),
                parts,
                len(key_G),
                tiles,
                mark.vocabulary,
                mark.threshold,
                WIDTH=mark.width,
                SPLITMIX=mark.prf == "splitmix64",
                STATISTIC=mark.statistic,
                BLOCKS=blocks,
                num_warps=1 if blocks == SMALL else 4,
            )
            # Word m + r of remainder r is message m.
            sums = sums.sum(1)
            out_BKP[start : start + step, k : k + group] = sum(
                sums[:, :, r, r : r + payloads] for r in range(4)
            )
    return out_BKP


_TYPES = {"ids": "*i64", "scored": "*u8", "keys": "*i64", "out": "*i64"}
_TYPES |= dict.fromkeys(
    ("length", "positions", "parts", "key_count", "tiles", "vocabulary", "threshold"), "i64"
)
BUILDS = tuple(
    Build(
        _payloads_kernel,
        _TYPES,
        {"WIDTH": 4, "SPLITMIX": splitmix, "STATISTIC": statistic, "BLOCKS": blocks},
        registers=80,
        warps=1 if blocks == SMALL else 4,
    )
    for statistic, blocks in (("green", SMALL), ("gumbel", LARGE))
    for splitmix in (False, True)
)

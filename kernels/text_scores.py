"""Detection: what every text says about every key, from its scored positions (kernels/text_dedup.py).

Suffixes: B texts, T positions, K keys, P messages of a cyclic shift, L layers of a tournament, N scored positions at a time.
  green   count of green ids, (B, K); under the null Bin(scored, gamma). With h = 0 and v2, distinct ids are scored
          against one green list (Unigram): Hyp(V, the list's size, scored), given the list
  gumbel  sum of -ln(1 - u), (B, K); under the null Gamma(scored, 1)
  layers  ones of every layer, (B, K, L); their total is Bin(L scored, 1/2), and any weighted z is the caller's
With messages, green and gumbel are (B, K, P): message m is scored by F(w, (v + m) mod V), all of them in one pass.

Sums are of integers, so that order, chunk and tile cannot change them: a Gumbel term counts 2^-32ths, rounded from float64 on
the CPU (error < 2^-33 a position) and from float32 on the GPU (2^-22).

Cost: 9 bytes a position and 8 a text and key. For a key and position, Philox encrypts ceil(h / 4) + 1 blocks, 100 operations
each, and splitmix64 mixes h + 2 times, about 30 of 32 bits each: at h = 4 that is 200 operations, and an H200 (17 T integer
operations/s) does 85 G positions/s where 4.8 TB/s would feed 530 G. Operations are the floor, from the first key on; the sort
of dedup is beside it, 17 G/s at best. CPU: 100 ns (philox), 8 (splitmix64) a key and position, beside 70 of dedup and gathering.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .text_dedup import Dedup, scored_positions
from .text_mark import TextMark, check_counts, check_integers, check_range
from .text_payloads import payload_sums_triton
from .text_prf import uniforms, words_reference
from .text_sums import tail, text_sums
from .text_words import text_state, text_term, text_word

TILE = 128
TILES = 16  # a program reads 2,048 positions; less than 256 tiles, so that a byte can count a layer's ones
PARTIAL = 2**24  # sums of programs at a time, 128 MB
IDS = {"cpu": 2**20, "cuda": 2**25}  # checked at a time: a GPU waits for each answer


class TextScores(NamedTuple):
    """statistic: (B, K), with messages (B, K, P), of layers (B, K, L); float64 for gumbel, else int64. scored_B: positions."""

    statistic: Tensor
    scored_B: Tensor


def text_scores_reference(ids_BT: Tensor, scored_BT: Tensor, keys_K: Tensor, mark: TextMark) -> Tensor:
    """The definition of the statistic."""
    rows = []
    for ids_T, scored_T in zip(ids_BT.to(torch.int64), scored_BT, strict=True):
        place_N = scored_T.nonzero().squeeze(-1)
        windows_NH = ids_T[place_N[:, None] + torch.arange(-mark.width, 0)]
        for key in keys_K.tolist():
            for m in range(mark.payloads or 1):
                candidates_N = (ids_T[place_N] + m) % mark.vocabulary
                word_N = words_reference(windows_NH, candidates_N, key, mark.prf)
                if mark.statistic == "layers":
                    rows.append((word_N[:, None] >> torch.arange(mark.depth) & 1).sum(0))
                elif mark.statistic == "gumbel":
                    rows.append(-torch.log1p(-uniforms(word_N)).sum())
                else:
                    rows.append((word_N < mark.threshold).sum())
    shape = (len(ids_BT), len(keys_K), *tail(mark))
    dtype = torch.float64 if mark.statistic == "gumbel" else torch.int64
    return torch.stack(rows).to(dtype).reshape(shape) if rows else torch.zeros(shape, dtype=dtype)


@jit
def _layer_sums(bits, out, TILE: tl.constexpr):
    """Store the 32 sums of byte counters (TILE, 8): counter c holds layers c, c + 8, c + 16, c + 24."""
    for byte in tl.static_range(4):  # pyright: ignore
        ones = tl.sum(((bits >> (8 * byte)) & 0xFF).to(tl.int32), 0)
        tl.store(out + 8 * byte + tl.arange(0, 8), ones.to(tl.int64))


@jit
def _scores_kernel(
    ids,
    scored,
    keys,
    out,
    length,
    parts,
    key_count,
    threshold,
    WIDTH: tl.constexpr,
    SPLITMIX: tl.constexpr,
    STATISTIC: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    """One part of a text and one key a program, a position a lane."""
    program = tl.program_id(0).to(tl.int64)
    text = program // key_count // parts
    first = (program // key_count % parts) * TILE * TILES
    key = tl.load(keys + program % key_count)
    total = tl.zeros([TILE], dtype=tl.int64)
    bits = tl.zeros([TILE, 8], dtype=tl.uint32)
    for i in range(tl.minimum(TILES, tl.cdiv(length - first, TILE))):
        position = first + i * TILE + tl.arange(0, TILE)
        place = text * length + position
        live = (position >= WIDTH) & (position < length)
        live = live & (tl.load(scored + place, mask=live, other=0) != 0)
        s0, s1, s2, seed = text_state(ids, place, live, key, WIDTH, SPLITMIX)
        candidate = tl.load(ids + place, mask=live, other=0).to(tl.int64)
        word = text_word(s0, s1, s2, seed, candidate, SPLITMIX)
        if STATISTIC == "layers":
            word = tl.where(live, word, 0)
            bits += (word[:, None] >> tl.arange(0, 8)[None, :].to(tl.uint32)) & 0x01010101
        else:
            total += tl.where(live, text_term(word, threshold, STATISTIC), 0)
    if STATISTIC == "layers":
        _layer_sums(bits, out + program * 32, TILE)
    else:
        tl.store(out + program, tl.sum(total, 0))


def text_sums_triton(ids_BT: Tensor, scored_BT: Tensor, keys_K: Tensor, mark: TextMark) -> Tensor:
    """The launcher: integer sums (B, K) or (B, K, L). At most PARTIAL sums of programs at a time, or one text's and key's."""
    texts, length = ids_BT.shape
    parts = max(1, ceil_div(length, TILE * TILES))
    layers = (32,) if mark.statistic == "layers" else ()
    group = max(1, min(len(keys_K), PARTIAL // (parts * math.prod(layers))))
    step = max(1, PARTIAL // (parts * math.prod(layers) * group))
    out = torch.empty(texts, len(keys_K), *layers, dtype=torch.int64, device=ids_BT.device)
    for start in range(0, texts, step):
        ids_RT = ids_BT[start : start + step].contiguous()
        scored_RT = scored_BT[start : start + step].contiguous().view(torch.uint8)
        for k in range(0, len(keys_K), group):
            key_G = keys_K[k : k + group]
            shape = (len(ids_RT), parts, len(key_G), *layers)
            sums = torch.empty(shape, dtype=torch.int64, device=ids_BT.device)
            grid = (len(ids_RT) * parts * len(key_G),)
            _scores_kernel[grid](
                ids_RT,
                scored_RT,
                key_G,
                sums,
                length,
                parts,
                len(key_G),
                mark.threshold,
                WIDTH=mark.width,
                SPLITMIX=mark.prf == "splitmix64",
                STATISTIC=mark.statistic,
                TILE=TILE,
                TILES=TILES,
            )
            out[start : start + step, k : k + group] = sums.sum(1)
    return out[..., : mark.depth] if layers else out


_TYPES = {"ids": "*i64", "scored": "*u8", "keys": "*i64", "out": "*i64"}
_TYPES |= dict.fromkeys(("length", "parts", "key_count", "threshold"), "i64")
BUILDS = tuple(
    Build(
        _scores_kernel,
        _TYPES,
        {"WIDTH": 4, "SPLITMIX": splitmix, "STATISTIC": statistic, "TILE": TILE, "TILES": TILES},
        registers=48,
    )
    for statistic in ("green", "gumbel", "layers")
    for splitmix in (False, True)
)


def _check_ids(ids_BT: Tensor, lengths_B: Tensor | None, mark: TextMark) -> None:
    """ValueError where an id before a text's end is not in the vocabulary."""
    texts, length = ids_BT.shape
    position_T = torch.arange(length, device=ids_BT.device)
    step = max(1, IDS[ids_BT.device.type] // max(1, length))
    for start in range(0, texts, step):
        ids_RT = ids_BT[start : start + step]
        if lengths_B is not None:
            ids_RT = torch.where(position_T < lengths_B[start : start + step, None], ids_RT, 0)
        check_range("ids", ids_RT, mark.vocabulary)


def text_scores(
    ids_BT: Tensor,
    keys_K: Tensor,
    mark: TextMark,
    lengths_B: Tensor | None = None,
    dedup: Dedup = "v1",
    scored_BT: Tensor | None = None,
) -> TextScores:
    """Score texts of padded ids (B, T) and their lengths, T by default, under 64-bit keys (philox.packed).

    scored: the positions to score where `scored_positions` took other choices than `dedup` (a prompt, a corpus); those without a
    whole window or past the text never count. A text shorter than h + 1 has no position, and a statistic of 0. ValueError names
    what does not fit: an id of a text outside [0, V), a length over T. Memory beside ids, positions and result: 40 bytes for each
    of 2^14 positions or of the longest text (CPU), 256 MB (GPU)."""
    check_integers("ids", ids_BT, 2)
    check_integers("keys", keys_K, 1)
    given = (ids_BT, keys_K, lengths_B, scored_BT)
    gpu = on_gpu(*(tensor for tensor in given if tensor is not None))
    if lengths_B is not None:
        check_counts("lengths", lengths_B, ids_BT)
    _check_ids(ids_BT, lengths_B, mark)
    if scored_BT is None:
        scored_BT = scored_positions(ids_BT, mark.width, lengths_B, dedup)
    else:
        scored_BT = _within(scored_BT, ids_BT, lengths_B, mark)
    keys_K = keys_K.to(torch.int64).contiguous()
    if not gpu:
        sums = text_sums(ids_BT, scored_BT, keys_K, mark)
    elif mark.payloads is None:
        sums = text_sums_triton(ids_BT, scored_BT, keys_K, mark)
    else:
        sums = payload_sums_triton(ids_BT, scored_BT, keys_K, mark)
    statistic = sums.to(torch.float64) / 2**32 if mark.statistic == "gumbel" else sums
    return TextScores(statistic, scored_BT.sum(1))


def _within(scored_BT: Tensor, ids_BT: Tensor, lengths_B: Tensor | None, mark: TextMark) -> Tensor:
    """The given positions that have a whole window and stand before the text's end."""
    if scored_BT.shape != ids_BT.shape or scored_BT.dtype != torch.bool:
        raise ValueError(
            f"scored: expected {tuple(ids_BT.shape)} of bool, got {tuple(scored_BT.shape)} of {scored_BT.dtype}"
        )
    position_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    within_BT = scored_BT & (position_T >= mark.width)
    return within_BT if lengths_B is None else within_BT & (position_T < lengths_B[:, None])

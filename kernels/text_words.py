"""The words of kernels/text_prf.py in registers, for the kernels of text marks; and those of a whole vocabulary, a row a window.

Suffixes: B rows, H ids of a window (oldest first), V candidates.

Cost of `vocabulary_words`: 8 bytes written a word; 25 integer operations a word (philox, 4 words a block) or 30 (splitmix64, its
64-bit multiplications split). An H200 writes 0.6 T words/s (4.8 TB/s) and does 0.7 or 0.55 T at 17 T integer operations/s: the two
floors meet, 84 ns for a row of 50,257. CPU: 11 ns a word (philox), 8 (splitmix64).
"""

import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .text_mark import TextMark, checked_rows
from .text_prf import rows_of_words, words_reference

BLOCKS = 256  # blocks of 4 candidates a program


def vocabulary_words_reference(
    windows_BH: Tensor, keys_B: Tensor, mark: TextMark, payload_B: Tensor | None = None
) -> Tensor:
    """The definition. (B, V) int64: the word of candidate v, or of (v + m) mod V where row b carries message m."""
    out_BV = torch.empty(len(windows_BH), mark.vocabulary, dtype=torch.int64)
    for b, window_H in enumerate(windows_BH):
        shift = 0 if payload_B is None else int(payload_B[b])
        candidates_V = (torch.arange(mark.vocabulary) + shift) % mark.vocabulary
        key = int(keys_B[b % len(keys_B)])
        out_BV[b] = words_reference(window_H.expand(mark.vocabulary, -1), candidates_V, key, mark.prf)
    return out_BV


@jit
def mixed(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@jit
def _absorbed(ids, place, live, i: tl.constexpr, WIDTH: tl.constexpr):
    """Word i of what Philox absorbs, of the window that ends before ids[place]."""
    if i < WIDTH:
        return (tl.load(ids + place - WIDTH + i, mask=live, other=0).to(tl.int64) & 0xFFFFFFFF).to(tl.uint32)
    return (place * 0 + (0xFFFFFFFF - i % 4)).to(tl.uint32)


@jit
def text_state(ids, place, live, key, WIDTH: tl.constexpr, SPLITMIX: tl.constexpr):
    """`keyed` of the windows that end before ids[place], in registers. place: int64; key: int64."""
    key = key.to(tl.uint64, bitcast=True)
    s0 = (place * 0 + 0x574D4358).to(tl.uint32)
    s1 = (place * 0 + WIDTH).to(tl.uint32)
    s2 = (place * 0).to(tl.uint32)
    if SPLITMIX:
        seed = (place * 0 + WIDTH).to(tl.uint64)
        for i in tl.static_range(WIDTH):  # pyright: ignore
            before = tl.load(ids + place - WIDTH + i, mask=live, other=0).to(tl.int64)
            seed = mixed((seed ^ before.to(tl.uint64, bitcast=True)) + 0x9E3779B97F4A7C15)
        seed = mixed((seed ^ key) + 0x9E3779B97F4A7C15)
    else:
        s3 = s2
        for i in tl.static_range(0, WIDTH, 4):  # pyright: ignore
            s0 ^= _absorbed(ids, place, live, i, WIDTH)
            s1 ^= _absorbed(ids, place, live, i + 1, WIDTH)
            s2 ^= _absorbed(ids, place, live, i + 2, WIDTH)
            s3 ^= _absorbed(ids, place, live, i + 3, WIDTH)
            s0, s1, s2, s3 = tl.philox(key ^ i, s0, s1, s2, s3)
        seed = (key ^ 0x574D544B00000000) ^ s3.to(tl.uint64)
    return s0, s1, s2, seed


@jit
def _split_word(seed, candidate):
    seeded = (candidate + 1).to(tl.uint64) * 0x9E3779B97F4A7C15 + seed
    return (mixed(seeded) >> 32).to(tl.uint32)


@jit
def text_block(s0, s1, s2, seed, block, SPLITMIX: tl.constexpr):
    """`block_words` in registers: four uint32. block: int64."""
    if SPLITMIX:
        first = 4 * block
        w0, w1 = _split_word(seed, first), _split_word(seed, first + 1)
        w2, w3 = _split_word(seed, first + 2), _split_word(seed, first + 3)
    else:
        w0, w1, w2, w3 = tl.philox(seed, block.to(tl.uint32), s0, s1, s2)
    return w0, w1, w2, w3


@jit
def text_word(s0, s1, s2, seed, candidate, SPLITMIX: tl.constexpr):
    """`word_of` in registers: uint32. candidate: int64."""
    if SPLITMIX:
        word = _split_word(seed, candidate)
    else:
        w0, w1, w2, w3 = tl.philox(seed, (candidate >> 2).to(tl.uint32), s0, s1, s2)
        odd = (candidate & 1) != 0
        word = tl.where((candidate & 2) != 0, tl.where(odd, w3, w2), tl.where(odd, w1, w0))
    return word


@jit
def text_term(word, threshold, STATISTIC: tl.constexpr):
    """What a word adds to an integer sum: whether it is green, or -ln(1 - u) in 2^-32ths."""
    if STATISTIC == "gumbel":
        rest = (16777216 - (word >> 8).to(tl.int32)).to(tl.float32) * (1 / 16777217)
        return (-tl.log(rest) * 4294967296.0).to(tl.int64)
    return (word.to(tl.int64) < threshold).to(tl.int64)


@jit
def row_state(windows, keys, row, WIDTH: tl.constexpr, SPLITMIX: tl.constexpr):
    """`text_state` of row `row` of windows (B, WIDTH)."""
    place = (row + 1) * WIDTH
    return text_state(windows, place, place >= 0, tl.load(keys + row), WIDTH, SPLITMIX)


@jit
def row_words(s0, s1, s2, seed, tile, SPLITMIX: tl.constexpr, BLOCKS: tl.constexpr):
    """Words of the candidates 4 BLOCKS tile .. of a row, in order."""
    block = tile * BLOCKS + tl.arange(0, BLOCKS)
    w0, w1, w2, w3 = text_block(s0, s1, s2, seed, block, SPLITMIX)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@jit
def row_tokens(payloads, row, tile, vocabulary, BLOCKS: tl.constexpr):
    """The tokens v whose words `row_words` gives, and which of them exist."""
    candidate = tile * BLOCKS * 4 + tl.arange(0, BLOCKS * 4)
    token = candidate - tl.load(payloads + row)
    return tl.where(token < 0, token + vocabulary, token), candidate < vocabulary


@jit
def _words_kernel(
    windows,
    keys,
    payloads,
    out,
    tiles,
    vocabulary,
    WIDTH: tl.constexpr,
    SPLITMIX: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) // tiles
    tile = tl.program_id(0).to(tl.int64) % tiles
    s0, s1, s2, seed = row_state(windows, keys, row, WIDTH, SPLITMIX)
    words = row_words(s0, s1, s2, seed, tile, SPLITMIX, BLOCKS)
    token, exists = row_tokens(payloads, row, tile, vocabulary, BLOCKS)
    tl.store(out + row * vocabulary + token, words.to(tl.int64), mask=exists)


def vocabulary_words_triton(windows_BH: Tensor, keys_B: Tensor, mark: TextMark, payload_B: Tensor) -> Tensor:
    """The launcher, of `checked_rows`."""
    rows, tiles = len(windows_BH), ceil_div(mark.vocabulary, 4 * BLOCKS)
    out_BV = torch.empty(rows, mark.vocabulary, dtype=torch.int64, device=windows_BH.device)
    if rows:
        grid = (rows * tiles,)
        _words_kernel[grid](
            windows_BH,
            keys_B,
            payload_B,
            out_BV,
            tiles,
            mark.vocabulary,
            WIDTH=mark.width,
            SPLITMIX=mark.prf == "splitmix64",
            BLOCKS=BLOCKS,
        )
    return out_BV


_TYPES = {
    **dict.fromkeys(("windows", "keys", "payloads", "out"), "*i64"),
    "tiles": "i64",
    "vocabulary": "i64",
}
BUILDS = tuple(
    Build(
        _words_kernel,
        _TYPES,
        {"WIDTH": 4, "SPLITMIX": splitmix, "BLOCKS": BLOCKS},
        registers=48,
    )
    for splitmix in (False, True)
)


def vocabulary_words(
    windows_BH: Tensor, keys_B: Tensor, mark: TextMark, payload_B: Tensor | None = None
) -> Tensor:
    """(B, V) int64 in [0, 2^32): the word of every token v as the row's window and key have it; F(w, (v + m) mod V) where the
    row carries message m. keys: (B,) or (1,), 64 bits each (philox.packed). CPU memory beside the result: 4 V bytes or 1 MB."""
    windows_BH, keys_B, payload_B = checked_rows(windows_BH, keys_B, mark, payload_B)
    if on_gpu(windows_BH, keys_B, payload_B):
        return vocabulary_words_triton(windows_BH, keys_B, mark, payload_B)
    out_BV = torch.empty(len(windows_BH), mark.vocabulary, dtype=torch.int64)
    for rows, words_RV in rows_of_words(windows_BH, keys_B, payload_B, mark):
        out_BV.numpy()[rows] = words_RV
    return out_BV

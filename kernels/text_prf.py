"""The keyed function behind every text mark: F(w, v), a 32-bit word for a window w of previous ids and a candidate v.

Suffixes: N pairs of window and candidate, H ids of a window (oldest first), B rows, V candidates. Two functions, for ever:

philox      Philox4x32-10 in vLLM's layout (vllm/v1/watermarking/prfs/philox.py), so that its text can be checked.
            state = (0x574D4358, h, 0, 0); the window is absorbed four ids at a time, state = E(state ^ ids) under the key
            (k0 ^ offset, k1), where a missing id i of the last four is 2^32 - 1 - i. Word v & 3 of the block with counter
            (v >> 2, s0, s1, s2) under the key (k0 ^ s3, k1 ^ 0x574D544B).
splitmix64  (Steele, Lea & Flood, OOPSLA'14.) A window's hash is unkeyed: s = h, then s = mix((s ^ id) + golden) for every id.
            The key is absorbed as one more id; word v is the upper half of output v of the generator seeded with that state,
            mix(state + (v + 1) golden) >> 32. All keys share the hash: a further key costs 2 mixes, whatever h.

Ids count mod 2^32 under philox (vLLM pads the beginning of a text with -1) and mod 2^64 under splitmix64. h = 0 has one window.
A cyclic shift carries message m in F(w, (v + m) mod V). Uses of a word: v is green iff word < floor(gamma 2^32); a uniform is
u = (j + 1) / (2^24 + 1) with j = word >> 8 (vLLM's too: never 0 or 1); bit l decides layer l of a tournament.

Neither is a cipher: they are trusted for statistical quality, and secrecy rests on the key, 64 bits of HKDF-SHA256.

This file is the definition and the CPU's path; kernels/text_words.py holds the same in registers, and counts the operations.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import ceil_div
from .philox import CHUNK, MASK, MULTIPLIERS, ROUNDS, WEYL, Words, blocks, encrypt
from .text_mark import Prf, TextMark

CONTEXT, TOKEN = 0x574D4358, 0x574D544B  # "WMCX" and "WMTK": windows and candidates never share a counter
GOLDEN = 0x9E3779B97F4A7C15
MIX1, MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

State = tuple[Words, Words, Words, Words]
"""A window under a key: s0, s1, s2 and the output's key with k1 in its upper half; splitmix64 fills only the last."""


def wrapped(value: int) -> int:
    """The number that int64 holds in the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def mix_reference(z: Tensor) -> Tensor:
    """splitmix64's output function on int64, which wraps; its shifts are logical."""
    for shift, factor in ((30, wrapped(MIX1)), (27, wrapped(MIX2))):
        z = (z ^ ((z >> shift) & (2 ** (64 - shift) - 1))) * factor
    return z ^ ((z >> 31) & (2**33 - 1))


def hashes_reference(windows_NH: Tensor) -> Tensor:
    """splitmix64's unkeyed hash of every window, (N,) int64."""
    count, width = windows_NH.shape
    hash_N = torch.full((count,), width, dtype=torch.int64, device=windows_NH.device)
    for id_N in windows_NH.unbind(-1):
        hash_N = mix_reference((hash_N ^ id_N) + wrapped(GOLDEN))
    return hash_N


def words_reference(windows_NH: Tensor, candidates_N: Tensor, key: int, prf: Prf = "philox") -> Tensor:
    """The definition. F(window, candidate) under a 64-bit key: (N, H) and (N,) int64 -> (N,) int64 in [0, 2^32)."""
    if prf == "splitmix64":
        state_N = mix_reference((hashes_reference(windows_NH) ^ wrapped(key)) + wrapped(GOLDEN))
        return (mix_reference(state_N + (candidates_N + 1) * wrapped(GOLDEN)) >> 32) & MASK
    k0, k1 = key & MASK, (key >> 32) & MASK
    count, width = windows_NH.shape
    state_N4 = torch.tensor([CONTEXT, width, 0, 0], device=windows_NH.device).expand(count, 4)
    for offset in range(0, width, 4):
        ids_NI = windows_NH[:, offset : offset + 4] & MASK
        missing_N4 = MASK - torch.arange(4, device=windows_NH.device).expand(count, 4)
        absorbed_N4 = torch.cat((ids_NI, missing_N4[:, ids_NI.shape[1] :]), -1)
        state_N4 = blocks(state_N4 ^ absorbed_N4, (k0 ^ offset, k1))
    counter_N4 = torch.cat((candidates_N[:, None] >> 2, state_N4[:, :3]), -1)
    output_key: Any = (state_N4[:, 3] ^ k0, k1 ^ TOKEN)  # its first word differs from window to window
    return blocks(counter_N4, output_key).gather(-1, candidates_N[:, None] & 3).squeeze(-1)


def uniforms(words: Tensor) -> Tensor:
    """float64 in [1 / (2^24 + 1), 1 - 1 / (2^24 + 1)], from the upper 24 bits of every word."""
    return ((words >> 8) + 1).to(torch.float64) / (2**24 + 1)


def _mix(z: Words) -> Words:
    """In place."""
    scratch = np.empty_like(z)
    for shift, factor in ((30, MIX1), (27, MIX2)):
        np.right_shift(z, np.uint64(shift), out=scratch)
        np.bitwise_xor(z, scratch, out=z)
        np.multiply(z, np.uint64(factor), out=z)
    np.right_shift(z, np.uint64(31), out=scratch)
    return np.bitwise_xor(z, scratch, out=z)


def hashes(columns: Sequence[Words], shape: tuple[int, ...], width: int) -> Words:
    """`hashes_reference` on the CPU: columns[i] is id i of every window; more columns than `width` absorb what follows it."""
    hash_N = np.full(shape, width, dtype=np.uint64)
    for id_N in columns:
        np.bitwise_xor(hash_N, id_N, out=hash_N)
        np.add(hash_N, np.uint64(GOLDEN), out=hash_N)
        _mix(hash_N)
    return hash_N


def shared(columns: Sequence[Words], shape: tuple[int, ...], prf: Prf) -> Sequence[Words]:
    """What all keys have in common: splitmix64's hash. Philox absorbs the ids under the key."""
    return [hashes(columns, shape, len(columns))] if prf == "splitmix64" else columns


def keyed(common: Sequence[Words], shape: tuple[int, ...], key: Words, prf: Prf) -> State:
    """States of the windows that `shared` prepared. key: (1,) or one a window. Pass CHUNK windows at a time."""
    if prf == "splitmix64":
        zero = np.zeros(shape, dtype=np.uint64)
        return zero, zero, zero, _mix((common[0] ^ key) + np.uint64(GOLDEN))
    if shape == (1,):  # integers of Python: 50 us instead of 260 for numpy's calls
        return _keyed_one([int(id_1[0]) for id_1 in common], int(key[0]))
    k0, k1 = key & np.uint64(MASK), key >> np.uint64(32)
    s0, s1, s2, s3 = (np.full(shape, word, dtype=np.uint64) for word in (CONTEXT, len(common), 0, 0))
    for offset in range(0, len(common), 4):
        for i, word_N in enumerate((s0, s1, s2, s3), offset):
            absorbed = common[i] & np.uint64(MASK) if i < len(common) else np.uint64(MASK - i % 4)
            np.bitwise_xor(word_N, absorbed, out=word_N)
        s0, s1, s2, s3 = encrypt(s0, s1, s2, s3, k0 ^ np.uint64(offset), k1)
    return s0, s1, s2, (s3 ^ k0) | ((k1 ^ np.uint64(TOKEN)) << np.uint64(32))


def _keyed_one(window: list[int], key: int) -> State:
    k0, k1 = key & MASK, key >> 32
    c0, c1, c2, c3 = CONTEXT, len(window), 0, 0
    for offset in range(0, len(window), 4):
        i0, i1, i2, i3 = [*window[offset : offset + 4], *(MASK - i for i in range(len(window) - offset, 4))]
        c0, c1, c2, c3 = c0 ^ i0 & MASK, c1 ^ i1 & MASK, c2 ^ i2 & MASK, c3 ^ i3 & MASK
        r0, r1 = k0 ^ offset, k1
        for _ in range(ROUNDS):
            p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
            c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ r0, p1 & MASK, (p0 >> 32) ^ c3 ^ r1, p0 & MASK
            r0, r1 = (r0 + WEYL[0]) & MASK, (r1 + WEYL[1]) & MASK
    seed = (k0 ^ c3) | (k1 ^ TOKEN) << 32
    s0, s1, s2, seed_1 = np.array([[c0], [c1], [c2], [seed]], dtype=np.uint64)
    return s0, s1, s2, seed_1


def block_words(state: State, block: Words, prf: Prf) -> tuple[Words, Words, Words, Words]:
    """The words of candidates 4 block .. 4 block + 3. State and block broadcast."""
    if prf == "splitmix64":
        w0, w1, w2, w3 = (word_of(state, 4 * block + np.uint64(i), prf) for i in range(4))
        return w0, w1, w2, w3
    shape = np.broadcast_shapes(state[3].shape, block.shape)
    # Blocks of a window share s0 .. s2, but what is encrypted in place must be there in full.
    c0, c1, c2, c3 = (np.array(np.broadcast_to(part, shape)) for part in (block, *state[:3]))
    k0, k1 = state[3] & np.uint64(MASK), state[3] >> np.uint64(32)
    if k0.size == 1:  # numbers spare encrypt the arrays of a changing key
        return encrypt(c0, c1, c2, c3, int(k0.item()), int(k1.item()))
    return encrypt(c0, c1, c2, c3, k0, k1)


def word_of(state: State, candidate: Words, prf: Prf) -> Words:
    """The word of every candidate. State and candidate broadcast."""
    if prf == "splitmix64":
        seeded = _mix((candidate + np.uint64(1)) * np.uint64(GOLDEN) + state[3])
        seeded >>= np.uint64(32)
        return seeded
    w0, w1, w2, w3 = block_words(state, candidate >> np.uint64(2), prf)
    odd, upper = (candidate & np.uint64(1)).astype(bool), (candidate & np.uint64(2)).astype(bool)
    words: Words = np.where(upper, np.where(odd, w3, w2), np.where(odd, w1, w0))
    return words


def _vocabulary(state: State, count: int, prf: Prf) -> NDArray[np.uint32]:
    """(R, 4 count): the words of the first blocks of each of R windows, states (R, 1)."""
    words_RC4 = np.empty((len(state[3]), count, 4), dtype=np.uint32)
    for first in range(0, count, CHUNK):
        block_C = np.arange(first, min(first + CHUNK, count), dtype=np.uint64)
        for i, words_RC in enumerate(block_words(state, block_C, prf)):
            words_RC4[:, first : first + CHUNK, i] = words_RC
    return words_RC4.reshape(len(words_RC4), -1)


def rows_of_words(
    windows_BH: Tensor, keys_B: Tensor, payload_B: Tensor, mark: TextMark
) -> Iterator[tuple[slice, NDArray[np.uint32]]]:
    """Rows and the words of all their candidates, shifted by the message, on the CPU. A row, or CHUNK blocks, at a time."""
    count = ceil_div(mark.vocabulary, 4)
    step = max(1, CHUNK // count)
    for start in range(0, len(windows_BH), CHUNK):
        columns = [id_R.numpy().view(np.uint64) for id_R in windows_BH[start : start + CHUNK].unbind(1)]
        key_R = keys_B[start : start + CHUNK].numpy().view(np.uint64)
        common = shared(columns, key_R.shape, mark.prf)
        states = keyed(common, key_R.shape, key_R, mark.prf)
        for row in range(0, len(key_R), step):
            s0, s1, s2, seed = (part[row : row + step, None] for part in states)
            words_RV = _vocabulary((s0, s1, s2, seed), count, mark.prf)[:, : mark.vocabulary]
            rows = slice(start + row, start + row + len(words_RV))
            shift_R = payload_B[rows].tolist()
            if any(shift_R):
                words_RV = np.stack([np.roll(row, -m) for row, m in zip(words_RV, shift_R, strict=True)])
            yield rows, words_RV

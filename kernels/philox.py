"""Philox4x32-10 (Salmon et al., SC'11): the one source of bulk key material, the same words everywhere, for ever.

Layout: word i of the stream (k0, k1) is output word i % 4 of the block with counter (i // 4 mod 2^32, i // 4 >> 32, 0, 0).
Every derived quantity is a function of words by index alone, so any slice can be generated anywhere:
  sign i     bit (i % 32) of word i // 32, as +1 / -1
  uniform i  ((word i >> 8) + 0.5) / 2^24, in (0, 1)
  normal i   Box-Muller on uniforms (2j, 2j+1), j = i // 2; the cosine for even i, the sine for odd i; in float64, rounded once
  byte i     bits 8 (i % 4) .. of word i // 4

Philox is a counter-based generator, not a cipher: it is trusted for statistical quality, never for secrecy. The secrecy of a
key rests on HKDF-SHA256, which derives (k0, k1) from the owner's secret (core/secret.py).

Cost: 4 bytes written a word, and 25 operations: a block of 16 bytes takes 10 rounds of 2 products with their high halves and 4
xors, and the key's schedule. An H200 writes 1.2 T words/s (4.8 TB/s) and makes 16.7 T integer operations/s (64 a cycle on each of
132 multiprocessors), .67 T words/s: operations are the floor. CPU: 33 ns a block on one core of an EPYC (AVX2).
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import Build, ceil_div, jit, tl

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Random123, philox.h
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
ROUNDS = 10
CHUNK = 2**14  # blocks at a time: six arrays of 128 kB stay in a core's second-level cache
BLOCKS = 512  # blocks a program of the Triton kernel

Words = NDArray[np.uint64]
"""32-bit words in 64-bit integers, so that a product keeps its high half."""


def blocks(counter_N4: Tensor, key: tuple[int, int]) -> Tensor:
    """The definition. Encrypt counters, one block each: (N, 4) int64 holding 32-bit words -> (N, 4) likewise."""
    c0, c1, c2, c3 = counter_N4.unbind(-1)
    k0, k1 = key
    for _ in range(ROUNDS):
        # The 64-bit product wraps in int64; its bits are right, so the high word needs only the mask.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((product1 >> 32) & MASK) ^ c1 ^ k0, ((product0 >> 32) & MASK) ^ c3 ^ k1
        c1, c3 = product1 & MASK, product0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack((c0, c1, c2, c3), -1)


def words_reference(key: tuple[int, int], count: int, start: int = 0) -> Tensor:
    """The definition of the stream: words start .. start + count, (count,) int64 in [0, 2^32)."""
    first, last = start // 4, ceil_div(start + count, 4)
    index = torch.arange(first, last, dtype=torch.int64)
    zero = torch.zeros_like(index)
    counter_N4 = torch.stack((index & MASK, index >> 32, zero, zero), -1)
    return blocks(counter_N4, key).reshape(-1)[start - 4 * first :][:count]


def encrypt(
    c0: Words, c1: Words, c2: Words, c3: Words, k0: Any, k1: Any
) -> tuple[Words, Words, Words, Words]:
    """`blocks` for the CPU, in place: four equally shaped uint64 arrays of 32-bit words. The key words are integers, or uint64
    arrays that broadcast against them. Pass CHUNK blocks at a time."""
    k0, k1 = np.uint64(k0) if isinstance(k0, int) else k0, np.uint64(k1) if isinstance(k1, int) else k1
    m0, m1, mask, half = (np.uint64(value) for value in (*MULTIPLIERS, MASK, 32))
    w0, w1 = (np.uint64(value) for value in WEYL)
    product0, product1 = np.empty_like(c0), np.empty_like(c0)
    for _ in range(ROUNDS):
        np.multiply(c0, m0, out=product0)
        np.multiply(c2, m1, out=product1)
        np.right_shift(product1, half, out=c0)
        np.bitwise_xor(c0, c1, out=c0)
        np.bitwise_xor(c0, k0, out=c0)
        np.right_shift(product0, half, out=c2)
        np.bitwise_xor(c2, c3, out=c2)
        np.bitwise_xor(c2, k1, out=c2)
        np.bitwise_and(product1, mask, out=c1)
        np.bitwise_and(product0, mask, out=c3)
        k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
    return c0, c1, c2, c3


def words_at(key: tuple[Any, Any], block_N: Words) -> NDArray[np.uint32]:
    """The blocks of these numbers, (N, 4) uint32, on the CPU. The key words are integers, or a uint64 array (N,) each."""
    out_N4 = np.empty((len(block_N), 4), dtype=np.uint32)
    for start in range(0, len(block_N), CHUNK):
        place = slice(start, start + CHUNK)
        part = block_N[place]
        k0, k1 = (k if isinstance(k, int) else k[place] for k in key)
        counter = part & np.uint64(MASK), part >> np.uint64(32), np.zeros_like(part), np.zeros_like(part)
        for i, words_N in enumerate(encrypt(*counter, k0, k1)):
            out_N4[place, i] = words_N
    return out_N4


def block_words(key: tuple[int, int], first: int, count: int) -> NDArray[np.uint32]:
    """Blocks first .. first + count of the stream, (count, 4) uint32, on the CPU."""
    return words_at(key, np.arange(first, first + count, dtype=np.uint64))


@jit
def philox(key, block):
    """The four uint32 words of this stream's blocks, in registers. key: int64, k1 in its high half; block: int64."""
    low = (block & 0xFFFFFFFF).to(tl.uint32)
    high = ((block >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(key, low, high, 0, 0)


@jit
def _words_kernel(out, key, first, count, BLOCKS: tl.constexpr):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    word0, word1, word2, word3 = philox(key, first + block)
    words = tl.interleave(tl.interleave(word0, word2), tl.interleave(word1, word3))
    place = tl.program_id(0).to(tl.int64) * BLOCKS * 4 + tl.arange(0, BLOCKS * 4)
    tl.store(out + place, words.to(tl.int32, bitcast=True), mask=place < count)


def words_triton(key: tuple[int, int], count: int, start: int, device: torch.device) -> Tensor:
    """Words start .. start + count on the device: (count,) int32, the bits of the unsigned words."""
    skip = start % 4
    out = torch.empty(count + skip, dtype=torch.int32, device=device)
    if count:
        grid = (ceil_div(len(out), 4 * BLOCKS),)
        _words_kernel[grid](out, packed(key), start // 4, len(out), BLOCKS=BLOCKS)
    return out[skip:]


BUILDS = (
    Build(
        _words_kernel,
        {"out": "*i32", "key": "i64", "first": "i64", "count": "i64"},
        {"BLOCKS": BLOCKS},
        registers=64,
    ),
)


def packed(key: tuple[int, int]) -> int:
    """The key as one signed 64-bit integer, as kernels take it: k1 in the high half."""
    k0, k1 = key
    value = (k1 << 32) | k0
    return value - 2**64 if value >= 2**63 else value


def words(key: tuple[int, int], count: int, start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Words start .. start + count of the stream: (count,) int64 in [0, 2^32)."""
    if count < 0 or start < 0:
        raise ValueError(f"expected count >= 0 and start >= 0, got {count} and {start}")
    device = torch.device(device)
    if device.type == "cuda":
        return words_triton(key, count, start, device).to(torch.int64) & MASK
    first, last = start // 4, ceil_div(start + count, 4)
    flat = block_words(key, first, last - first).reshape(-1)[start - 4 * first :][:count]
    return torch.from_numpy(flat.astype(np.int64)).to(device)


def signs(key: tuple[int, int], count: int, first_block: int = 0) -> Tensor:
    """(count,) float32 of +1 and -1, one bit each: a block feeds 128."""
    bits_N = bits_of(block_words(key, first_block, ceil_div(count, 128)).reshape(-1))[:count]
    return torch.from_numpy(bits_N).to(torch.float32).mul_(2).sub_(1)


def bits_of(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The bits of the last axis, 1 for the sign +1 and 0 for -1: (..., W) -> (..., 32 W)."""
    return np.unpackbits(words.astype("<u4", copy=False).view(np.uint8), axis=-1, bitorder="little")


def uniforms(key: tuple[int, int], count: int) -> Tensor:
    """(count,) float64 in (0, 1), 24 bits each."""
    return ((words(key, count) >> 8).to(torch.float64) + 0.5) / 2**24


def normals(key: tuple[int, int], count: int, first_block: int = 0) -> Tensor:
    """(count,) float32 standard normals (Box-Muller)."""
    return normals_of(block_words(key, first_block, ceil_div(count, 4)))[:count]


def normals_of(words: NDArray[np.uint32]) -> Tensor:
    """A normal for each word, in the order of the array, whose size is even: (W,) float32. In chunks that stay in the cache."""
    pair_P2 = words.reshape(-1, 2)
    out_P2 = torch.empty(pair_P2.shape, dtype=torch.float32)
    for start in range(0, len(pair_P2), CHUNK):
        top_C2 = pair_P2[start : start + CHUNK] >> np.uint32(8)
        uniform_C, turn_C = (torch.from_numpy(top_C2[:, i].astype(np.float64)).add_(0.5) for i in (0, 1))
        radius_C = uniform_C.mul_(2**-24).log_().mul_(-2).sqrt_()
        angle_C = turn_C.mul_(2 * math.pi * 2**-24)
        out_P2[start : start + CHUNK, 0] = torch.cos(angle_C).mul_(radius_C)
        out_P2[start : start + CHUNK, 1] = angle_C.sin_().mul_(radius_C)
    return out_P2.reshape(-1)


def octets(key: tuple[int, int], count: int) -> Tensor:
    """(count,) uint8."""
    octet_N = block_words(key, 0, ceil_div(count, 16)).astype("<u4", copy=False).view(np.uint8).reshape(-1)
    return torch.from_numpy(octet_N[:count].copy())

"""Philox4x32-10 (Salmon et al., SC'11): the one source of bulk key material, the same words everywhere, for ever.

Layout: word i of the stream (k0, k1) is output word i % 4 of the block with counter (i // 4 mod 2^32, i // 4 >> 32, 0, 0).
Every derived quantity is a function of words by index alone, so any slice can be generated anywhere:
  sign i     bit (i % 32) of word i // 32, as +1 / -1
  uniform i  ((word i >> 8) + 0.5) / 2^24, in (0, 1)
  normal i   Box-Muller on uniforms (2j, 2j+1), j = i // 2; the cosine for even i, the sine for odd i; in float64, rounded once
  byte i     bits 8 (i % 4) .. of word i // 4

Philox is a counter-based generator, not a cipher: it is trusted for statistical quality, never for secrecy. The secrecy of a
key rests on HKDF-SHA256, which derives (k0, k1) from the owner's secret (core/secret.py).
"""

import math

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Random123, philox.h
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
ROUNDS = 10


def blocks(counter_N4: Tensor, key: tuple[int, int]) -> Tensor:
    """Encrypt counters, one block each: (N, 4) int64 holding 32-bit words -> (N, 4) likewise."""
    c0, c1, c2, c3 = counter_N4.unbind(-1)
    k0, k1 = key
    for _ in range(ROUNDS):
        # The 64-bit product wraps in int64; its bits are right, so the high word needs only the mask.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((product1 >> 32) & MASK) ^ c1 ^ k0, ((product0 >> 32) & MASK) ^ c3 ^ k1
        c1, c3 = product1 & MASK, product0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack((c0, c1, c2, c3), -1)


def words(key: tuple[int, int], count: int, start: int = 0) -> Tensor:
    """Words start .. start + count of the stream: (count,) int64 in [0, 2^32)."""
    first, last = start // 4, (start + count + 3) // 4
    index = torch.arange(first, last, dtype=torch.int64)
    zero = torch.zeros_like(index)
    counter_N4 = torch.stack((index & MASK, index >> 32, zero, zero), -1)
    return blocks(counter_N4, key).reshape(-1)[start - 4 * first :][:count]


def signs(key: tuple[int, int], count: int) -> Tensor:
    """(count,) float32 of +1 and -1, one bit each: a block feeds 128."""
    bits_N32 = (words(key, (count + 31) // 32)[:, None] >> torch.arange(32)) & 1
    return bits_N32.reshape(-1)[:count].to(torch.float32).mul_(2).sub_(1)


def uniforms(key: tuple[int, int], count: int) -> Tensor:
    """(count,) float64 in (0, 1), 24 bits each."""
    return ((words(key, count) >> 8).to(torch.float64) + 0.5) / 2**24


def normals(key: tuple[int, int], count: int) -> Tensor:
    """(count,) float32 standard normals (Box-Muller)."""
    u_P2 = uniforms(key, count + count % 2).reshape(-1, 2)
    radius_P = torch.sqrt(-2 * torch.log(u_P2[:, 0]))
    angle_P = 2 * math.pi * u_P2[:, 1]
    pairs_P2 = torch.stack((radius_P * torch.cos(angle_P), radius_P * torch.sin(angle_P)), -1)
    return pairs_P2.reshape(-1)[:count].to(torch.float32)


def octets(key: tuple[int, int], count: int) -> Tensor:
    """(count,) uint8."""
    bytes_N4 = (words(key, (count + 3) // 4)[:, None] >> torch.tensor([0, 8, 16, 24])) & 0xFF
    return bytes_N4.reshape(-1)[:count].to(torch.uint8)

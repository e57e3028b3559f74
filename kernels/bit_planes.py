"""Labels as bit planes on the CPU, and bits that differ between rows of them, for kernels/agreement.py.

Suffixes: P planes, W words of 64 inputs, X rows, M suspects, R references, N inputs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import ceil_div

CELLS, REFERENCES = 2**14, 2**12  # pairs at a time, of so many references: 128 kB for each of two arrays
CODES = 2**18  # labels, or bits, packed at a time

Planes = NDArray[np.uint64]
"""(P, W, rows): the bits of a word side by side with the same bits of other rows."""


def pack_bits(bits_XN: Tensor) -> Tensor:
    """(X, W) int64 words of rows of bits, N = 64 W or fewer: bit i is bit i % 64 of word i // 64, and those beyond N are 0. A bit
    is one where the entry is not zero. Memory beyond the result: CODES bits in int64, or those of a row."""
    if bits_XN.ndim != 2:
        raise ValueError(f"bits_XN: expected a matrix, got {tuple(bits_XN.shape)}")
    rows, bits = bits_XN.shape
    words_XW = torch.zeros(rows, ceil_div(bits, 64), dtype=torch.int64, device=bits_XN.device)
    place_B = torch.arange(64, device=bits_XN.device)
    step = max(1, CODES // max(1, bits))
    for start in range(0, rows, step):
        part_XN = (bits_XN[start : start + step] != 0).to(torch.int64)
        padded_XN = torch.nn.functional.pad(part_XN, (0, 64 * words_XW.shape[1] - bits))
        words_XW[start : start + step] = (padded_XN.unflatten(1, (-1, 64)) << place_B).sum(-1)
    return words_XW


def pack_cpu(labels_XN: Tensor, none: int, planes: int, has_none: bool) -> Planes:
    """`pack_triton` for the CPU, in words of 64 labels. Codes are as short as they can be, and a plane of them the bytes masked by
    one bit: a quarter of the time that shifts take."""
    (rows, columns), words = labels_XN.shape, ceil_div(labels_XN.shape[1], 64)
    out_PWX = np.empty((planes, words, rows), dtype=np.uint64)
    dtype = np.min_scalar_type((1 << planes) - 1).newbyteorder("<")
    step = max(1, CODES // (64 * words))
    for start in range(0, rows, step):
        label_XN = labels_XN[start : start + step].numpy()
        code_XN = np.full((len(label_XN), 64 * words), none, dtype=dtype)
        np.copyto(code_XN[:, :columns], label_XN, casting="unsafe")
        if has_none:  # which takes longer than all the rest
            code_XN[:, :columns][label_XN < 0] = none
        octet_XNO = code_XN.view(np.uint8).reshape(*code_XN.shape, dtype.itemsize)
        for plane in range(planes):
            bit_XN = octet_XNO[..., plane // 8] & np.uint8(1 << plane % 8)
            packed_XW = np.packbits(bit_XN, axis=1).view(np.uint64)
            out_PWX[plane, :, start : start + step] = packed_XW.T
    return out_PWX


def differ_cpu(left_PWM: Planes, right_PWR: Planes) -> NDArray[np.int64]:
    """(M, R): bits that differ in some plane, tile by tile."""
    suspects, references = left_PWM.shape[2], right_PWR.shape[2]
    out_MR = np.empty((suspects, references), dtype=np.int64)
    some_r = max(1, min(references, REFERENCES))
    some_m = max(1, CELLS // some_r)
    for m in range(0, suspects, some_m):
        for r in range(0, references, some_r):
            pair = left_PWM[:, :, m : m + some_m, None], right_PWR[:, :, None, r : r + some_r]
            out_MR[m : m + some_m, r : r + some_r] = _differ_tile(*pair)
    return out_MR


def _differ_tile(left_PWM1: Planes, right_PW1R: Planes) -> NDArray[np.int32]:
    """Three words of 64 bits are counted in 8 bits, which numpy adds four times faster than in 32."""
    shape = left_PWM1.shape[2], right_PW1R.shape[3]
    total_MR = np.zeros(shape, dtype=np.int32)
    differ_MR, other_MR = np.empty(shape, dtype=np.uint64), np.empty(shape, dtype=np.uint64)
    words = left_PWM1.shape[1]
    for first in range(0, words, 3):
        few_MR = np.zeros(shape, dtype=np.uint8)
        for word in range(first, min(first + 3, words)):
            np.bitwise_xor(left_PWM1[0, word], right_PW1R[0, word], out=differ_MR)
            for left_WM1, right_W1R in zip(left_PWM1[1:], right_PW1R[1:], strict=True):
                np.bitwise_xor(left_WM1[word], right_W1R[word], out=other_MR)
                np.bitwise_or(differ_MR, other_MR, out=differ_MR)
            few_MR += np.bitwise_count(differ_MR)
        total_MR += few_MR
    return total_MR

"""The columns of secret matrices on the CPU: the words of many at once, their signs and normals, and how far a sum of weights times
signs may be off in float32.

Suffixes: M suspects, J weights, K keys, C columns, W words.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import philox
from .lang import on_gpu

Index = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

PIECE = 2**18  # weights at a time: what is computed of them is 1 MB
_BITS = torch.from_numpy(philox.bits_of(np.arange(256, dtype=np.uint32)[:, None])[:, :8])
SIGNS = {dtype: _BITS.to(dtype).mul_(2).sub_(1).numpy() for dtype in (torch.float32, torch.float64)}


def words_of_columns(
    streams: Sequence[tuple[int, int]], bits: int, index_C: Index, blocks: range
) -> NDArray[np.uint32]:
    """(C, 4 blocks) of columns in rising order; those of all keys follow each other, `bits` a key. Column b of a key is the part of
    its stream that begins at block b 2^32."""
    block_N: philox.Words = np.arange(blocks.start, blocks.stop, dtype=np.uint64)
    block_CN = ((index_C % bits).astype(np.uint64) << np.uint64(32))[:, None] + block_N
    key_C = index_C // bits
    key: tuple[Any, Any] = streams[key_C[0]]
    if key_C[0] != key_C[-1]:  # small layers: the columns of many keys in one call
        words_C2 = np.array(streams, dtype=np.uint64)[key_C]
        key = np.repeat(words_C2[:, 0], len(block_N)), np.repeat(words_C2[:, 1], len(block_N))
    return philox.words_at(key, block_CN.reshape(-1)).reshape(len(index_C), -1)


def signs_of(words_CW: NDArray[np.uint32], dtype: torch.dtype) -> Floats:
    """(C, 32 W) of +1 and -1 in float32 or float64, as `philox.signs`: eight at a time, twice as fast as bits unpacked and
    converted."""
    octets_CO = words_CW.astype("<u4", copy=False).view(np.uint8)
    return SIGNS[dtype].take(octets_CO, axis=0).reshape(len(words_CW), -1)


def normals_of(words_CW: NDArray[np.uint32], dtype: torch.dtype) -> Floats:
    """(C, W), as `philox.normals`."""
    return philox.normals_of(np.ascontiguousarray(words_CW)).to(dtype).numpy().reshape(len(words_CW), -1)


def float32_error(weights_MJ: Tensor, rows: int) -> NDArray[np.float64]:
    """(M,): the most that a sum of +w and -w may be off whose parts, of so many rows, are added in float32, in any order, and the
    parts in float64: n u sum |w| for n rows and u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section
    4.2), and one u more each for weights rounded from float64, for the sum over parts, and for numbers so small that they are
    flushed to zero; 1/32 more for the second order and for how sum |w| itself was rounded. Infinite where that does not hold: sums
    of 2^126, which may overflow, of less than 2^-100 a weight, and weights that are not finite. 0 for weights that are all 0."""
    _expect_matrix(weights_MJ)
    wide = torch.float64 if weights_MJ.dtype == torch.float64 else torch.float32
    total_M = np.zeros(len(weights_MJ))
    for part_MJ in _pieces(weights_MJ.detach()):
        total_M += part_MJ.abs().sum(1, dtype=wide).numpy()
    least = weights_MJ.shape[1] * 2.0**-100
    holds_M = (total_M == 0) | ((total_M >= least) & (total_M < 2.0**126))
    return np.where(holds_M, total_M * ((1 + 1 / 32) * (rows + 3) * 2.0**-24), np.inf)


def expect_weights(weights_MJ: Tensor) -> None:
    """ValueError unless this is a matrix of finite floats."""
    _expect_matrix(weights_MJ)
    extremes = [part_MJ.aminmax() for part_MJ in _pieces(weights_MJ) if part_MJ.numel()]
    if not all(-torch.inf < least and most < torch.inf for least, most in extremes):  # false for a NaN
        raise ValueError("weights_MJ: expected finite weights, got NaN or infinite ones")


def _expect_matrix(weights_MJ: Tensor) -> None:
    if weights_MJ.ndim != 2 or not weights_MJ.is_floating_point():
        raise ValueError(
            f"weights_MJ: expected a matrix of floats, got {weights_MJ.dtype} of shape {tuple(weights_MJ.shape)}"
        )


def _pieces(weights_MJ: Tensor) -> tuple[Tensor, ...]:
    """On the CPU, PIECE weights at a time."""
    if on_gpu(weights_MJ):
        return (weights_MJ,)
    return tuple(weights_MJ.split(max(1, PIECE // max(1, len(weights_MJ))), dim=1))

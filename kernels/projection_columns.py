"""The columns of secret matrices on the CPU: the words of many at once, their signs and normals, and how far a sum of weights times
signs may be off in float32.

Suffixes: M suspects, J weights, K keys, C columns, P pairs of a column and a suspect, W words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import philox
from .lang import ceil_div, on_gpu

Kind = Literal["sign", "normal"]
Stream = tuple[int, int]
Index = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

ROWS = {"sign": 128, "normal": 4}  # rows of X that one block feeds
COLUMNS_AT_ONCE = 2**8  # so many columns of X are made together, or more of small layers:
ELEMENTS_AT_ONCE = 2**20
ROWS_AT_ONCE = 2**13  # and so many rows of them from one call, 16,384 blocks; fewer rows of more columns
TILE = 2**17  # elements in a product: 512 kB of float32, a core's second-level cache
PRODUCT_ROWS = 2**9  # rows in a float32 product: of more, float32 decides fewer signs
PIECE = 2**18  # weights at a time: what is computed of them is 1 MB
_BITS = torch.from_numpy(philox.bits_of(np.arange(256, dtype=np.uint32)[:, None])[:, :8])
SIGNS = {dtype: _BITS.to(dtype).mul_(2).sub_(1).numpy() for dtype in (torch.float32, torch.float64)}


def steps(index_C: Index, weights_MJ: Tensor) -> Iterator[Index]:
    """So many columns at a time."""
    step = max(COLUMNS_AT_ONCE, ELEMENTS_AT_ONCE // max(ROWS["sign"], *weights_MJ.shape))
    return (index_C[start : start + step] for start in range(0, len(index_C), step))


@dataclass(frozen=True)
class Columns:
    """The columns of X of all keys, which follow each other: column `bits` is the first of the second key."""

    streams: Sequence[Stream]
    bits: int
    kind: Kind

    def sums(self, weights_MJ: Tensor, index_C: Index, dtype: torch.dtype) -> NDArray[np.float64]:
        """(C, M): products in this dtype, added in float64 in the order of the rows."""
        out_CM = np.zeros((len(index_C), len(weights_MJ)))
        for some, part_MJ, x_CJ in self._tiles(weights_MJ, index_C, dtype):
            out_CM[some] += x_CJ @ part_MJ.T
        return out_CM

    def sums_of_pairs(self, weights_MJ: Tensor, index_P: Index, suspect_P: Index) -> NDArray[np.float64]:
        """(P,) in float64, of a column and a suspect each; the columns in rising order."""
        index_C, column_P = np.unique(index_P, return_inverse=True)
        out_P = np.zeros(len(index_P))
        for some, part_MJ, x_CJ in self._tiles(weights_MJ, index_C, torch.float64):
            first, last = np.searchsorted(column_P, (some.start, some.stop))
            step = max(1, TILE // x_CJ.shape[1])
            for p in range(first, last, step):
                pairs = slice(p, min(p + step, last))
                signs_PJ = x_CJ[column_P[pairs] - some.start]
                out_P[pairs] += np.einsum("pj,pj->p", part_MJ[suspect_P[pairs]], signs_PJ)
        return out_P

    def _tiles(
        self, weights_MJ: Tensor, index_C: Index, dtype: torch.dtype
    ) -> Iterator[tuple[slice, Floats, Floats]]:
        """Some columns of a few rows of X, (C, J), and the weights of these rows, (M, J): TILE elements, of PRODUCT_ROWS rows or in
        float64 more. The words are made for many tiles at once."""
        rows, per_block = weights_MJ.shape[1], ROWS[self.kind]
        draw = {"sign": signs_of, "normal": normals_of}[self.kind]
        most = TILE // max(len(index_C), len(weights_MJ) // 8) // 128 * 128
        step = max(PRODUCT_ROWS, most) if dtype == torch.float64 else PRODUCT_ROWS
        blocks = max(1, ROWS_AT_ONCE // 128 * COLUMNS_AT_ONCE // len(index_C))
        for block in range(0, ceil_div(rows, per_block), blocks):
            last = min((block + blocks) * per_block, rows)
            words_CW = words_of_columns(
                self.streams, self.bits, index_C, range(block, ceil_div(last, per_block))
            )
            for r in range(block * per_block, last, step):
                part_MJ = weights_MJ[:, r : min(r + step, last)].detach().to(dtype).contiguous().numpy()
                words = slice((r // per_block - block) * 4, (ceil_div(r + step, per_block) - block) * 4)
                columns = max(1, TILE // max(128, part_MJ.shape[1]))
                for c in range(0, len(index_C), columns):
                    x_CJ = draw(words_CW[c : c + columns, words], dtype)
                    yield slice(c, c + columns), part_MJ, x_CJ[:, : part_MJ.shape[1]]


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

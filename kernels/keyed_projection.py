"""Weights against secret projections that are never materialised: the matrix X of a key is a function of its Philox stream,
generated where it is multiplied, and a bit is [w X > 0].

Layout, for ever: column b of X is the part of the key's stream that begins at block b 2^32, by row:
  sign    X[j, b] = sign j of that part: one bit each, so a block feeds 128 rows
  normal  X[j, b] = normal j of that part (Uchida et al., ICMR 2017, section 3.2): a block feeds 4 rows
So a longer layer or a longer message extends X and changes nothing in it, and rows of weights 0 add nothing: segments of
different lengths (layers of other architectures) are scored together, padded with zeros.

Products are summed in float64, so that a decision at 0 does not depend on the order of summation.

Bytes and operations: M J weights of 4 bytes are read once per key and tile of bits, M K B sums of 8 bytes are written. An
element of X costs 0.8 integer operations (sign; 25 for a normal, and 1/2 log and 1 cosine in float64), 4 to unpack, and M
float64 multiply-adds. For J = 2.4 M, B = 256, M = K = 1: 0.6 G elements, 3 G integer operations and 0.6 G multiply-adds,
0.18 ms on an H200 (16.7 T integer operations/s; 17 T float64 multiply-adds/s run beside them), where the matrix alone would be
2.4 GB written and read, 1 ms. Operations are the floor. CPU, one core of an EPYC: 0.3 ns an element for the words of signs and 1
to unpack and multiply them for M = 1; 20 ns for normals, 8 of them for their words.

Suffixes: M suspects, J weights, K keys, B bits.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import philox
from .lang import Build, ceil_div, jit, on_gpu, tl

Kind = Literal["sign", "normal"]
Stream = tuple[int, int]

ROWS = {"sign": 128, "normal": 4}  # rows of X that one block feeds
ROWS_AT_ONCE = 2**11  # on the CPU: 256 columns of them are 4 MB of float64
COLUMNS_AT_ONCE = 2**8
ELEMENTS_AT_ONCE = 2**19  # so many more columns of small layers; less than a tile of large ones
SUMS_AT_ONCE = 2**23  # 64 MB of float64 sums in flight, over keys and splits of J
SUSPECTS, COLUMNS = 4, 128  # the tile of a program: 4 x 128 sums, one column a thread
PROGRAMS = 1024  # J is split until so many programs run: 132 multiprocessors with 8 each


def projection_matrix(stream: Stream, weights: int, bits: int, kind: Kind) -> Tensor:
    """The definition of X: (J, B) float32 on the CPU. For training; verification never holds it."""
    draw = {"sign": philox.signs, "normal": philox.normals}[kind]
    columns = [draw(stream, weights, b << 32) for b in range(bits)]
    return torch.stack(columns, -1) if bits else torch.empty(weights, 0)


def projections_reference(weights_MJ: Tensor, streams: Sequence[Stream], bits: int, kind: Kind) -> Tensor:
    """The definition: w X of every suspect and key, (M, K, B) float64."""
    products = [
        weights_MJ.double() @ projection_matrix(stream, weights_MJ.shape[1], bits, kind).double()
        for stream in streams
    ]
    return torch.stack(products, 1) if products else weights_MJ.new_empty(len(weights_MJ), 0, bits).double()


@jit
def _add_row(sums_MB, x_B, weights_M, rows_M, row, stride):
    """sums + w X for one row of X; past a suspect's last row its weights are 0."""
    weight_M = tl.load(weights_M + row * stride, mask=row < rows_M, other=0.0).to(tl.float64)
    return sums_MB + weight_M[:, None] * x_B[None, :]


@jit
def _add_signs(sums_MB, word_B, weights_M, rows_M, first, stride):
    """32 rows of signs, the bits of one word for each column."""
    for i in range(32):
        x_B = tl.where((word_B >> i) & 1 != 0, 1.0, -1.0).to(tl.float64)
        sums_MB = _add_row(sums_MB, x_B, weights_M, rows_M, first + i, stride)
    return sums_MB


@jit
def _sin_cos_pi(half_turns):
    """sin and cos of pi x for x in [0, 2], float64: exact reduction to |x| <= 1/4, then Taylor (the next term is 5e-17). The
    library's cosine reduces any angle, which costs a stack."""
    quarter = tl.floor(2.0 * half_turns + 0.5)
    t = (half_turns - 0.5 * quarter) * 3.141592653589793
    z = t * t
    sine = -1.0 / 1307674368000 * z + 1.0 / 6227020800
    sine = ((((sine * z - 1.0 / 39916800) * z + 1.0 / 362880) * z - 1.0 / 5040) * z + 1.0 / 120) * z - 1.0 / 6
    sine = t + t * z * sine
    cosine = 1.0 / 20922789888000 * z - 1.0 / 87178291200
    cosine = (((cosine * z + 1.0 / 479001600) * z - 1.0 / 3628800) * z + 1.0 / 40320) * z - 1.0 / 720
    cosine = 1.0 + z * (z * (cosine * z + 1.0 / 24) - 0.5)
    turn = quarter.to(tl.int32)
    swapped = (turn & 1) != 0
    sin = tl.where(swapped, cosine, sine) * tl.where((turn & 2) != 0, -1.0, 1.0)
    cos = tl.where(swapped, sine, cosine) * tl.where(((turn + 1) & 2) != 0, -1.0, 1.0)
    return sin, cos


@jit
def _add_normals(sums_MB, word0_B, word1_B, weights_M, rows_M, first, stride):
    """Two rows of normals (Box-Muller), in float64, rounded once."""
    uniform_B = ((word0_B >> 8).to(tl.float64) + 0.5) * (1.0 / 16777216)
    radius_B = tl.sqrt(-2.0 * tl.log(uniform_B))
    sin_B, cos_B = _sin_cos_pi(((word1_B >> 8).to(tl.float64) + 0.5) * (1.0 / 8388608))
    even_B = (radius_B * cos_B).to(tl.float32).to(tl.float64)
    odd_B = (radius_B * sin_B).to(tl.float32).to(tl.float64)
    sums_MB = _add_row(sums_MB, even_B, weights_M, rows_M, first, stride)
    return _add_row(sums_MB, odd_B, weights_M, rows_M, first + 1, stride)


@jit
def _projection_kernel(
    out, weights, keys, suspects, rows, bits, key_count, splits, blocks_a_split, stride_m, stride_j,
    SIGN: tl.constexpr, SUSPECTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of suspects and columns, one key, one split of J; the tile of columns varies fastest."""
    program = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(bits, COLUMNS)
    column_B = (program % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    key_index = program // tiles % key_count
    split = program // (tiles * key_count) % splits
    suspect_M = program // (tiles * key_count * splits) * SUSPECTS + tl.arange(0, SUSPECTS)
    key = tl.load(keys + key_index)
    inside_M, weights_M = suspect_M < suspects, weights + suspect_M * stride_m
    rows_M = tl.where(inside_M, rows, 0)
    sums_MB = tl.zeros((SUSPECTS, COLUMNS), dtype=tl.float64)
    last = tl.minimum((split + 1) * blocks_a_split, tl.cdiv(rows, 128 if SIGN else 4))
    for block in range(split * blocks_a_split, last):
        word0, word1, word2, word3 = philox.philox(key, block + (column_B << 32))
        if SIGN:
            sums_MB = _add_signs(sums_MB, word0, weights_M, rows_M, block * 128, stride_j)
            sums_MB = _add_signs(sums_MB, word1, weights_M, rows_M, block * 128 + 32, stride_j)
            sums_MB = _add_signs(sums_MB, word2, weights_M, rows_M, block * 128 + 64, stride_j)
            sums_MB = _add_signs(sums_MB, word3, weights_M, rows_M, block * 128 + 96, stride_j)
        else:
            sums_MB = _add_normals(sums_MB, word0, word1, weights_M, rows_M, block * 4, stride_j)
            sums_MB = _add_normals(sums_MB, word2, word3, weights_M, rows_M, block * 4 + 2, stride_j)
    place_M = ((split * suspects + suspect_M) * key_count + key_index) * bits
    inside_MB = inside_M[:, None] & (column_B < bits)[None, :]
    tl.store(out + place_M[:, None] + column_B[None, :], sums_MB, mask=inside_MB)


def projections_triton(weights_MJ: Tensor, streams: Sequence[Stream], bits: int, kind: Kind) -> Tensor:
    """(M, K, B) float64. Memory: the result times the splits of J, of which there are more than one only where it is small."""
    (suspects, rows), keys = weights_MJ.shape, len(streams)
    tiles = ceil_div(suspects, SUSPECTS) * keys * ceil_div(bits, COLUMNS)
    blocks = ceil_div(rows, ROWS[kind])
    if not tiles:
        return weights_MJ.new_empty(suspects, keys, bits, dtype=torch.float64)
    splits = max(1, min(ceil_div(PROGRAMS, tiles), blocks))
    out_SMKB = torch.empty(splits, suspects, keys, bits, dtype=torch.float64, device=weights_MJ.device)
    packed_K = torch.tensor([philox.packed(s) for s in streams], dtype=torch.int64, device=weights_MJ.device)
    grid = (tiles * splits,)
    _projection_kernel[grid](
        out_SMKB, weights_MJ, packed_K, suspects, rows, bits, keys, splits, max(1, ceil_div(blocks, splits)),
        weights_MJ.stride(0), weights_MJ.stride(1), SIGN=kind == "sign", SUSPECTS=SUSPECTS, COLUMNS=COLUMNS,
    )  # fmt: skip
    return out_SMKB.sum(0)


BUILDS = tuple(
    Build(
        _projection_kernel,
        {
            **dict.fromkeys(("suspects", "rows", "bits", "key_count", "splits", "blocks_a_split"), "i64"),
            **{"out": "*fp64", "weights": f"*{dtype}", "keys": "*i64", "stride_m": "i64", "stride_j": "i64"},
        },
        {"SIGN": sign, "SUSPECTS": SUSPECTS, "COLUMNS": COLUMNS},
        registers=128,
    )
    for dtype in ("fp32", "bf16")
    for sign in (True, False)
)


def projections(weights_MJ: Tensor, streams: Sequence[Stream], bits: int, kind: Kind) -> Tensor:
    """w X of every suspect and key, (M, K, B) float64. Beside the result at most 64 MB, whatever J, K and B."""
    _check_weights(weights_MJ)
    if kind not in ROWS or bits < 0:
        raise ValueError(f"expected kind sign or normal and bits >= 0, got {kind!r} and {bits}")
    if on_gpu(weights_MJ):
        return projections_triton(weights_MJ, streams, bits, kind)
    out_MC = torch.empty(len(weights_MJ), len(streams) * bits, dtype=torch.float64)
    step = max(COLUMNS_AT_ONCE, ELEMENTS_AT_ONCE // max(1, weights_MJ.shape[1]))
    for start in range(0, out_MC.shape[1], step):
        columns = range(start, min(start + step, out_MC.shape[1]))
        out_MC[:, columns.start : columns.stop] = _columns_on_cpu(weights_MJ, streams, bits, columns, kind)
    return out_MC.reshape(len(weights_MJ), len(streams), bits)


def _columns_on_cpu(
    weights_MJ: Tensor, streams: Sequence[Stream], bits: int, columns: range, kind: Kind
) -> Tensor:
    """(M, columns) float64, ROWS_AT_ONCE rows at a time; the columns of all keys follow each other. For signs the matrix holds
    bits: w (2 bits - 1)."""
    suspects, rows = weights_MJ.shape
    sums_MC = torch.zeros(suspects, len(columns), dtype=torch.float64)
    for start in range(0, rows, ROWS_AT_ONCE):
        part_MJ = weights_MJ[:, start : start + ROWS_AT_ONCE].to(torch.float64)
        blocks = range(start // ROWS[kind], ceil_div(start + part_MJ.shape[1], ROWS[kind]))
        words_CW = _words_of_columns(streams, bits, columns, blocks)
        if kind == "sign":
            x_CJ = torch.from_numpy(philox.bits_of(words_CW)).to(torch.float64)[:, : part_MJ.shape[1]]
            sums_MC.add_(part_MJ @ x_CJ.T, alpha=2).sub_(part_MJ.sum(1, keepdim=True))
        else:
            x_CJ = philox.normals_of(words_CW).reshape(len(columns), -1)[:, : part_MJ.shape[1]]
            sums_MC += part_MJ @ x_CJ.to(torch.float64).T
    return sums_MC


def _words_of_columns(
    streams: Sequence[Stream], bits: int, columns: range, blocks: range
) -> NDArray[np.uint32]:
    """(columns, 4 blocks): column b of a key is the part of its stream that begins at block b 2^32."""
    index_C: philox.Words = np.arange(columns.start, columns.stop, dtype=np.uint64)
    block_N: philox.Words = np.arange(blocks.start, blocks.stop, dtype=np.uint64)
    block_CN = (index_C % np.uint64(bits) << np.uint64(32))[:, None] + block_N
    first, last = columns.start // bits, (columns.stop - 1) // bits
    key: tuple[Any, Any] = streams[first]
    if first != last:  # small layers: the columns of many keys in one call
        words_K2 = np.array(streams, dtype=np.uint64)[(index_C // np.uint64(bits)).astype(np.int64)]
        key = np.repeat(words_K2[:, 0], len(block_N)), np.repeat(words_K2[:, 1], len(block_N))
    return philox.words_at(key, block_CN.reshape(-1)).reshape(len(columns), -1)


def projection_matches(
    weights_MJ: Tensor, streams: Sequence[Stream], expected_KB: Tensor, kind: Kind
) -> Tensor:
    """(M, K) int64: how many bits [w X > 0] equal the expected ones (0 or 1). ValueError for weights that are not finite: their
    projection has no sign. At most 128 MB of sums, whatever M, K and B."""
    if expected_KB.ndim != 2 or len(expected_KB) != len(streams):
        raise ValueError(
            f"expected_KB: expected a row of bits for each of {len(streams)} keys, got {tuple(expected_KB.shape)}"
        )
    on_gpu(weights_MJ, expected_KB)
    out_MK = torch.empty(len(weights_MJ), len(streams), dtype=torch.int64, device=weights_MJ.device)
    step = max(1, SUMS_AT_ONCE // max(1, len(weights_MJ) * expected_KB.shape[1]))
    for start in range(0, len(streams), step):
        part = slice(start, start + step)
        sums_MKB = projections(weights_MJ, streams[part], expected_KB.shape[1], kind)
        out_MK[:, part] = ((sums_MKB > 0) == expected_KB[part].bool()).sum(-1)
    return out_MK


def _check_weights(weights_MJ: Tensor) -> None:
    if weights_MJ.ndim != 2 or not weights_MJ.is_floating_point():
        raise ValueError(
            f"weights_MJ: expected a matrix of floats, got {weights_MJ.dtype} of shape {tuple(weights_MJ.shape)}"
        )
    if not torch.isfinite(weights_MJ).all():
        raise ValueError("weights_MJ: expected finite weights, got NaN or infinite ones")

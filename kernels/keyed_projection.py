"""Weights against secret projections that are never materialised: the matrix X of a key is a function of its Philox stream,
generated where it is multiplied, and a bit is [w X > 0].

Layout, for ever: column b of X is the part of the key's stream that begins at block b 2^32, by row:
  sign    X[j, b] = sign j of that part: one bit each, so a block feeds 128 rows
  normal  X[j, b] = normal j of that part (Uchida et al., ICMR 2017): a block feeds 4 rows
So a longer layer or a longer message extends X and changes nothing in it, and rows of weights 0 add nothing: segments of
different lengths (layers of other architectures) are scored together, padded with zeros.

Sums are float64, off by J 2^-53 sum |w| at most in any order: where |w X| is more, the bit is exact. On the CPU the bits of signs
come from float32 products, and each that their rounding could have turned is summed again in float64.

Bytes and operations: M J weights of 4 bytes are read once per key and tile of bits, M K B sums of 8 bytes are written. An
element of X costs 0.8 integer operations (sign; 25 for a normal, and 1/2 log and 1 cosine in float64), 4 to unpack, and M
float64 multiply-adds. For J = 2.4 M, B = 256, M = K = 1: 0.6 G elements, 3 G integer operations and 0.6 G multiply-adds,
0.18 ms on an H200 (16.7 T integer operations/s; 17 T float64 multiply-adds/s run beside them), where the matrix alone would be
2.4 GB written and read, 1 ms. Operations are the floor. CPU, one core of an EPYC: 0.4 ns an element for the words of signs, 0.3 to
unpack them, M/35 to multiply in float32 (M/16 in float64); 20 ns for normals, 8 of them for their words.

Suffixes: M suspects, J weights, K keys, B bits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import philox
from .lang import Build, ceil_div, jit, on_gpu, tl
from .projection_columns import (
    PRODUCT_ROWS,
    ROWS,
    Columns,
    Kind,
    Stream,
    expect_weights,
    float32_error,
    steps,
)

FEW_PAIRS = 24  # sums in float64 cost so much more each by pairs than in a product of all suspects
SUMS_AT_ONCE = 2**23  # 64 MB of float64 sums in flight, over keys and splits of J
SUSPECTS = {"sign": (1, 4), "normal": (1, 8)}  # of a program: one alone, or so many at a time
COLUMNS = 128  # of a program, one a thread
PROGRAMS = 2048  # J is split until so many programs run: 132 multiprocessors with 16 each
WEIGHTS_AT_ONCE = 2**23  # in float64 on a GPU: 64 MB


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
    weight_M = tl.load(weights_M + row * stride, mask=row < rows_M, other=0.0)
    return sums_MB + weight_M[:, None] * x_B[None, :]


@jit
def _add_signs(sums_MB, word_B, weights_M, rows_M, first, stride):
    """32 rows of signs, the bits of one word for each column: where a bit is 0, the weight's sign bit is turned."""
    for octet in range(4):
        for i in tl.static_range(8):  # pyright: ignore
            row = first + 8 * octet + i
            weight_M = tl.load(weights_M + row * stride, mask=row < rows_M, other=0.0)
            turned_B = ((~word_B << (31 - i)) & 0x80000000).to(tl.uint64) << 32
            signed_MB = weight_M.to(tl.uint64, bitcast=True)[:, None] ^ turned_B[None, :]
            sums_MB += signed_MB.to(tl.float64, bitcast=True)
        word_B >>= 8
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
    """(M, K, B) float64. Memory: WEIGHTS_AT_ONCE weights, or one suspect's, in float64 (a thread that converted them itself would
    do nothing else), and the result times the splits of J, of which there are more than one only where it is small."""
    out_MKB = weights_MJ.new_empty(len(weights_MJ), len(streams), bits, dtype=torch.float64)
    step = max(1, WEIGHTS_AT_ONCE // max(1, weights_MJ.shape[1]))
    packed_K = torch.tensor([philox.packed(s) for s in streams], dtype=torch.int64, device=weights_MJ.device)
    for start in range(0, len(out_MKB) if out_MKB.numel() else 0, step):
        part_MJ = weights_MJ[start : start + step].to(torch.float64)
        out_MKB[start : start + step] = _launched(part_MJ, packed_K, bits, kind)
    return out_MKB


def _launched(weights_MJ: Tensor, packed_K: Tensor, bits: int, kind: Kind) -> Tensor:
    (suspects, rows), keys = weights_MJ.shape, len(packed_K)
    some = SUSPECTS[kind][suspects > 1]
    tiles, blocks = ceil_div(suspects, some) * keys * ceil_div(bits, COLUMNS), ceil_div(rows, ROWS[kind])
    splits = max(1, min(ceil_div(PROGRAMS, tiles), blocks))
    out_SMKB = weights_MJ.new_empty(splits, suspects, keys, bits)
    grid = (tiles * splits,)
    _projection_kernel[grid](
        out_SMKB, weights_MJ, packed_K, suspects, rows, bits, keys, splits, max(1, ceil_div(blocks, splits)),
        weights_MJ.stride(0), weights_MJ.stride(1), SIGN=kind == "sign", SUSPECTS=some, COLUMNS=COLUMNS,
    )  # fmt: skip
    return out_SMKB.sum(0)


BUILDS = tuple(
    Build(
        _projection_kernel,
        {
            **dict.fromkeys(("suspects", "rows", "bits", "key_count", "splits", "blocks_a_split"), "i64"),
            **{"out": "*fp64", "weights": "*fp64", "keys": "*i64", "stride_m": "i64"},
        },
        {"stride_j": 1, "SIGN": kind == "sign", "SUSPECTS": suspects, "COLUMNS": COLUMNS},
        registers=128,
    )
    for kind in SUSPECTS
    for suspects in SUSPECTS[kind]
)


def projections(weights_MJ: Tensor, streams: Sequence[Stream], bits: int, kind: Kind) -> Tensor:
    """w X of every suspect and key, (M, K, B) float64. Beside the result at most 64 MB, whatever J, K and B."""
    expect_weights(weights_MJ)
    if kind not in ROWS or bits < 0:
        raise ValueError(f"expected kind sign or normal and bits >= 0, got {kind!r} and {bits}")
    if on_gpu(weights_MJ):
        return projections_triton(weights_MJ, streams, bits, kind)
    columns = Columns(streams, bits, kind)
    out_MC = np.empty((len(weights_MJ), len(streams) * bits))
    for index_C in steps(np.arange(out_MC.shape[1]), weights_MJ):
        out_MC[:, index_C] = columns.sums(weights_MJ, index_C, torch.float64).T
    return torch.from_numpy(out_MC).reshape(len(weights_MJ), len(streams), bits)


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
    suspects, (keys, bits) = len(weights_MJ), expected_KB.shape
    out_MK = torch.empty(suspects, keys, dtype=torch.int64, device=weights_MJ.device)
    some_m = max(1, min(suspects, SUMS_AT_ONCE // max(1, bits)))
    some_k = max(1, SUMS_AT_ONCE // max(1, some_m * bits))
    for m in range(0, max(1, suspects), some_m):
        for k in range(0, keys, some_k):
            part = slice(k, k + some_k)
            positive_MKB = _positive(weights_MJ[m : m + some_m], streams[part], bits, kind)
            out_MK[m : m + some_m, part] = (positive_MKB == expected_KB[part].bool()).sum(-1)
    return out_MK


def _positive(weights_MJ: Tensor, streams: Sequence[Stream], bits: int, kind: Kind) -> Tensor:
    """[w X > 0], (M, K, B) bool. On the CPU, sums of signs are float32 where they are further from 0 than that may be off, else
    float64: each by itself, or all suspects with their columns where these are many."""
    is_float64 = kind != "sign" or on_gpu(weights_MJ)
    error_M = np.array(np.inf) if is_float64 else float32_error(weights_MJ, PRODUCT_ROWS)
    if not np.isfinite(error_M).all():
        return projections(weights_MJ, streams, bits, kind) > 0
    columns = Columns(streams, bits, kind)
    out_CM = np.empty((len(streams) * bits, len(weights_MJ)), dtype=np.bool_)
    unsure_CM = np.empty(out_CM.shape, dtype=np.bool_)
    for index_C in steps(np.arange(len(out_CM)), weights_MJ):
        sums_CM = columns.sums(weights_MJ, index_C, torch.float32)
        out_CM[index_C], unsure_CM[index_C] = sums_CM > 0, np.abs(sums_CM) < error_M
    for index_C in steps(np.flatnonzero(unsure_CM.any(1)), weights_MJ):
        column_P, suspect_P = unsure_CM[index_C].nonzero()
        if FEW_PAIRS * len(column_P) < unsure_CM[index_C].size:
            index_P = index_C[column_P]
            out_CM[index_P, suspect_P] = columns.sums_of_pairs(weights_MJ, index_P, suspect_P) > 0
        else:
            out_CM[index_C] = columns.sums(weights_MJ, index_C, torch.float64) > 0
    return torch.from_numpy(out_CM).T.reshape(len(weights_MJ), len(streams), bits)

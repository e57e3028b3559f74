"""Moments and histograms of weights, one pass over any list of tensors: a first look at every layer of many checkpoints.

A row of the result is a tensor, or an output channel of one (an index of axis 0). Suffixes: N rows of the result, R rows of one
tensor or batch, L values of a row, P pieces of rows, W bins with the two outer ones, S columns of a partial result.

Values are float32, bfloat16 or float16, which float64 holds with their fourth powers: nothing overflows, and all arithmetic but
the choice of a bin is in float64. A piece is centred on its own mean, so a mean of 1e6 costs no digit of a standard deviation
of 1; pieces meet in one merge of any number of parts (Chan et al. 1979, Pebay 2008), in a fixed order. NaN and infinities are
counted and left out of the rest. A row without finite values has count 0 and NaN moments.

Histogram: column 0 counts v < lo, column count + 1 counts v >= hi, column 1 + i the others, i = min(floor((v - lo) * scale),
count - 1) by two roundings of float32, the same on every device, where lo, hi and scale = count / (hi - lo) are float32 already.

Cost of V values: 4 V bytes read (2 V in half precision), 56 bytes written per 65,536 values. A value needs about 7 float64
operations and 6 others; its bin, in a pass of its own, about 45 integer ones (ballots instead of atomics). An H200 reads 1.2 T
float32 values/s at 4.8 TB/s and issues 17 T float64 and 34 T other operations/s: memory is the floor of the moments (bfloat16 is
near both), issue that of the histogram, about 0.6 T values/s. CPU: 4 ns a value, 7 ns with its bin, on one core of an EPYC.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import Build, jit, on_gpu, tl
from .moments import SUMS, Bins, Moments, as_rows, merge, sizes
from .moments_cpu import moments_cpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK, WARPS = 1024, 8  # values a step of the Triton kernel, 4 a thread
BINNED = 2048  # values a step of the histogram's, 16 a thread
STEPS = 64  # steps a program: 256 kB read for 56 bytes of moments
GRID = 2**16  # pieces a launch: with 500 bins their counts take 128 MB


def moments_reference(tensors: Sequence[Tensor], bins: Bins | None = None, channels: bool = False) -> Moments:
    """The definition, one row at a time."""
    rows = [row for tensor in tensors for row in (tensor.unbind() if channels and tensor.ndim else (tensor,))]
    table = torch.full((8, len(rows)), torch.nan, dtype=torch.float64)
    counts_NW = torch.zeros(len(rows), bins.count + 2, dtype=torch.int64) if bins else None
    for n, row in enumerate(rows):
        v = row.detach().to("cpu", torch.float64).flatten()
        finite = v[torch.isfinite(v)]
        table[:2, n] = torch.tensor([len(finite), len(v) - len(finite)])
        if len(finite):
            mean = finite.mean().clamp(finite.min(), finite.max())  # the value itself where all are equal
            powers = [((finite - mean) ** power).sum() for power in (2, 3, 4)]
            table[2:, n] = torch.stack((mean, *powers, finite.min(), finite.max()))
        if bins and counts_NW is not None:
            counts_NW[n] = histogram_reference(finite.to(torch.float32), bins)
    mean_N, m2_N, m3_N, m4_N, min_N, max_N = table[2:]
    count_N, nonfinite_N = table[:2].to(torch.int64)
    return Moments(count_N, nonfinite_N, mean_N, m2_N, m3_N, m4_N, min_N, max_N, counts_NW)


def histogram_reference(v_V: Tensor, bins: Bins) -> Tensor:
    """(count + 2,) int64 of finite float32 values."""
    lo, hi, scale = (torch.tensor(edge, dtype=torch.float32) for edge in (bins.lo, bins.hi, bins.scale))
    inner_V = torch.floor((v_V - lo) * scale).clamp(0, bins.count - 1).to(torch.int64)
    bin_V = torch.where(v_V < lo, 0, torch.where(v_V >= hi, bins.count + 1, inner_V + 1))
    return torch.bincount(bin_V, minlength=bins.count + 2)


@jit
def _values(values, start, size, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """A step of a piece in float32. What lies behind the end is left out as NaN is."""
    place = start + tl.arange(0, BLOCK)
    v = tl.load(values + place) if STEPS else tl.load(values + place, mask=place < size, other=float("nan"))
    return v.to(tl.float32)


@jit
def _piece(like, table, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Which piece, its first value and its count. STEPS > 0: it is full, and lies on a boundary of 16 bytes."""
    piece = tl.program_id(0).to(tl.int64)
    values = tl.load(table + 3 * piece).to(like.dtype)
    size = tl.load(table + 3 * piece + 1).to(tl.int32)
    if STEPS:
        values, size = tl.multiple_of(values, 16), BLOCK * STEPS
    return piece, values, size


@jit
def _moments_kernel(like, table, out, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """The moments of one piece, of which the table holds address, count and row."""
    piece, values, size = _piece(like, table, BLOCK, STEPS)
    # Around the mean of the first step that has one: where that is 1/64 of the piece, it is within 8 standard deviations of the
    # piece's mean, so the sums of powers lose four digits at most when they are centred.
    shift, found = tl.full((), 0, tl.float64), tl.full((), 0, tl.int32)
    start = found
    while (found == 0) & (start < size):  # pyright: ignore
        v = _values(values, start, size, BLOCK, STEPS)
        finite = tl.abs(v) < float("inf")
        found = tl.sum(finite.to(tl.int32))
        shift = tl.sum(tl.where(finite, v, 0).to(tl.float64)) / tl.maximum(found, 1)
        start += BLOCK
    count = tl.zeros((BLOCK,), tl.int32)
    t1 = tl.zeros((BLOCK,), tl.float64)
    t2, t3, t4 = t1, t1, t1
    low, high = tl.full((BLOCK,), float("inf"), tl.float32), tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, size, BLOCK):
        v = _values(values, start, size, BLOCK, STEPS)
        finite = tl.abs(v) < float("inf")
        low = tl.minimum(low, tl.where(finite, v, float("inf")))
        high = tl.maximum(high, tl.where(finite, v, float("-inf")))
        count += finite.to(tl.int32)
        d = tl.where(finite, v.to(tl.float64) - shift, 0)
        square = d * d
        t1 += d
        t2 += square
        t3 += square * d
        t4 += square * square
    n = tl.sum(count).to(tl.float64)
    e = tl.sum(t1) / tl.maximum(n, 1)
    t2, t3, t4 = tl.sum(t2), tl.sum(t3), tl.sum(t4)
    tl.store(out + piece * 7, n)
    tl.store(out + piece * 7 + 1, shift + e)
    tl.store(out + piece * 7 + 2, tl.maximum(t2 - n * e * e, 0))
    tl.store(out + piece * 7 + 3, t3 - 3 * e * t2 + 2 * n * e * e * e)
    tl.store(out + piece * 7 + 4, tl.maximum(t4 - 4 * e * t3 + 6 * e * e * t2 - 3 * n * e * e * e * e, 0))
    tl.store(out + piece * 7 + 5, tl.min(low).to(tl.float64))  # pyright: ignore
    tl.store(out + piece * 7 + 6, tl.max(high).to(tl.float64))  # pyright: ignore


@jit
def _bins_kernel(
    like, table, edges, histogram,
    BLOCK: tl.constexpr, STEPS: tl.constexpr, BINS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The histogram of one piece, by wider steps of fewer warps: what each warp adds up costs the same for any number of values."""
    piece, values, size = _piece(like, table, BLOCK, STEPS)
    lo, hi, scale = tl.load(edges), tl.load(edges + 1), tl.load(edges + 2)
    counts = tl.zeros((WIDTH,), tl.int32)
    for start in range(0, size, BLOCK):
        v = _values(values, start, size, BLOCK, STEPS)
        finite = tl.abs(v) < float("inf")
        within = tl.minimum(tl.maximum(tl.where(finite, v, lo), lo), hi)
        inner = tl.minimum((within - lo) * scale, BINS - 1).to(tl.int32)
        bin = tl.where(v < lo, 0, tl.where(v >= hi, BINS + 1, inner + 1))
        counts += tl.histogram(bin, WIDTH, mask=finite)
    tl.store(histogram + piece * WIDTH + tl.arange(0, WIDTH), counts)


def pieces(address: int, shape: Sequence[int], stride: int, size: int, first: int) -> NDArray[np.int64]:
    """(P, 3): address, count and row, from `first` on, of every piece of (R, L) values of `size` bytes, rows `stride` apart."""
    rows, length = shape
    start_C = np.arange(0, length, BLOCK * STEPS, dtype=np.int64)
    row_P, start_P = np.repeat(np.arange(rows, dtype=np.int64), len(start_C)), np.tile(start_C, rows)
    count_P = np.minimum(length - start_P, BLOCK * STEPS)
    return np.stack((address + (row_P * stride + start_P) * size, count_P, first + row_P), 1)


def moments_triton(tensors: Sequence[Tensor], bins: Bins | None = None, channels: bool = False) -> Moments:
    """Full pieces and others of each dtype apart. A tensor whose rows are not contiguous is copied."""
    given = (as_rows(tensor, channels) for tensor in tensors)
    views_RL = [view if view.stride(1) == 1 else view.contiguous() for view in given]
    size_N, firsts = sizes(views_RL)
    like = torch.empty(0, device=tensors[0].device if tensors else "cpu")
    counts_NW = like.new_zeros((len(size_N), bins.count + 2), dtype=torch.int64) if bins else None
    parts, rows = [like.new_empty((0, SUMS), dtype=torch.float64)], [np.empty(0, np.int64)]
    for dtype in DTYPES:
        tables = [np.empty((0, 3), np.int64)]
        for view, first in zip(views_RL, firsts, strict=True):
            if view.dtype == dtype:
                tables.append(pieces(view.data_ptr(), view.shape, view.stride(0), dtype.itemsize, first))
        table_P3 = np.concatenate(tables)
        full_P = (table_P3[:, 1] == BLOCK * STEPS) & (table_P3[:, 0] % 16 == 0)
        for steps, of_P in ((STEPS, full_P), (0, ~full_P)):
            for start in range(0, int(of_P.sum()), GRID):
                some_P3 = table_P3[of_P][start : start + GRID]
                parts.append(_launched(like.to(dtype), some_P3, steps, bins, counts_NW))
                rows.append(some_P3[:, 2])
    row_P = torch.from_numpy(np.concatenate(rows))
    return merge(torch.cat(parts).cpu(), row_P, size_N, None if counts_NW is None else counts_NW.cpu())


def _launched(
    like: Tensor, some_P3: NDArray[np.int64], steps: int, bins: Bins | None, counts_NW: Tensor | None
) -> Tensor:
    """Parts (P, SUMS) of pieces; bins are added to the counts of their rows."""
    table_P3 = torch.from_numpy(some_P3).to(like.device)
    part_PS = like.new_empty((len(table_P3), SUMS), dtype=torch.float64)
    grid = (len(table_P3),)
    _moments_kernel[grid](like, table_P3, part_PS, BLOCK, steps, num_warps=WARPS)
    if bins is not None and counts_NW is not None:
        edges_3 = torch.tensor([bins.lo, bins.hi, bins.scale], dtype=torch.float32, device=like.device)
        width = max(64, 1 << (bins.count + 1).bit_length())
        counts_PW = like.new_empty((len(table_P3), width), dtype=torch.int32)
        tile = BINNED, steps * BLOCK // BINNED, bins.count, width
        _bins_kernel[grid](like, table_P3, edges_3, counts_PW, *tile)
        counts_NW.index_add_(0, table_P3[:, 2], counts_PW[:, : bins.count + 2].to(torch.int64))
    return part_PS


BUILDS = (
    *(
        Build(
            _moments_kernel,
            {"like": like, "table": "*i64", "out": "*fp64"},
            {"BLOCK": BLOCK, "STEPS": steps},
            registers=96,
            warps=WARPS,
        )
        for like, steps in (("*fp32", STEPS), ("*bf16", STEPS), ("*fp16", 0))
    ),
    *(
        Build(
            _bins_kernel,
            {"like": like, "table": "*i64", "edges": "*fp32", "histogram": "*i32"},
            {"BLOCK": BINNED, "STEPS": steps * BLOCK // BINNED, "BINS": bins, "WIDTH": width},
            registers=96,
        )
        for like, steps, bins, width in (
            ("*fp32", STEPS, 64, 128),
            ("*bf16", 0, 64, 128),
            ("*fp16", 0, 500, 512),
        )
    ),
)


def weight_moments(tensors: Sequence[Tensor], bins: Bins | None = None, channels: bool = False) -> Moments:
    """Moments of every tensor of a list, or with `channels` of every index of their axis 0 (a scalar has one), in their order;
    with `bins` their histograms too. float32, bfloat16 and float16, any shape and layout, all on one device."""
    for i, tensor in enumerate(tensors):
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"expected float32, bfloat16 or float16 tensors, got {tensor.dtype} in tensors[{i}]"
            )
    return (moments_triton if on_gpu(*tensors) else moments_cpu)(tensors, bins, channels)

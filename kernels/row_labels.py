"""The answer of every row of logits: the class of the best one, and on request the k best. One read of the logits.

Suffixes: M suspects, U rows (triggers, inputs) of a suspect, C classes, B the k best.

One rule, here and in all that builds on it: the better of two classes has the larger logit, and of equal logits the lower
class. Infinities order as numbers do, and -0 equals +0. A row that holds a NaN has no answer: its label is NO_ANSWER, which no
target equals.

Cost: C logits read, 4 or 8 bytes written a row; 2 comparisons a logit. At 4.8 TB/s an H200 reads 2.4 T bf16 logits/s and makes
some 30 T comparisons/s, so memory is the floor: 4.8e12 / (C x bytes of a logit) rows/s.
CPU, one core of an EPYC: 3.3 G logits/s in float32 rows of 128 256, where torch's argmax reads 0.8 G.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .row_winners import NO_ANSWER, SHORT, label_rows, winners, winners_of_columns

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LANE, LANE_ROWS = (
    10,
    256,
)  # classes that a lane reads (of 10, 3 times faster than many lanes; of 16, 3 times slower); its rows
FEW = 8  # best: more are faster by a sort
CHUNK = 2**17  # logits at a time on the CPU: 512 kB in float32, a core's second-level cache
WIDEST = 2048  # classes at a time in a program: 16 a thread, in two loads of 16 bytes each from bf16
TILE = 1024  # logits at a time of shorter rows: 16 a thread cost 150 registers where the rows share a tile, the k best 250


@dataclass(frozen=True)
class Best:
    """What is left of each row, (M, U) each: its label (int32), the logit of the best class, and logit and class of the k-th
    best, the last of the k. float32, float64 for logits in float64. Without an answer: NO_ANSWER, NaN, NaN, NO_ANSWER."""

    label_MU: Tensor
    first_MU: Tensor
    last_MU: Tensor
    last_class_MU: Tensor


def row_best_reference(logits_MUC: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The definition: classes (M, U, B) int64 and logits (M, U, B) float64 of the `top` best, the best first. Fewer where there
    are fewer classes."""
    value_MUC = logits_MUC.double()
    value_MUB, class_MUB = value_MUC.sort(dim=-1, descending=True, stable=True)  # stable: lower classes first
    bad_MU1 = value_MUC.isnan().any(-1, keepdim=True)
    value_MUB, class_MUB = value_MUB[..., :top], class_MUB[..., :top]
    return class_MUB.masked_fill(bad_MU1, NO_ANSWER), value_MUB.masked_fill(bad_MU1, torch.nan)


@jit
def _start(logits, rows, stride_group, stride_row, ROWS: tl.constexpr):
    """This program's rows: where they begin, whether they exist, where their results go."""
    program = tl.program_id(0).to(tl.int64)
    per_group = tl.cdiv(rows, ROWS)
    group, row = program // per_group, (program % per_group) * ROWS + tl.arange(0, ROWS)
    return logits + group * stride_group + row * stride_row, row < rows, group * rows + row


@jit
def _labels_kernel(
    logits, labels, rows, classes, stride_group, stride_row, stride_class,
    WIDE: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Every lane keeps the best of its own classes, so the rows are reduced once, after the last tile."""
    base, inside, place = _start(logits, rows, stride_group, stride_row, ROWS)
    lane = tl.arange(0, CLASSES)
    best = tl.full((ROWS, CLASSES), float("-inf"), tl.float64 if WIDE else tl.float32)
    which = tl.zeros((ROWS, CLASSES), tl.int32) + lane[None, :]
    for start in range(0, classes, CLASSES):
        column = start + lane
        mask = inside[:, None] & (column < classes)[None, :]
        place_class = (column.to(tl.int64) * stride_class)[None, :]
        value = tl.load(base[:, None] + place_class, mask=mask, other=float("-inf")).to(best.dtype)
        which = tl.where(value > best, column[None, :], which)  # of equal logits the lower, which came first
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    is_number = best <= float("inf")  # false for a NaN alone
    bad = tl.sum((is_number == 0).to(tl.int32), 1)
    winner = tl.max(tl.where(is_number, best, float("-inf")), 1)
    label = tl.min(tl.where(best == tl.expand_dims(winner, 1), which, 0x7FFFFFFF), 1)
    tl.store(labels + place, tl.where(bad != 0, -1, label), mask=inside)


@jit
def _lane_labels_kernel(
    logits, labels, rows, classes, stride_group, stride_row, stride_class, WIDE: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """A lane reads a row of few classes one after another: no lane idles beyond the last class, and nothing is reduced."""
    base, inside, place = _start(logits, rows, stride_group, stride_row, ROWS)
    best = tl.full((ROWS,), float("-inf"), tl.float64 if WIDE else tl.float32)
    which, bad = tl.zeros((ROWS,), tl.int32), tl.zeros((ROWS,), tl.int1)
    for column in range(classes):
        value = tl.load(base + tl.cast(column, tl.int64) * stride_class, mask=inside, other=0).to(best.dtype)
        which = tl.where(value > best, column, which)
        best = tl.maximum(best, value)
        bad |= (tl.abs(value) <= float("inf")) == 0  # false for a NaN alone
    tl.store(labels + place, tl.where(bad, -1, which), mask=inside)


@jit
def _next(value, column, previous, previous_column):
    """Of every row the best pair (logit, class) after the previous one; (-inf, 2^31 - 1) when there is none."""
    after = (value < previous[:, None]) | ((value == previous[:, None]) & (column > previous_column[:, None]))
    best = tl.max(tl.where(after, value, float("-inf")), 1)
    return best, tl.min(tl.where(after & (value == tl.expand_dims(best, 1)), column, 0x7FFFFFFF), 1)


@jit
def _best_kernel(
    logits, labels, firsts, lasts, last_classes, rows, classes, stride_group, stride_row, stride_class,
    TOP: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """A list of the TOP best so far, merged with a tile only if one of its logits belongs there: after the first tiles of a long
    row few do (k ln C of C in random order)."""
    base, inside, place = _start(logits, rows, stride_group, stride_row, ROWS)
    slot = tl.arange(0, SLOTS)[None, :]
    list_v = tl.full((ROWS, SLOTS), float("-inf"), firsts.dtype.element_ty)
    list_c = tl.full((ROWS, SLOTS), 0x7FFFFFFF, tl.int32)
    last_v, last_c = tl.max(list_v, 1), tl.max(list_c, 1)
    bad = tl.zeros((ROWS,), tl.int32)
    for start in range(0, classes, CLASSES):
        column = start + tl.arange(0, CLASSES)
        mask = inside[:, None] & (column < classes)[None, :]
        place_class = (column.to(tl.int64) * stride_class)[None, :]
        value = tl.load(base[:, None] + place_class, mask=mask, other=float("-inf")).to(list_v.dtype)
        column = tl.where(mask, column[None, :], 0x7FFFFFFF)
        bad += tl.sum(((value <= float("inf")) == 0).to(tl.int32), 1)  # false for a NaN alone
        edge_v, edge_c = tl.expand_dims(last_v, 1), tl.expand_dims(last_c, 1)
        better = (value > edge_v) | ((value == edge_v) & (column < edge_c))
        if tl.sum(tl.sum(better.to(tl.int32), 1), 0) != 0:
            last_v, last_c = tl.full((ROWS,), float("inf"), list_v.dtype), tl.full((ROWS,), -1, tl.int32)
            merged_v, merged_c = list_v, list_c
            for i in range(TOP):
                tile_v, tile_c = _next(value, column, last_v, last_c)
                last_v, last_c = _next(list_v, list_c, last_v, last_c)
                take = (tile_v > last_v) | ((tile_v == last_v) & (tile_c < last_c))
                last_v, last_c = tl.where(take, tile_v, last_v), tl.where(take, tile_c, last_c)
                merged_v = tl.where(slot == i, last_v[:, None], merged_v)
                merged_c = tl.where(slot == i, last_c[:, None], merged_c)
            list_v, list_c = merged_v, merged_c
    none, first = bad > 0, tl.max(list_v, 1)
    label = tl.min(tl.where(list_v == tl.expand_dims(first, 1), list_c, 0x7FFFFFFF), 1)
    tl.store(labels + place, tl.where(none, -1, label), mask=inside)
    tl.store(firsts + place, tl.where(none, float("nan"), first), mask=inside)
    tl.store(lasts + place, tl.where(none, float("nan"), last_v), mask=inside)
    tl.store(last_classes + place, tl.where(none, -1, last_c), mask=inside)


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def even(logits_MUC: Tensor) -> Tensor:
    """The same rows as one group (1, M x U, C) where they lie evenly in memory, else unchanged. Never a copy."""
    rows, (stride_group, stride_row, _) = logits_MUC.shape[1], logits_MUC.stride()
    return logits_MUC.flatten(0, 1)[None] if stride_group == rows * stride_row else logits_MUC


def _layout(logits_MUC: Tensor) -> tuple[tuple[int, ...], dict[str, int], tuple[int]]:
    """rows of a group, classes and strides; the tile; the grid."""
    groups, rows, classes = logits_MUC.shape
    width = min(WIDEST, 1 << (classes - 1).bit_length())
    tile = {"ROWS": max(1, TILE // width), "CLASSES": width}
    return (rows, classes, *logits_MUC.stride()), tile, (groups * ceil_div(rows, tile["ROWS"]),)


def row_labels_triton(logits_MUC: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """(M, U) labels of that integer dtype."""
    labels_MU = torch.empty(logits_MUC.shape[:2], dtype=dtype, device=logits_MUC.device)
    if labels_MU.numel():
        logits_GRC, wide = even(logits_MUC), logits_MUC.dtype == torch.float64
        numbers, tile, grid = _layout(logits_GRC)
        if logits_GRC.shape[2] <= LANE:
            grid = (logits_GRC.shape[0] * ceil_div(logits_GRC.shape[1], LANE_ROWS),)
            _lane_labels_kernel[grid](logits_MUC, labels_MU, *numbers, WIDE=wide, ROWS=LANE_ROWS)
        else:
            _labels_kernel[grid](logits_MUC, labels_MU, *numbers, WIDE=wide, **tile)
    return labels_MU


def row_best_triton(logits_MUC: Tensor, top: int) -> Best:
    """`top` in [1, C]."""
    shape, place, wide = logits_MUC.shape[:2], logits_MUC.device, _wide(logits_MUC)
    label_MU, class_MU = (torch.empty(shape, dtype=torch.int32, device=place) for _ in range(2))
    first_MU, last_MU = (torch.empty(shape, dtype=wide, device=place) for _ in range(2))
    if label_MU.numel():
        numbers, tile, grid = _layout(even(logits_MUC))
        tile |= {"TOP": top, "SLOTS": 1 << (top - 1).bit_length()}
        _best_kernel[grid](logits_MUC, label_MU, first_MU, last_MU, class_MU, *numbers, **tile)
    return Best(label_MU, first_MU, last_MU, class_MU)


_TYPES = {"logits": "*bf16", "labels": "*i32", "firsts": "*fp32", "lasts": "*fp32", "last_classes": "*i32"}
_TYPES |= dict.fromkeys(("rows", "stride_group", "stride_row"), "i64") | {"classes": "i32"}
_LONG = {"stride_class": 1, "ROWS": 1, "CLASSES": WIDEST}
_SHORT = {"ROWS": TILE // 16, "CLASSES": 16}
_DOUBLE = {**_TYPES, "logits": "*fp64", "stride_class": "i64"}
BUILDS = (
    Build(_labels_kernel, _TYPES, {"WIDE": False, **_LONG}, registers=80),
    Build(_labels_kernel, _DOUBLE, {"WIDE": True, "ROWS": TILE // 32, "CLASSES": 32}, registers=80),
    Build(_lane_labels_kernel, _TYPES, {"WIDE": False, "stride_class": 1, "ROWS": LANE_ROWS}, registers=64),
    Build(_lane_labels_kernel, _DOUBLE, {"WIDE": True, "ROWS": LANE_ROWS}, registers=64),
    Build(_best_kernel, _TYPES, {"TOP": 5, "SLOTS": 8, **_LONG}, registers=64),
    Build(_best_kernel, _TYPES, {"TOP": 2, "SLOTS": 2, "stride_class": 1, **_SHORT}, registers=128),
)


def expect_logits(logits: Tensor, name: str, dimensions: tuple[int, ...]) -> None:
    """ValueError unless these are logits of one of FLOATS, of so many dimensions, with at least one class."""
    if logits.dtype not in FLOATS or logits.ndim not in dimensions or logits.shape[-1] == 0:
        shapes = " or ".join("(M, U, C)" if n == 3 else "(U, C)" for n in dimensions)
        raise ValueError(
            f"{name}: expected logits {shapes} of 16, 32 or 64 bits with C >= 1, "
            f"got {tuple(logits.shape)} {logits.dtype}"
        )


def blocks(logits_MUC: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows for the CPU, CHUNK logits or one row at a time: which of the M x U they are, and a contiguous (N, C) in float32, or
    float64."""
    wide, logits_GRC = _wide(logits_MUC), even(logits_MUC)
    rows, step = logits_GRC.shape[1], max(1, CHUNK // logits_GRC.shape[2])
    for group, logits_RC in enumerate(logits_GRC):
        for start in range(0, rows, step):
            place = slice(group * rows + start, group * rows + min(start + step, rows))
            yield place, logits_RC[start : start + step].to(wide).contiguous()


def row_labels(logits: Tensor) -> Tensor:
    """int64 labels, (U,) of logits (U, C) or (M, U) of (M, U, C), of any strides and any float dtype. ValueError otherwise, and
    without a class. CPU memory beyond the result: CHUNK logits, or one row, in float32 or float64."""
    expect_logits(logits, "logits", (2, 3))
    logits_MUC = logits.detach() if logits.ndim == 3 else logits.detach()[None]
    labels_MU = row_labels_triton(logits_MUC) if on_gpu(logits) else labels_on_cpu(logits_MUC, torch.int64)
    return labels_MU if logits.ndim == 3 else labels_MU[0]


def labels_on_cpu(logits_MUC: Tensor, dtype: torch.dtype) -> Tensor:
    """(M, U) labels of that integer dtype, which holds C - 1."""
    labels_MU = torch.empty(logits_MUC.shape[:2], dtype=dtype)
    for place, value_NC in blocks(logits_MUC.detach()):
        labels_MU.view(-1)[place] = torch.from_numpy(label_rows(value_NC.numpy()))
    return labels_MU


def row_best(logits_MUC: Tensor, top: int) -> Best:
    """The k best of each row, `top` in [1, C]. CPU memory beyond the result: as `row_labels`, and the k best of its rows."""
    if on_gpu(logits_MUC):
        return row_best_triton(logits_MUC.detach(), top)
    shape, wide = logits_MUC.shape[:2], _wide(logits_MUC)
    label_MU, class_MU = (torch.empty(shape, dtype=torch.int32) for _ in range(2))
    first_MU, last_MU = (torch.empty(shape, dtype=wide) for _ in range(2))
    for place, value_NC in blocks(logits_MUC.detach()):
        value_NB, class_NB = _best_rows(value_NC, top)
        first_MU.view(-1)[place], last_MU.view(-1)[place] = value_NB[:, 0], value_NB[:, -1]
        label_MU.view(-1)[place], class_MU.view(-1)[place] = class_NB[:, 0].int(), class_NB[:, -1].int()
    return Best(label_MU, first_MU, last_MU, class_MU)


def _best_rows(value_NC: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Logits and classes of the k best, (N, B): the best again and again, without those taken; a sort is slower up to a few. Where
    -inf is among the k best, taken and untaken look alike, so there the definition decides."""
    if top > FEW:
        exact_class, exact = row_best_reference(value_NC, top)
        return exact, exact_class
    is_short, row_N = value_NC.shape[1] <= SHORT, np.arange(len(value_NC))
    left = value_NC.numpy().T.copy() if is_short else value_NC.numpy().copy()
    value_NB, class_NB = np.empty((len(row_N), top), left.dtype), np.empty((len(row_N), top), np.int64)
    for b in range(top):
        class_NB[:, b], value_NB[:, b] = winners_of_columns(left) if is_short else winners(left)
        left[(class_NB[:, b], row_N) if is_short else (row_N, class_NB[:, b])] = -np.inf
    unsure_N = np.isnan(value_NB[:, 0]) | np.isneginf(value_NB[:, -1])
    if unsure_N.any():
        exact_class, exact = row_best_reference(value_NC[torch.from_numpy(unsure_N)], top)
        class_NB[unsure_N], value_NB[unsure_N] = exact_class.numpy(), exact.numpy()
    return torch.from_numpy(value_NB), torch.from_numpy(class_NB)

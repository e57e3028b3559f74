"""What the logits of the keys' own targets say: whether each is among the k best of its row, and by what margin it leads or lags.

Suffixes: M suspects, U distinct triggers, C classes, K keys, T triggers of a key, P key lengths.

The second phase of kernels/trigger_hits.py where labels are not enough. The rows were read once (kernels/row_labels.py); with the
k-th best logit of each row and its class, the target's own logit decides alone. Its margin is that logit less the best other one:
less the second best where the target is the best, else less the best. Equal logits, infinite ones too, have margin 0, so no hit
has a negative margin and no miss a positive one. A row with a NaN and a target outside [0, C) have NaN; a class alone has +inf.

Cost: for each of M x K x T one logit, as memory moves it 32 bytes, and 16 bytes of its row's summary; 10 operations. 300 suspects,
1 000 keys of 100 triggers: 0.96 GB of logits, .20 ms at an H200's 4.8 TB/s, unless keys share triggers and the cache serves them;
.3 G operations are .01 ms. So memory is the floor.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .row_labels import Best

CELLS = 2**15  # targets of a suspect at a time on the CPU: 256 kB for each of six arrays
KEYS, TRIGGERS = 16, 32  # of a program at a time: four independent fetches a thread

Values = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]]


def margins_reference(logits_MUC: Tensor, targets_KT: Tensor, index_KT: Tensor) -> Tensor:
    """The definition of the margins: (M, K, T) float64."""
    (suspects, _, classes), value_MKTC = logits_MUC.shape, logits_MUC.double()[:, index_KT]
    is_class_KT = (targets_KT >= 0) & (targets_KT < classes)
    place_MKT1 = targets_KT.where(is_class_KT, 0)[None, :, :, None].expand(suspects, -1, -1, 1).long()
    target_MKT = value_MKTC.gather(-1, place_MKT1)[..., 0]
    other_MKT = value_MKTC.scatter(-1, place_MKT1, -torch.inf).amax(-1)
    margin_MKT = torch.where(target_MKT == other_MKT, 0, target_MKT - other_MKT)
    has_none_MKT = value_MKTC.isnan().any(-1) | ~is_class_KT
    return margin_MKT.masked_fill(has_none_MKT, torch.nan)


@jit
def place(keys, segments, KEYS: tl.constexpr):
    """Which suspects' block, which keys and which segment of the key lengths this program counts. The segments of a block of
    keys follow each other, then the blocks of keys, so that the answers of its suspects stay in the cache."""
    program = tl.program_id(0).to(tl.int64)
    per_suspect = tl.cdiv(keys, KEYS) * segments
    rest = program % per_suspect
    key = (rest // segments) * KEYS + tl.arange(0, KEYS)
    return program // per_suspect, key, rest % segments


@jit
def _logits_kernel(
    logits,
    labels,
    firsts,
    lasts,
    last_classes,
    index,
    targets,
    bounds,
    hits,
    margins,
    rows,
    classes,
    keys,
    segments,
    stride_suspect,
    stride_row,
    stride_class,
    stride_index,
    stride_index_t,
    stride_targets,
    stride_targets_t,
    MARGINS: tl.constexpr,
    KEYS: tl.constexpr,
    TRIGGERS: tl.constexpr,
):
    """One suspect's hits among the k best, or its hits and its summed margins: what needs the target's own logit."""
    suspect, key, segment = place(keys, segments, KEYS)
    count = tl.zeros((KEYS,), tl.int32)
    total = tl.zeros((KEYS,), firsts.dtype.element_ty)
    last = tl.load(bounds + segment + 1)
    for start in range(tl.load(bounds + segment), last, TRIGGERS):
        trigger = start + tl.arange(0, TRIGGERS).to(tl.int64)
        mask = (key < keys)[:, None] & (trigger < last)[None, :]
        target = tl.load(
            targets + key[:, None] * stride_targets + trigger[None, :] * stride_targets_t, mask=mask, other=-1
        )
        row = tl.load(
            index + key[:, None] * stride_index + trigger[None, :] * stride_index_t, mask=mask, other=0
        ).to(tl.int64)
        known = (target >= 0) & (target < classes)
        own = suspect * stride_suspect + row * stride_row + target.to(tl.int64) * stride_class
        value = tl.load(logits + own, mask=known, other=float("nan")).to(total.dtype)
        row += suspect * rows
        second = tl.load(lasts + row, mask=known, other=float("nan"))
        if MARGINS:
            first = tl.load(firsts + row, mask=known, other=float("nan"))
            hit = known & (tl.load(labels + row, mask=known, other=-1) == target)
            other = tl.where(hit, second, first)
            even = (value == other) | (mask == 0)  # inf - inf would be NaN
            total += tl.sum(tl.where(even, 0.0, value) - tl.where(even, 0.0, other), 1)
        else:
            last_class = tl.load(last_classes + row, mask=known, other=-1)
            hit = (value > second) | ((value == second) & (target <= last_class))
        count += tl.sum(hit.to(tl.int32), 1)
    out = (suspect * keys + key) * segments + segment
    tl.store(hits + out, count.to(tl.int64), mask=key < keys)
    if MARGINS:
        tl.store(margins + out, total, mask=key < keys)


def look_up_triton(
    logits_MUC: Tensor, best: Best, targets_KT: Tensor, index_KT: Tensor, bounds: Sequence[int], margins: bool
) -> tuple[Tensor, Tensor]:
    """`look_up` by the kernel; the sums are empty without `margins`."""
    (suspects, *rows_classes), (keys, _) = logits_MUC.shape, targets_KT.shape
    shape = suspects, keys, len(bounds) - 1
    hits_MKP = torch.empty(shape, dtype=torch.int64, device=logits_MUC.device)
    sums_MKP = torch.empty(shape if margins else 0, dtype=best.first_MU.dtype, device=logits_MUC.device)
    if hits_MKP.numel():
        bounds_P = torch.tensor(bounds, device=logits_MUC.device)
        summary = best.label_MU, best.first_MU, best.last_MU, best.last_class_MU
        numbers = *rows_classes, *shape[1:], *logits_MUC.stride(), *index_KT.stride(), *targets_KT.stride()
        grid = (suspects * ceil_div(keys, KEYS) * shape[2],)
        tile = {"MARGINS": margins, "KEYS": KEYS, "TRIGGERS": TRIGGERS}
        tensors = *summary, index_KT, targets_KT, bounds_P, hits_MKP, sums_MKP
        _logits_kernel[grid](logits_MUC, *tensors, *numbers, **tile)
    return hits_MKP, sums_MKP


_LONGS = ("rows", "keys", "segments", "stride_suspect", "stride_row", "stride_index", "stride_targets")
_TYPES = {"logits": "*bf16", "labels": "*i32", "firsts": "*fp32", "lasts": "*fp32", "last_classes": "*i32"}
_TYPES |= {
    "index": "*i64",
    "targets": "*i64",
    "bounds": "*i64",
    "hits": "*i64",
    "margins": "*fp32",
    "classes": "i32",
}
_TYPES |= dict.fromkeys(_LONGS, "i64")
_ONE = {"stride_class": 1, "stride_index_t": 1, "stride_targets_t": 1, "KEYS": KEYS, "TRIGGERS": TRIGGERS}
BUILDS = tuple(
    Build(_logits_kernel, _TYPES, {"MARGINS": margins, **_ONE}, registers=64) for margins in (True, False)
)


def look_up(
    logits_MUC: Tensor, best: Best, targets_KT: Tensor, index_KT: Tensor, bounds: Sequence[int], margins: bool
) -> tuple[Tensor, Tensor]:
    """Hits from each of the P rising bounds to the next, (M, K, P - 1) int64, among the k best; or, with `margins`, of the best
    alone, and the sums of the margins likewise, float32 or float64. `best` then holds the two best."""
    if margins and logits_MUC.shape[-1] == 1:
        best = replace(best, last_MU=torch.full_like(best.last_MU, -torch.inf))
    compute = look_up_triton if on_gpu(logits_MUC) else _look_up_cpu
    return compute(logits_MUC, best, targets_KT, index_KT, bounds, margins)


def _look_up_cpu(
    logits_MUC: Tensor, best: Best, targets_KT: Tensor, index_KT: Tensor, bounds: Sequence[int], margins: bool
) -> tuple[Tensor, Tensor]:
    """`look_up` for one suspect and CELLS targets at a time, or those of a key."""
    (suspects, rows, classes), (keys, triggers) = logits_MUC.shape, targets_KT.shape
    _, stride_row, stride_class = logits_MUC.stride()
    hits_MKP = torch.zeros(suspects, keys, len(bounds) - 1, dtype=torch.int64)
    sums_MKP = torch.zeros(hits_MKP.shape if margins else 0, dtype=best.first_MU.dtype)
    if not triggers:
        return hits_MKP, sums_MKP
    span = (1 + (rows - 1) * stride_row + (classes - 1) * stride_class,)
    step = max(1, CELLS // triggers)
    for k in range(0, keys, step):
        target_KT, row_KT = (given_KT[k : k + step].long().numpy() for given_KT in (targets_KT, index_KT))
        known_KT = (target_KT >= 0) & (target_KT < classes)
        place_KT = torch.from_numpy(row_KT * stride_row + np.where(known_KT, target_KT, 0) * stride_class)
        for m in range(suspects):
            # A suspect's logits as they lie: index_select takes a quarter of the time of an index for each dimension.
            found = logits_MUC[m].as_strided(span, (1,)).index_select(0, place_KT.flatten())
            value_KT = np.where(
                known_KT, found.to(best.first_MU.dtype).numpy().reshape(known_KT.shape), np.nan
            )
            own = Best(best.label_MU[m], best.first_MU[m], best.last_MU[m], best.last_class_MU[m])
            if margins:
                hit_KT, sum_K = _margins(value_KT, target_KT, row_KT, own)
                sums_MKP[m, k : k + step, 0] = torch.from_numpy(sum_K)
            else:
                hit_KT = _among_best(value_KT, target_KT, row_KT, own)
            for p, (a, b) in enumerate(pairwise(bounds)):
                hits_MKP[m, k : k + step, p] = torch.from_numpy(np.count_nonzero(hit_KT[:, a:b], axis=1))
    return hits_MKP, sums_MKP


def _among_best(value_KT: Values, target_KT: Classes, row_KT: Classes, best: Best) -> NDArray[np.bool_]:
    last_KT = best.last_MU.numpy().take(row_KT)
    hit_KT: NDArray[np.bool_] = value_KT > last_KT
    hit_KT |= (value_KT == last_KT) & (target_KT <= best.last_class_MU.numpy().take(row_KT))
    return hit_KT


def _margins(
    value_KT: Values, target_KT: Classes, row_KT: Classes, best: Best
) -> tuple[NDArray[np.bool_], Values]:
    """Hits, and the margins' sums (K,) in float64. A target that is no class has value NaN and no equal label."""
    hit_KT = best.label_MU.numpy().take(row_KT) == target_KT
    hit_KT &= target_KT >= 0
    other_KT = np.where(hit_KT, best.last_MU.numpy().take(row_KT), best.first_MU.numpy().take(row_KT))
    with np.errstate(invalid="ignore"):  # inf - inf
        margin_KT = value_KT - other_KT
        margin_KT[value_KT == other_KT] = 0
        return hit_KT, margin_KT.sum(1, dtype=np.float64)

"""How many of each key's triggers every suspect answers as the key expects: at one or many key lengths, among its k best answers,
and by what margin. The logits are read once for all keys.

Suffixes: M suspects, U distinct triggers over all keys, C classes, K keys, T triggers of a key, P key lengths.

Two phases. kernels/row_labels.py reads every row of logits once and keeps its answer (4 bytes), or the k best's last (16 bytes);
its rule holds here: of equal logits the lower class is the better, and a row with a NaN has no answer and is never a hit. Then
each key looks its triggers up. A target outside [0, C) is no class, so it is never hit and has no margin.

Cost: logits M x U x C x bytes, once; then K x T x 16 bytes of keys and M x K x T x 4 of answers, which stay in the second-level
cache, for 1 comparison each. 300 suspects, 1 000 keys of 100 own triggers, 10 classes in bf16: 600 MB of logits, 0.13 ms at an
H200's 4.8 TB/s; 120 MB written and read again; 30 M comparisons are nothing beside them. Keys that share their triggers read
1 000 times less. Top-k and margins fetch one logit for each suspect, key and trigger besides: 32 bytes each as memory moves them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .lang import Build, ceil_div, jit, on_gpu, tl
from .row_labels import (
    expect_logits,
    labels_on_cpu,
    row_best,
    row_best_reference,
    row_best_triton,
    row_labels_triton,
)
from .row_winners import NO_ANSWER
from .target_logits import look_up, look_up_triton, place

CELLS = 2**18  # answers at a time on the CPU: 256 kB in 8 bits, within a core's second-level cache
SUSPECTS, KEYS, TRIGGERS = 4, 8, 32  # answers at a time in a program


def trigger_hits_reference(
    answers: Tensor, targets_KT: Tensor, index_KT: Tensor, lengths: Sequence[int], top: int = 1
) -> Tensor:
    """The definition: (M, K, P) int64."""
    is_label = not answers.is_floating_point()
    classes_MUB = answers[..., None] if is_label else row_best_reference(answers, top)[0]
    hit_MKTB = (classes_MUB[:, index_KT] == targets_KT[:, :, None]) & (targets_KT >= 0)[:, :, None]
    hit_MKT = hit_MKTB.any(-1)
    return torch.stack([hit_MKT[..., :n].sum(-1) for n in lengths], -1)


@jit
def _hits_kernel(
    labels,
    index,
    targets,
    bounds,
    out,
    suspects,
    keys,
    segments,
    stride_suspect,
    stride_row,
    stride_index,
    stride_index_t,
    stride_targets,
    stride_targets_t,
    SUSPECTS: tl.constexpr,
    KEYS: tl.constexpr,
    TRIGGERS: tl.constexpr,
):
    """Hits between two neighbouring key lengths, so that every trigger is looked up once whatever the number of lengths."""
    block, key, segment = place(keys, segments, KEYS)
    suspect = block * SUSPECTS + tl.arange(0, SUSPECTS)
    inside = (suspect < suspects)[:, None] & (key < keys)[None, :]
    count = tl.zeros((SUSPECTS, KEYS), tl.int32)
    last = tl.load(bounds + segment + 1)
    for start in range(tl.load(bounds + segment), last, TRIGGERS):
        trigger = start + tl.arange(0, TRIGGERS).to(tl.int64)
        mask = (key < keys)[:, None] & (trigger < last)[None, :]
        target = tl.load(
            targets + key[:, None] * stride_targets + trigger[None, :] * stride_targets_t, mask=mask, other=-1
        )
        row = tl.load(
            index + key[:, None] * stride_index + trigger[None, :] * stride_index_t, mask=mask, other=0
        )
        answer = suspect[:, None, None] * stride_suspect + (row.to(tl.int64) * stride_row)[None, :, :]
        label = tl.load(labels + answer, mask=inside[:, :, None] & (target >= 0)[None, :, :], other=-1)
        count += tl.sum(((label == target[None, :, :]) & (label >= 0)).to(tl.int32), 2)
    count_place = (suspect[:, None] * keys + key[None, :]) * segments + segment
    tl.store(out + count_place, count.to(tl.int64), mask=inside)


def trigger_hits_triton(
    answers: Tensor, targets_KT: Tensor, index_KT: Tensor, bounds: Sequence[int], top: int = 1
) -> Tensor:
    """(M, K, P - 1) int64: hits from each of the P rising bounds to the next."""
    if top > 1:
        best = row_best_triton(answers, min(top, answers.shape[-1]))
        return look_up_triton(answers, best, targets_KT, index_KT, bounds, margins=False)[0]
    labels_MU = row_labels_triton(answers, torch.int32) if answers.is_floating_point() else answers
    shape = len(labels_MU), len(targets_KT), len(bounds) - 1
    out_MKP = torch.empty(shape, dtype=torch.int64, device=answers.device)
    if out_MKP.numel():
        bounds_P = torch.tensor(bounds, device=answers.device)
        strides = *labels_MU.stride(), *index_KT.stride(), *targets_KT.stride()
        grid = (ceil_div(shape[0], SUSPECTS) * ceil_div(shape[1], KEYS) * shape[2],)
        tile = {"SUSPECTS": SUSPECTS, "KEYS": KEYS, "TRIGGERS": TRIGGERS}
        _hits_kernel[grid](labels_MU, index_KT, targets_KT, bounds_P, out_MKP, *shape, *strides, **tile)
    return out_MKP


_LONGS = ("suspects", "keys", "segments", "stride_suspect", "stride_row", "stride_index", "stride_targets")
_TYPES = {"labels": "*i32", "index": "*i64", "targets": "*i64", "bounds": "*i64", "out": "*i64"}
_TYPES |= dict.fromkeys(_LONGS, "i64")
_ONE = {"stride_index_t": 1, "stride_targets_t": 1, "SUSPECTS": SUSPECTS, "KEYS": KEYS, "TRIGGERS": TRIGGERS}
BUILDS = (Build(_hits_kernel, _TYPES, _ONE, registers=64),)


def trigger_hits(
    answers: Tensor,
    targets_KT: Tensor,
    index_KT: Tensor | None = None,
    lengths: Sequence[int] | None = None,
    top: int = 1,
) -> Tensor:
    """Hits (M, K) int64; with `lengths` (M, K, P), among the first `lengths[p]` triggers of each key.

    answers: logits (M, U, C), or labels (M, U) of int32 or int64, where a negative one is no answer. index_KT: which of the U are
    the key's triggers; without it all keys have the same T = U. targets_KT: the labels that it expects. top: a hit is a target
    among so many best answers (all classes, where there are fewer). ValueError for other shapes and dtypes, an index outside
    [0, U) (on a GPU this check waits for it) and a length outside [0, T]. CPU memory beyond the result: the labels twice, and
    CELLS answers or those of a key.
    """
    _check(answers, targets_KT, index_KT, top)
    longest = targets_KT.shape[1]
    if lengths and not 0 <= min(lengths) <= max(lengths) <= longest:
        raise ValueError(f"lengths: expected each in [0, {longest}], got {list(lengths)}")
    wanted = [longest] if lengths is None else list(lengths)
    bounds = sorted({0, *wanted})
    if on_gpu(answers):
        parts_MKP = trigger_hits_triton(
            answers.detach(), targets_KT, _or_all(index_KT, targets_KT), bounds, top
        )
    elif top > 1:
        best, index = row_best(answers, min(top, answers.shape[-1])), _or_all(index_KT, targets_KT)
        parts_MKP = look_up(answers.detach(), best, targets_KT, index, bounds, margins=False)[0]
    else:
        labels_MU = _narrow_labels(answers) if answers.is_floating_point() else answers
        parts_MKP = _hits_cpu(labels_MU, targets_KT, index_KT, bounds)
    for p in range(1, parts_MKP.shape[-1]):  # a scan of so short rows takes a GPU longer than all the rest
        parts_MKP[..., p] += parts_MKP[..., p - 1]
    if lengths is None and longest:
        return parts_MKP[..., -1]
    running_MKP = torch.nn.functional.pad(parts_MKP, (1, 0))
    hits_MKP = running_MKP[..., [bounds.index(length) for length in wanted]]
    return hits_MKP[..., 0] if lengths is None else hits_MKP


def hits_and_margins(
    logits_MUC: Tensor, targets_KT: Tensor, index_KT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Hits (M, K) int64 of the best answer, and mean margins (M, K) in float32, float64 for logits in float64.

    A trigger's margin is the logit of its target less the best other one: 0 for equal logits, infinite ones too, so never
    negative on a hit nor positive elsewhere; +inf where there is one class. The mean over the triggers is NaN if any of them has
    no answer or a target outside [0, C), if infinite margins of both signs meet, and of no triggers. Arguments and errors as
    `trigger_hits`; the logits are read once. CPU memory besides: the two best of every row, and CELLS (kernels/target_logits.py)
    margins or those of a key."""
    expect_logits(logits_MUC, "logits_MUC", (3,))
    _check(logits_MUC, targets_KT, index_KT, 1)
    logits, index_KT, bounds = logits_MUC.detach(), _or_all(index_KT, targets_KT), (0, targets_KT.shape[1])
    best = row_best(logits, min(2, logits.shape[-1]))
    hits_MK1, sums_MK1 = look_up(logits, best, targets_KT, index_KT, bounds, margins=True)
    return hits_MK1[..., 0], sums_MK1[..., 0] / bounds[1]


def _check(answers: Tensor, targets_KT: Tensor, index_KT: Tensor | None, top: int) -> None:
    integers = (torch.int32, torch.int64)
    if answers.is_floating_point():
        expect_logits(answers, "answers", (3,))
    elif answers.dtype not in integers or answers.ndim != 2 or top != 1:
        raise ValueError(
            "answers: expected logits (M, U, C), or labels (M, U) of int32 or int64 with top=1, "
            f"got {tuple(answers.shape)} {answers.dtype} with top={top}"
        )
    if top < 1:
        raise ValueError(f"top: expected at least 1, got {top}")
    if targets_KT.ndim != 2 or targets_KT.dtype not in integers:
        raise ValueError(
            f"targets_KT: expected (K, T) int32 or int64, got {tuple(targets_KT.shape)} {targets_KT.dtype}"
        )
    rows = answers.shape[1]
    if index_KT is None:
        on_gpu(answers, targets_KT)
        if targets_KT.shape[1] != rows:
            raise ValueError(
                f"targets_KT: expected (K, {rows}) without index_KT, got {tuple(targets_KT.shape)}"
            )
        return
    on_gpu(answers, targets_KT, index_KT)
    if index_KT.shape != targets_KT.shape or index_KT.dtype not in integers:
        raise ValueError(
            f"index_KT: expected {tuple(targets_KT.shape)} as targets_KT, int32 or int64, "
            f"got {tuple(index_KT.shape)} {index_KT.dtype}"
        )
    if index_KT.numel() and not 0 <= int(index_KT.min()) <= int(index_KT.max()) < rows:
        found = f"{int(index_KT.min())} to {int(index_KT.max())}"
        raise ValueError(f"index_KT: expected each in [0, {rows}), got {found}")


def _or_all(index_KT: Tensor | None, targets_KT: Tensor) -> Tensor:
    if index_KT is not None:
        return index_KT
    return torch.arange(targets_KT.shape[1], device=targets_KT.device).expand(targets_KT.shape)


def _hits_cpu(
    labels_MU: Tensor, targets_KT: Tensor, index_KT: Tensor | None, bounds: Sequence[int]
) -> Tensor:
    """A trigger's answers side by side, one or few bytes each: a key's triggers are looked up by copying rows of M, compared and
    added M at a time. Where the keys' triggers follow each other as the rows do, nothing is copied."""
    label_MU, expected_KT = _narrow(labels_MU, targets_KT)
    (keys, triggers), suspects = expected_KT.shape, len(labels_MU)
    if index_KT is not None and list(bounds) == [0, triggers] and _in_order(index_KT):
        return _hits_in_order(label_MU, expected_KT)
    answer_UM = label_MU.t().contiguous().numpy()
    out_MKP = torch.empty(suspects, keys, len(bounds) - 1, dtype=torch.int64)
    some_m = max(1, CELLS // max(1, triggers))
    some_k = max(1, CELLS // max(1, triggers * min(some_m, suspects)))
    for m in range(0, suspects, some_m):
        part_UM = answer_UM[:, m : m + some_m]
        for k in range(0, keys, some_k):
            found_KTM = part_UM[None] if index_KT is None else part_UM[index_KT[k : k + some_k].numpy()]
            hit_KTM = (found_KTM == expected_KT[k : k + some_k, :, None]).view(np.uint8)
            for p, (a, b) in enumerate(pairwise(bounds)):
                out_MKP[m : m + some_m, k : k + some_k, p] = torch.from_numpy(_count(hit_KTM[:, a:b]).T)
    return out_MKP


def _in_order(index_KT: Tensor) -> bool:
    return torch.equal(index_KT.reshape(-1), torch.arange(index_KT.numel(), dtype=index_KT.dtype))


def _hits_in_order(label_MU: Tensor, expected_KT: NDArray[Any]) -> Tensor:
    """(M, K, 1): row k T + t is trigger t of key k, so a suspect's answers are compared as they lie."""
    keys, triggers = expected_KT.shape
    out_MK = np.zeros((len(label_MU), keys), dtype=np.int64)
    step = max(1, CELLS // max(1, expected_KT.size))
    for m in range(0, len(out_MK), step):
        part_MU = label_MU[m : m + step, : expected_KT.size].numpy()
        hit_MKT = (part_MU.reshape(len(part_MU), keys, triggers) == expected_KT).view(np.uint8)
        hit_NT1 = hit_MKT.reshape(len(part_MU) * keys, triggers, 1)
        out_MK[m : m + step] = _count(hit_NT1).reshape(len(part_MU), keys)
    return torch.from_numpy(out_MK)[..., None]


def _narrow_labels(logits_MUC: Tensor) -> Tensor:
    return labels_on_cpu(logits_MUC, _narrowest(logits_MUC.shape[2]))


def _narrowest(largest: int) -> torch.dtype:
    dtypes = (torch.int8, torch.int16, torch.int32, torch.int64)
    return next(dtype for dtype in dtypes if largest <= torch.iinfo(dtype).max)


def _narrow(labels_MU: Tensor, targets_KT: Tensor) -> tuple[Tensor, NDArray[Any]]:
    """Labels and targets in the smallest dtype that holds the labels: -1 for no answer, -2 for a target no label is."""
    smallest, largest = map(int, labels_MU.aminmax()) if labels_MU.numel() else (0, 0)
    dtype = _narrowest(largest)
    labels_MU = labels_MU if smallest >= NO_ANSWER else labels_MU.clamp(min=NO_ANSWER)
    is_possible_KT = (targets_KT >= 0) & (targets_KT <= largest)
    return labels_MU.to(dtype), targets_KT.where(is_possible_KT, -2).to(dtype).numpy()


def _count(hit_KTM: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(K, M): sums over the triggers, 255 of them in 8 bits, which numpy adds 8 times faster than in 64."""
    out_KM = np.zeros((hit_KTM.shape[0], hit_KTM.shape[2]), dtype=np.int64)
    for t in range(0, hit_KTM.shape[1], 255):
        out_KM += np.add.reduce(hit_KTM[:, t : t + 255], axis=1, dtype=np.uint8)
    return out_KM

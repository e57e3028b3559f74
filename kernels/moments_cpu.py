"""Moments and histograms on the CPU, for kernels/weight_moments.py. Suffixes: N rows of the result, R rows of a batch, L values of
a row, S columns of a partial result, or slots of a histogram."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .moments import SUMS, Bins, Moments, as_rows, batches, merge, sizes

Single = NDArray[np.float32]
Double = NDArray[np.float64]


def moments_cpu(tensors: Sequence[Tensor], bins: Bins | None = None, channels: bool = False) -> Moments:
    """A batch at a time, in about 1 MB. A tensor whose values are not dense in memory is copied first."""
    views_RL = [as_rows(tensor, channels) for tensor in tensors]
    size_N, firsts = sizes(views_RL)
    counts_NS = np.zeros((len(size_N), bins.count + 3), dtype=np.int64) if bins else None
    parts, rows = [np.empty((0, SUMS))], [np.empty(0, dtype=np.int64)]
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinities are no surprise here
        for view_RL, numbers in batches(views_RL, firsts):
            v_RL = np.ascontiguousarray(view_RL.to("cpu", torch.float32).numpy())
            row_R = np.array(numbers)
            part_RS, finite_RL = _summed(v_RL)
            parts.append(part_RS)
            rows.append(row_R)
            if bins and counts_NS is not None:
                _count(_slots(v_RL, part_RS, finite_RL, bins), row_R, counts_NS)
    table_PS, row_P = torch.from_numpy(np.concatenate(parts)), torch.from_numpy(np.concatenate(rows))
    counts_NW = None if counts_NS is None else torch.from_numpy(np.roll(counts_NS, 1, 1)[:, :-1])
    return merge(table_PS, row_P, size_N, counts_NW)


def _summed(v_RL: Single) -> tuple[Double, NDArray[np.bool_] | None]:
    """Parts (R, SUMS), and which values are finite: None for all."""
    d_RL, finite_RL = v_RL.astype(np.float64), None
    count_R, sum_R, low_R, high_R = np.full(len(v_RL), v_RL.shape[1]), d_RL.sum(1), v_RL.min(1), v_RL.max(1)
    if not np.isfinite(sum_R).all():  # of finite float32 values no float64 sum overflows
        finite_RL = np.isfinite(v_RL)
        count_R, sum_R = finite_RL.sum(1), d_RL.sum(1, where=finite_RL)
        low_R = v_RL.min(1, where=finite_RL, initial=np.inf)
        high_R = v_RL.max(1, where=finite_RL, initial=-np.inf)
    mean_R = sum_R / np.maximum(count_R, 1)
    d_RL -= mean_R[:, None]
    if finite_RL is not None:
        d_RL[~finite_RL] = 0
    square_RL = d_RL * d_RL
    powers = np.vecdot(d_RL, d_RL), np.vecdot(square_RL, d_RL), np.vecdot(square_RL, square_RL)
    return np.stack((count_R, mean_R, *powers, low_R, high_R), 1), finite_RL


def _slots(v_RL: Single, part_RS: Double, finite_RL: NDArray[np.bool_] | None, bins: Bins) -> Single:
    """Where each value counts, a whole number: S slots, the inner bins from 0 on, then above, not finite, below."""
    lo, hi = bins.lo, bins.hi
    slot_RL = v_RL - np.float32(lo)
    slot_RL *= np.float32(bins.scale)
    slot_RL.clip(0, bins.count - 1, out=slot_RL)
    np.floor(slot_RL, out=slot_RL)
    if not part_RS[:, 5].min() >= lo:  # comparing all costs as much as all of the above
        slot_RL[v_RL < lo] = bins.count + 2
    if not part_RS[:, 6].max() < hi:
        slot_RL[v_RL >= hi] = bins.count
    if finite_RL is not None:
        slot_RL[~finite_RL] = bins.count + 1
    return slot_RL


def _count(slot_RL: Single, row_R: NDArray[np.int64], counts_NS: NDArray[np.int64]) -> None:
    """Add the values in each slot to the counts of their rows. Pieces of one row are counted two values at a time: half the
    increments, which wait for each other where most values fall into few bins."""
    width = counts_NS.shape[1]
    if row_R[0] == row_R[-1] and slot_RL.size > 2 * width**2 and slot_RL.size % 2 == 0:
        one, other = slot_RL.reshape(2, -1)
        one *= width
        one += other
        pairs_SS = np.bincount(one.astype(np.intp), minlength=width**2).reshape(width, width)
        counts_NS[row_R[0]] += pairs_SS.sum(0) + pairs_SS.sum(1)
    else:
        slot_RL += width * np.arange(len(slot_RL), dtype=np.float32)[:, None]
        found_RS = np.bincount(slot_RL.astype(np.intp).ravel(), minlength=len(slot_RL) * width).reshape(
            -1, width
        )
        np.add.at(counts_NS, row_R, found_RS)

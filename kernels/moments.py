"""What goes into weight_moments and what comes out: tensors as rows, batches of them, bins, moments, and how parts of a row
become the row.

Suffixes: N rows of the result, R rows of one tensor or batch, L values of a row, P parts of rows, W bins with the two outer
ones, S the columns of a part: count, mean, M2, M3, M4, min, max."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
SUMS = 7  # columns of a part
BATCH = 32768  # values at a time on the CPU: two float64 arrays of them fill a second-level cache
PIECE = 8192  # values of a row that are summed as one; from 10,000 on OpenBLAS would split a product among threads
ROWS = 1024  # rows at a time on the CPU: with 500 bins their counts take 4 MB


def as_rows(tensor: Tensor, channels: bool) -> Tensor:
    """(R, L): the whole tensor, or its channels; a view where the layout allows, for within a row memory's order will do."""
    lead = int(channels and tensor.ndim > 0)
    order = sorted(range(lead, tensor.ndim), key=tensor.stride, reverse=True)
    rows = len(tensor) if lead else 1
    return tensor.detach().permute([*range(lead), *order]).reshape(rows, tensor.numel() // max(rows, 1))


def sizes(views_RL: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """(N,) int64, the values of each row; and the first row of each view."""
    rows_V = torch.tensor([len(view) for view in views_RL], dtype=torch.int64)
    length_V = torch.tensor([view.shape[1] for view in views_RL], dtype=torch.int64)
    return length_V.repeat_interleave(rows_V), (rows_V.cumsum(0) - rows_V).tolist()


def batches(views_RL: Sequence[Tensor], firsts: Sequence[int]) -> Iterator[tuple[Tensor, list[int]]]:
    """At most BATCH values of equally long rows, or of equal pieces of one row, with the numbers of their rows in the result.
    Small tensors come together."""
    alike: dict[tuple[torch.dtype, int], list[tuple[Tensor, int]]] = {}
    for view_RL, first in zip(views_RL, firsts, strict=True):
        rows, length = view_RL.shape
        whole = length // PIECE * PIECE
        for row in range(rows if whole else 0):
            for piece_PL in view_RL[row, :whole].unflatten(0, (-1, PIECE)).split(BATCH // PIECE):
                yield piece_PL, [first + row] * len(piece_PL)
        if rows and length > whole:
            rest_RL = view_RL[:, whole:] if whole else view_RL
            alike.setdefault((view_RL.dtype, length - whole), []).append((rest_RL, first))
    for (_, length), parts in alike.items():
        yield from _joined(parts, min(ROWS, BATCH // length))


def _joined(parts: Sequence[tuple[Tensor, int]], most: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Rows of one length, at most `most` at a time; those of a large tensor come as they lie."""
    group: list[Tensor] = []
    numbers: list[int] = []
    for view_RL, first in parts:
        rows = view_RL.shape[0]
        for start in range(0, rows, most):
            stop = min(start + most, rows)
            if len(numbers) + stop - start > most:
                yield torch.cat(group) if len(group) > 1 else group[0], numbers
                group, numbers = [], []
            group.append(view_RL[start:stop] if rows > most else view_RL)
            numbers.extend(range(first + start, first + stop))
    yield torch.cat(group) if len(group) > 1 else group[0], numbers


@dataclass(frozen=True)
class Bins:
    """`count` equal bins over [lo, hi), which are rounded to float32 at once."""

    lo: float
    hi: float
    count: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 500:
            raise ValueError(f"expected 1 to 500 bins, got {self.count}")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            lo, hi = np.float32(self.lo), np.float32(self.hi)
            scale = np.float32(self.count / (np.float64(hi) - np.float64(lo)))
            usable = lo < hi and np.isfinite(hi - lo) and np.isfinite(scale)
        if not usable:
            raise ValueError(f"expected finite lo < hi, apart in float32, got lo={self.lo} and hi={self.hi}")
        object.__setattr__(self, "lo", float(lo))
        object.__setattr__(self, "hi", float(hi))

    @property
    def scale(self) -> float:
        return float(np.float32(self.count / (self.hi - self.lo)))


@dataclass(frozen=True)
class Moments:
    """One row a tensor or channel, on the CPU: int64 counts, the rest float64. m2, m3, m4 are sums of powers of the deviations
    from the mean. histogram_NW is None when no bins were asked for."""

    count_N: Tensor
    nonfinite_N: Tensor
    mean_N: Tensor
    m2_N: Tensor
    m3_N: Tensor
    m4_N: Tensor
    min_N: Tensor
    max_N: Tensor
    histogram_NW: Tensor | None = None

    def __len__(self) -> int:
        return len(self.count_N)

    @property
    def variance_N(self) -> Tensor:
        """With divisor count - 1; NaN below two values."""
        return torch.where(self.count_N > 1, self.m2_N / (self.count_N - 1), torch.nan)

    @property
    def skewness_N(self) -> Tensor:
        """(m3 / n) / (m2 / n)^1.5; NaN where all values are equal."""
        return self.m3_N / self.count_N / (self.m2_N / self.count_N) ** 1.5

    @property
    def kurtosis_N(self) -> Tensor:
        """In excess of the normal's 3: (m4 / n) / (m2 / n)^2 - 3; NaN where all values are equal."""
        return self.m4_N * self.count_N / self.m2_N**2 - 3

    def merged(self, row_N: Tensor, rows: int) -> "Moments":
        """Rows n with equal row_N[n] (int64 in [0, rows)) become one, as if their tensors had been one."""
        if row_N.shape != self.count_N.shape or row_N.dtype != torch.int64:
            raise ValueError(f"expected row_N ({len(self)},) int64, got {tuple(row_N.shape)} {row_N.dtype}")
        size_N, counts_NW = self.count_N + self.nonfinite_N, self.histogram_NW
        if counts_NW is not None:
            counts_NW = counts_NW.new_zeros(rows, counts_NW.shape[1]).index_add_(0, row_N, counts_NW)
        columns = self.mean_N, self.m2_N, self.m3_N, self.m4_N, self.min_N, self.max_N
        parts_NS = torch.stack((self.count_N.to(torch.float64), *columns), 1)
        return merge(parts_NS, row_N, size_N.new_zeros(rows).index_add_(0, row_N, size_N), counts_NW)


def merge(part_PS: Tensor, row_P: Tensor, size_N: Tensor, histogram_NW: Tensor | None) -> Moments:
    """Parts of the rows row_P, those of one row in their order, become rows of size_N values (with those that are not finite):
    powers move from each part's mean to the row's, all at once."""
    keep_P = part_PS[:, 0] > 0
    sorted_P, order_P = torch.sort(row_P[keep_P], stable=True)
    n, mean, m2, m3, m4, low, high = part_PS[keep_P][order_P].T.contiguous().numpy()
    first_R = np.flatnonzero(np.diff(sorted_P.numpy(), prepend=-1))
    of_P = np.repeat(
        np.arange(len(first_R)), np.diff(first_R, append=len(n))
    )  # the row of a part, among those with parts

    def total(terms_P: Floats) -> Floats:
        return np.add.reduceat(terms_P, first_R)

    count_R = total(n)
    mean_R = mean[first_R] + total(n * (mean - mean[first_R][of_P])) / count_R
    d = mean - mean_R[of_P]
    m2_R = total(m2 + n * d * d)
    m3_R = total(m3 + d * (3 * m2 + n * d * d))
    m4_R = total(m4 + d * (4 * m3 + d * (6 * m2 + n * d * d)))
    low_R, high_R = np.minimum.reduceat(low, first_R), np.maximum.reduceat(high, first_R)
    varied_R = low_R < high_R  # the mean of equal values is rounded: they have no deviations all the same
    found_SR = [
        np.where(varied_R, mean_R, low_R),
        *(np.where(varied_R, m, 0) for m in (m2_R, m3_R, m4_R)),
        low_R,
        high_R,
    ]
    rows_R = sorted_P[first_R]
    table_SN = torch.full((SUMS - 1, len(size_N)), torch.nan, dtype=torch.float64)
    table_SN[:, rows_R] = torch.from_numpy(np.stack(found_SR))
    count_N = torch.zeros_like(size_N)
    count_N[rows_R] = torch.from_numpy(count_R).to(torch.int64)
    mean_N, m2_N, m3_N, m4_N, min_N, max_N = table_SN
    return Moments(count_N, size_N - count_N, mean_N, m2_N, m3_N, m4_N, min_N, max_N, histogram_NW)

"""Moments and a histogram of every tensor of a model, against torch's own calls on the same tensors.

"loop" makes the separate calls (mean, var, standardised powers, min, max, isfinite, histc); "eager" shares their deviations and
squares, the fewest passes that torch's calls allow; both in float32 and one tensor at a time, as there is no call for a list."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from assay.kernels.moments import Bins
from assay.kernels.weight_moments import weight_moments
from kernels import Case, Way

BINS = Bins(-0.25, 0.25, 64)  # five standard deviations


def shared(w: Tensor) -> tuple[Tensor, ...]:
    """Count of what is not finite, mean, variance, skewness, kurtosis, min, max, histogram."""
    w = w.float()
    low, high = torch.aminmax(w)
    mean = w.mean()
    d = w - mean
    square = d * d
    variance = square.mean()
    skewness, kurtosis = (square * d).mean() / variance**1.5, (square * square).mean() / variance**2 - 3
    counts_H = torch.histc(w, BINS.count, BINS.lo, BINS.hi)
    return (~torch.isfinite(w)).sum(), mean, variance, skewness, kurtosis, low, high, counts_H


def separate(w: Tensor) -> tuple[Tensor, ...]:
    w = w.float()
    mean, variance = w.mean(), w.var()
    skewness, kurtosis = (((w - mean) / variance.sqrt()) ** power for power in (3, 4))
    counts_H = torch.histc(w, BINS.count, BINS.lo, BINS.hi)
    bad = (~torch.isfinite(w)).sum()
    return bad, mean, variance, skewness.mean(), kurtosis.mean() - 3, w.min(), w.max(), counts_H


def check(way: Callable[[Tensor], tuple[Tensor, ...]], tensors: Sequence[Tensor]) -> None:
    ours = weight_moments(tensors, BINS)
    columns = (
        ours.nonfinite_N,
        ours.mean_N,
        ours.variance_N,
        ours.skewness_N,
        ours.kurtosis_N,
        ours.min_N,
        ours.max_N,
    )
    assert ours.histogram_NW is not None
    for n, tensor in enumerate(tensors):
        *found, counts_H = (value.double().cpu() for value in way(tensor))
        rounding = 10 / max(tensor.numel(), 2) + 1e-3  # divisors n and n - 1; means of 268 M in float32
        for value, column in zip(found, columns, strict=True):
            assert abs(value - column[n]) <= rounding * (1 + abs(value)), (n, value, column[n])
        apart = (counts_H - ours.histogram_NW[n, 1:-1]).abs().sum()
        assert apart <= 2 + 1e-4 * tensor.numel(), apart  # values within rounding of an edge


def ways(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str) -> Mapping[str, Way]:
    tensors = [(torch.randn(shape, device=device) * 0.05).to(dtype) for shape in shapes]
    compiled = torch.compile(shared, dynamic=True)
    forms = {"eager": shared, "compiled": compiled, "loop": separate}
    for form in forms.values():
        check(form, tensors[-3:])
    ours = Way(lambda: weight_moments(tensors, BINS))
    return {"ours": ours, **{name: Way(partial(each, form, tensors)) for name, form in forms.items()}}


def each(form: Callable[[Tensor], tuple[Tensor, ...]], tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    return [form(tensor) for tensor in tensors]


def case(name: str, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> Case:
    values = sum(torch.Size(shape).numel() for shape in shapes)
    width = str(dtype).removeprefix("torch.")
    size = f"{name}: {len(shapes)} tensors, {values / 1e6:.3g} M {width}"
    return Case("weight_moments", size, partial(ways, shapes, dtype), moved=values * dtype.itemsize)


DIGITS = [(16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (64, 512), (64,), (10, 64), (10,)]
BLOCK = [(512, 512), (512,), (2048, 512), (2048,), (512, 2048), (512,)]
WIDE = 16_384 if torch.cuda.is_available() else 4096
CASES = [
    case("100 small networks", 100 * DIGITS),
    case("a transformer", 4 * BLOCK + [(8192, 512)]),
    case("one layer", [(WIDE, WIDE)]),
    case("one layer", [(WIDE, WIDE)], torch.bfloat16),
]

"""Moments of weights on the CPU and in the Triton kernel against the definition, and the definition against scipy."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from assay.kernels import moments as mo
from assay.kernels import weight_moments as wm
from assay.kernels.moments import Bins, Moments
from assay.kernels.moments_cpu import moments_cpu

BINS = Bins(-2.5, 3, 21)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES: list[tuple[int, ...]] = [
    (),
    (1,),
    (7,),
    (31,),
    (129,),
    (1000,),
    (2048,),
    (5, 0),
    (0,),
    (0, 3),
    (31, 257),
]
OF_CHANNELS: list[tuple[int, ...]] = [(), (7,), (31, 1), (5, 0), (0,), (3, 1, 3), (7, 257), (2, 2049)]
Compute = Callable[..., Moments]


@pytest.fixture(params=["cpu", "triton"])
def compute(request: pytest.FixtureRequest, device: str) -> Compute:
    """Both implementations; the launcher gets its tensors on the device of the kernels."""
    if request.param == "cpu":
        return moments_cpu

    def launched(tensors: Sequence[Tensor], *rest: Any) -> Moments:
        return wm.moments_triton([tensor.to(device) for tensor in tensors], *rest)

    return launched


def agree(found: Moments, expected: Moments) -> None:
    """Counts, ends and bins exactly; the others by the sizes of what was added up, which for odd powers is not their sum."""
    for name in ("count_N", "nonfinite_N", "min_N", "max_N"):
        a, b = getattr(found, name), getattr(expected, name)
        assert torch.equal(a.nan_to_num(nan=7), b.nan_to_num(nan=7)), name
        assert a.dtype == b.dtype, name
    assert (found.histogram_NW is None) == (expected.histogram_NW is None)
    if found.histogram_NW is not None and expected.histogram_NW is not None:
        assert torch.equal(found.histogram_NW, expected.histogram_NW)
    deviation = (expected.m2_N / expected.count_N).sqrt()
    reach = torch.maximum(expected.min_N.abs(), expected.max_N.abs())
    scales = {"mean_N": deviation + 1e-3 * reach, "m2_N": expected.m2_N, "m4_N": expected.m4_N}
    scales["m3_N"] = (expected.m2_N * expected.m4_N).sqrt()
    for name, scale in scales.items():
        a, b = getattr(found, name), getattr(expected, name)
        assert torch.equal(a.isnan(), b.isnan()), name
        assert ((a - b).abs() <= 1e-12 * scale).logical_or(b.isnan()).all(), (name, a, b)


def equal(one: Moments, other: Moments) -> bool:
    """To the bit."""
    return all(
        torch.equal(a.view(torch.int64), b.view(torch.int64))
        for name in Moments.__dataclass_fields__
        if (a := getattr(one, name)) is not None and (b := getattr(other, name)) is not None
    )


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.5).to(dtype)


@pytest.mark.parametrize("channels", [False, True], ids=["tensors", "channels"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_shape_equals_the_definition(compute: Compute, dtype: torch.dtype, channels: bool) -> None:
    shapes = OF_CHANNELS if channels else SHAPES
    tensors = [drawn(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    expected = wm.moments_reference(tensors, BINS, channels)
    assert len(expected) == (sum(s[0] if s else 1 for s in shapes) if channels else len(shapes))
    agree(compute(tensors, BINS, channels), expected)


def test_without_bins_there_is_no_histogram(compute: Compute) -> None:
    tensors = [drawn(shape, torch.float32, seed) for seed, shape in enumerate(SHAPES)]
    agree(compute(tensors), wm.moments_reference(tensors))


def test_dtypes_of_one_list_may_differ(compute: Compute) -> None:
    tensors = [drawn((100 + i,), dtype, i) for i, dtype in enumerate([*DTYPES, *DTYPES])]
    agree(compute(tensors, BINS), wm.moments_reference(tensors, BINS))


def test_the_definition_is_what_scipy_computes() -> None:
    w = drawn((5000,), torch.float32)
    found, w64 = wm.moments_reference([w], Bins(-2, 2, 16)), w.double().numpy()
    assert found.mean_N.item() == pytest.approx(w64.mean(), rel=1e-13)
    assert found.variance_N.item() == pytest.approx(w64.var(ddof=1), rel=1e-13)
    assert found.skewness_N.item() == pytest.approx(stats.skew(w64), rel=1e-10)
    assert found.kurtosis_N.item() == pytest.approx(stats.kurtosis(w64), rel=1e-10)
    counts, _ = np.histogram(w64, np.linspace(-2, 2, 17))  # powers of two: the edges are exact
    assert found.histogram_NW is not None
    assert found.histogram_NW[0].tolist() == [(w64 < -2).sum(), *counts, (w64 >= 2).sum()]


@pytest.mark.parametrize("size", [1000, 70_001])
def test_a_large_mean_costs_no_digits(compute: Compute, size: int) -> None:
    """In float32 the squares of 1e6 + noise have no digit of the noise left; even float64 sums of squares keep only four."""
    for mean in (1e6, -1e6):
        w = drawn((size,), torch.float32) + mean
        found, exact = compute([w]), w.double().numpy()
        assert found.mean_N.item() == pytest.approx(exact.mean(), rel=1e-15)
        assert found.variance_N.item() == pytest.approx(exact.var(ddof=1), rel=1e-11)
        assert found.skewness_N.item() == pytest.approx(stats.skew(exact), abs=1e-9)
        assert found.kurtosis_N.item() == pytest.approx(stats.kurtosis(exact), abs=1e-9)


def test_a_mean_that_drifts_along_the_tensor(compute: Compute) -> None:
    """Every piece has another mean: the merge carries what lies between them."""
    w = drawn((3, 10_000), torch.float32) + torch.tensor([[-1e5], [0], [3e4]])
    agree(compute([w, w.flatten()], BINS), wm.moments_reference([w, w.flatten()], BINS))


def test_what_is_not_finite_is_counted_and_left_out(compute: Compute) -> None:
    clean = drawn((11, 91), torch.float32)
    spoilt = clean.clone()
    spoilt[3, 5], spoilt[7], spoilt[9, 1], spoilt[10, 90] = torch.nan, torch.inf, -torch.inf, torch.nan
    tensors = [spoilt, spoilt.to(torch.bfloat16), torch.full((9,), torch.nan), clean]
    for channels in (False, True):
        agree(compute(tensors, BINS, channels), wm.moments_reference(tensors, BINS, channels))
    found, kept = compute([spoilt]), spoilt[torch.isfinite(spoilt)].double()
    assert (found.count_N.item(), found.nonfinite_N.item()) == (11 * 91 - 94, 94)
    assert found.mean_N.item() == pytest.approx(kept.mean().item(), rel=1e-14)
    assert found.max_N.item() == kept.max().item()


def test_nothing_to_measure_is_nan_with_count_0(compute: Compute) -> None:
    found = compute([torch.empty(0), torch.full((3,), torch.inf)], BINS)
    assert found.count_N.tolist() == [0, 0]
    assert found.nonfinite_N.tolist() == [0, 3]
    for name in ("mean_N", "m2_N", "m4_N", "min_N", "max_N", "variance_N", "skewness_N", "kurtosis_N"):
        assert getattr(found, name).isnan().all(), name
    assert found.histogram_NW is not None
    assert found.histogram_NW.sum() == 0
    none = compute([], BINS)
    assert len(none) == 0
    assert none.histogram_NW is not None
    assert none.histogram_NW.shape == (0, 23)


def test_equal_values_have_no_deviations(compute: Compute) -> None:
    """Though the sum of 0.1 over their count is not 0.1."""
    found = compute([torch.full((size,), 0.1) for size in (1, 3, 999, 70_000)])
    assert found.mean_N.tolist() == [np.float32(0.1)] * 4
    assert (found.m2_N == 0).all()
    assert (found.m4_N == 0).all()
    assert found.variance_N.tolist()[1:] == [0, 0, 0]
    assert found.variance_N[0].isnan()
    assert found.kurtosis_N.isnan().all()


def test_the_ends_of_float32_do_not_overflow(compute: Compute) -> None:
    w = torch.tensor([3e38, -3e38, 3e38, 1e-45, -1e-45, 0.0, -0.0])
    bins = Bins(-1e38, 1e38, 10)
    agree(compute([w], bins), wm.moments_reference([w], bins))
    assert torch.isfinite(compute([w]).m4_N).all()
    tiny = torch.tensor([1e-45, 3e-45, 7e-45])
    agree(compute([tiny]), wm.moments_reference([tiny]))


@pytest.mark.parametrize(
    "bins", [Bins(0, 1, 10), Bins(-0.3, 0.7, 33), Bins(-1e-3, 3, 500), Bins(5, 6, 1), Bins(0, 3e-37, 3)]
)
def test_every_neighbour_of_every_edge_counts_as_defined(compute: Compute, bins: Bins) -> None:
    """Ties with an edge, and the floats on either side of it."""
    edges = np.linspace(bins.lo, bins.hi, bins.count + 1).astype(np.float32)
    near = np.stack([np.nextafter(edges, np.float32(-9)), edges, np.nextafter(edges, np.float32(9))])
    w = torch.from_numpy(near)
    agree(compute([w], bins), wm.moments_reference([w], bins))
    counts = wm.moments_reference([w], bins).histogram_NW
    assert counts is not None
    assert counts[0, 0] == (near < bins.lo).sum() >= 1
    assert counts[0, -1] == (near >= bins.hi).sum() >= 2
    assert counts.sum() == w.numel()


@pytest.mark.parametrize("values", [3 * 4096 + 5, 2 * 4096])
def test_full_pieces_and_what_is_left_of_them(
    compute: Compute, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both builds of the kernel; an address that is no multiple of 16 bytes sends a full piece to the other."""
    monkeypatch.setattr(wm, "STEPS", 2)
    base = drawn((values + 1,), torch.float32)
    tensors = [base[:-1], base[1:], base.bfloat16()[1:], base.half()[:-1]]
    agree(compute(tensors, BINS), wm.moments_reference(tensors, BINS))


def layouts(w: Tensor) -> list[Tensor]:
    wide = torch.zeros(*w.shape[:-1], 2 * w.shape[-1])
    wide[..., ::2] = w
    padded = torch.zeros(w.shape[0], w[0].numel() + 3)
    padded[:, 1:-2] = w.flatten(1)
    inner = padded[:, 1:-2].unflatten(1, w.shape[1:])
    return [
        w,
        wide[..., ::2],
        inner,
        w.transpose(0, 1).contiguous().transpose(0, 1),
        w.to(memory_format=torch.channels_last),
    ]


@pytest.mark.parametrize("channels", [False, True], ids=["tensors", "channels"])
def test_layout_does_not_matter(compute: Compute, channels: bool) -> None:
    w = drawn((6, 5, 7, 3), torch.float32)
    tensors = layouts(w)
    agree(compute(tensors, BINS, channels), wm.moments_reference([w] * len(tensors), BINS, channels))
    odd = [
        w.expand(2, *w.shape),
        w.mT,
        w.flatten()[:: -1 if False else 2],
        torch.ones(1).expand(5, 4),
        w.requires_grad_(),
    ]
    agree(compute(odd, BINS, channels), wm.moments_reference(odd, BINS, channels))


def test_dense_tensors_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    w = drawn((6, 5, 7, 3), torch.float32)
    for tensor in (w, w.mT, w.permute(3, 1, 0, 2), w.to(memory_format=torch.channels_last), w[2:, :, :]):
        assert mo.as_rows(tensor, False).untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    for tensor in (w, w.mT, w.to(memory_format=torch.channels_last), w[:, 2:]):
        assert mo.as_rows(tensor, True).untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def test_many_bins_in_one_row_and_many_rows_at_once(compute: Compute) -> None:
    bins = Bins(-3, 3, 500)
    tensors = [drawn((10_003,), torch.float32), drawn((3, 3000), torch.float16, 2)]
    for channels in (False, True):
        some = tensors[channels:]
        agree(compute(some, bins, channels), wm.moments_reference(some, bins, channels))


def test_rows_of_many_lengths_on_the_cpu() -> None:
    """More rows than come at once, rows longer than a piece, and both ways to count."""
    shapes = [(1100, 3), (700, 3), (3, 9000), (2, 32_769), (70_001,), (8191,), (5, 5000)]
    tensors = [drawn(shape, DTYPES[i % 3], i) for i, shape in enumerate(shapes)]
    for bins, channels in itertools.product((BINS, Bins(-1, 1, 4), Bins(-3, 3, 500)), (False, True)):
        some = [tensor for tensor in tensors if tensor.ndim == 2 or not channels]
        agree(moments_cpu(some, bins, channels), wm.moments_reference(some, bins, channels))


def test_results_are_written_whole(compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that torch hands out unset holds garbage here."""
    tensors = [drawn((10_001,), torch.float32), drawn((0,), torch.float32), drawn((31,), torch.float16)]
    expected = compute(tensors, BINS)
    empty, new_empty = torch.empty, Tensor.new_empty

    def poisoned(*arguments: Any, **options: Any) -> Any:
        return empty(*arguments, **options).fill_(113)

    def poisoned_new(self: Tensor, *arguments: Any, **options: Any) -> Any:
        return new_empty(self, *arguments, **options).fill_(113)

    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(Tensor, "new_empty", poisoned_new)
    assert equal(compute(tensors, BINS), expected)


def test_pieces_lie_where_they_should_beyond_2_to_the_31() -> None:
    """Offsets are reckoned in 64 bits on the host; a program sees no more than its piece."""
    base, shape, stride = 0x7F0000000000, (3, 2**33 + 5), 2**34
    table = wm.pieces(base, shape, stride, 2, first=10)
    piece = wm.BLOCK * wm.STEPS
    assert len(table) == 3 * (2**33 // piece + 1)
    assert table[-1].tolist() == [base + 2 * (2 * stride + 2**33), 5, 12]
    assert table[-2].tolist() == [base + 2 * (2 * stride + 2**33 - piece), piece, 12]
    assert table[:, 1].sum() == 3 * (2**33 + 5)
    within = table[table[:, 2] == 11]
    assert (np.diff(within[:, 0]) == 2 * piece).all()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90)), min_size=1, max_size=6),
    st.randoms(),
    st.booleans(),
)
def test_order_of_tensors_orders_rows(shapes: list[tuple[int, int]], random: Any, channels: bool) -> None:
    tensors = [drawn(shape, DTYPES[i % 3], i) for i, shape in enumerate(shapes)]
    order = list(range(len(tensors)))
    random.shuffle(order)
    counts = [shape[0] if channels else 1 for shape in shapes]
    starts = list(itertools.accumulate(counts, initial=0))
    rows = torch.tensor(
        [row for i in order for row in range(starts[i], starts[i] + counts[i])], dtype=torch.int64
    )
    plain, shuffled = (moments_cpu(ts, BINS, channels) for ts in (tensors, [tensors[i] for i in order]))
    picked = Moments(*(getattr(plain, name)[rows] for name in Moments.__dataclass_fields__))
    assert equal(shuffled, picked)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 300), st.integers(0, 2**31), st.sampled_from([1, 2, 7, 64]))
def test_the_size_of_a_batch_changes_no_bit(rows: int, length: int, seed: int, most: int) -> None:
    tensors = [drawn((rows, length), torch.float32, seed), drawn((1, 20_000), torch.float16, seed)]
    expected = moments_cpu(tensors, BINS, True), moments_cpu(tensors, BINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mo, "ROWS", most)
        patch.setattr(mo, "BATCH", mo.PIECE)
        found = moments_cpu(tensors, BINS, True), moments_cpu(tensors, BINS)
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_size_of_a_launch_changes_no_bit(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wm, "STEPS", 1)
    tensors = [drawn((2, 5000), torch.float32).to(device), drawn((9, 31), torch.float32).to(device)]
    expected = wm.moments_triton(tensors, BINS, True)
    monkeypatch.setattr(wm, "GRID", 3)
    assert equal(wm.moments_triton(tensors, BINS, True), expected)


def test_two_runs_are_equal_to_the_bit(compute: Compute) -> None:
    tensors = [drawn((40_000,), torch.float32), drawn((129, 31), torch.bfloat16)]
    assert equal(compute(tensors, BINS), compute(tensors, BINS))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=8), st.integers(1, 3), st.integers(0, 2**31))
def test_merged_rows_are_those_of_one_tensor(lengths: list[int], rows: int, seed: int) -> None:
    parts = [drawn((length,), torch.float32, seed + i) * (i + 1) for i, length in enumerate(lengths)]
    row_N = torch.tensor([i % rows for i in range(len(parts))])
    wholes = [
        torch.cat([p for i, p in enumerate(parts) if i % rows == r] or [torch.empty(0)]) for r in range(rows)
    ]
    agree(moments_cpu(parts, BINS).merged(row_N, rows), wm.moments_reference(wholes, BINS))


def test_channels_merge_to_their_tensors(compute: Compute) -> None:
    tensors = [drawn((17, 40), torch.float32) + 100, drawn((5,), torch.float16), drawn((), torch.float32)]
    row_N = torch.tensor([0] * 17 + [1] * 5 + [2])
    agree(compute(tensors, BINS, True).merged(row_N, 3), wm.moments_reference(tensors, BINS))


def test_the_dispatch_takes_the_cpu_for_cpu_tensors() -> None:
    tensors = [drawn((300,), torch.float32)]
    assert equal(wm.weight_moments(tensors, BINS), moments_cpu(tensors, BINS))


def test_bad_input_is_named() -> None:
    w = torch.ones(3)
    for bad in (torch.ones(3, dtype=torch.int64), w.double(), w.bool()):
        with pytest.raises(ValueError, match=rf"float16 tensors, got {bad.dtype} in tensors\[1\]"):
            wm.weight_moments([w, bad])
    with pytest.raises(ValueError, match="one device"):
        wm.weight_moments([w, w.to("meta")])
    with pytest.raises(ValueError, match=r"expected row_N \(1,\) int64"):
        wm.weight_moments([w]).merged(torch.zeros(2, dtype=torch.int64), 1)


@pytest.mark.parametrize("count", [0, -1, 501])
def test_bins_have_a_sane_count(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 500 bins"):
        Bins(0, 1, count)


@pytest.mark.parametrize(
    ("lo", "hi"),
    [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (-3e38, 3e38), (1, 1 + 1e-9), (0, 1e-44), (0, 1e39)],
)
def test_bins_have_ends_that_float32_holds_apart(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match="expected finite lo < hi"):
        Bins(lo, hi)

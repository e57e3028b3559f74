"""Bits from float32 products: equal to those of float64 sums, whatever float32 loses, on either way to sum again."""

import itertools
import math
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assay.kernels import keyed_projection as kp
from assay.kernels import philox
from assay.kernels import projection_columns as file
from assay.kernels.projection_columns import float32_error

STREAMS = [(0x243F6A88, 0x85A308D3), (7, 0), (2**32 - 1, 2**32 - 1)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matches_by_definition(weights_MJ: Tensor, expected_KB: Tensor) -> Tensor:
    streams = STREAMS[: len(expected_KB)]
    sums_MKB = kp.projections_reference(weights_MJ, streams, expected_KB.shape[1], "sign")
    return ((sums_MKB > 0) == expected_KB.bool()).sum(-1)


def equal(weights_MJ: Tensor, keys: int, bits: int) -> None:
    expected_KB = torch.randint(0, 2, (keys, bits), generator=generator(bits)).byte()
    found = kp.projection_matches(weights_MJ, STREAMS[:keys], expected_KB, "sign")
    assert torch.equal(found, matches_by_definition(weights_MJ, expected_KB))


def lost(suspects: int, rows: int, bits: int) -> Tensor:
    """Whole weights up to 2^22, exact in float64, whose sum with column b of the first key is +-1 for suspect m = b: float32 rounds
    what it adds to partial sums beyond 2^24."""
    draw = generator(suspects)
    weights_MJ = torch.randint(-(2**22), 2**22, (suspects, rows), generator=draw).double()
    x_JB = kp.projection_matrix(STREAMS[0], rows, bits, "sign").double()
    for m in range(suspects):
        x_J = x_JB[:, m % bits]
        weights_MJ[m, : rows // 2] = (
            weights_MJ[m, : rows // 2].abs() * x_J[: rows // 2]
        )  # a large partial sum
        for j in range(rows // 2, rows):  # taken back, each time as much as a weight of 2^22 can
            left = float(weights_MJ[m] @ x_J - weights_MJ[m, j] * x_J[j]) - (1 if m % 2 else -1)
            weights_MJ[m, j] = -max(-(2**23), min(2**23, left)) * x_J[j]
    return weights_MJ


# --- bits


@pytest.mark.parametrize("suspects", [1, 5, 70])
def test_what_float32_loses_is_summed_again(suspects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 suspects with few unsure sums are summed by pairs, fewer in a product; float32 alone is wrong about some."""
    weights_MJ, ways = lost(suspects, 400, 96), set()
    for name in ("sums", "sums_of_pairs"):
        plain = getattr(file.Columns, name)

        def counted(*args: Any, plain: Any = plain, name: str = name) -> Any:
            ways.add((name, *(a for a in args if isinstance(a, torch.dtype))))
            return plain(*args)

        monkeypatch.setattr(file.Columns, name, counted)
    equal(weights_MJ.float(), 1, 96)
    equal(weights_MJ, 2, 96)
    assert ("sums_of_pairs",) in ways if suspects == 70 else ("sums", torch.float64) in ways
    exact = kp.projections_reference(weights_MJ, STREAMS[:1], 96, "sign")
    assert (exact.abs() == 1).sum() >= suspects
    monkeypatch.setattr(kp, "float32_error", lambda weights_MJ, rows: np.zeros(len(weights_MJ)))
    with pytest.raises(AssertionError):
        equal(weights_MJ, 1, 96)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("suspects", "rows", "keys", "bits"), [(1, 1, 1, 1), (3, 31, 3, 129), (40, 700, 2, 7)]
)
def test_odd_shapes_and_dtypes(suspects: int, rows: int, keys: int, bits: int, dtype: torch.dtype) -> None:
    weights_MJ = torch.randn(suspects, rows, generator=generator(rows)).to(dtype)
    equal(weights_MJ, keys, bits)
    equal(weights_MJ.T.contiguous().T, keys, bits)
    equal(weights_MJ[:, ::3], keys, bits)
    equal(weights_MJ[:1].expand(4, -1), keys, bits)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e37, 3e38])
def test_weights_at_the_ends_of_float32(scale: float) -> None:
    draw = generator(1)
    weights_MJ = torch.rand(3, 300, generator=draw).mul(2).sub(1) * torch.tensor(scale)
    assert weights_MJ.isfinite().all()
    equal(weights_MJ, 2, 33)
    equal(torch.cat([weights_MJ, torch.randn(2, 300, generator=draw)]), 2, 33)
    equal(torch.randn(3, 300, generator=draw).double() * 1e200, 2, 33)


def test_layers_of_zeros_are_no_bits_and_cost_no_second_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_MJ = torch.zeros(3, 200)
    weights_MJ[1] = torch.randn(200, generator=generator(0)).abs() + 1
    equal(weights_MJ, 2, 65)
    monkeypatch.setattr(file.Columns, "sums_of_pairs", None)
    expected_KB = torch.zeros(1, 5)
    assert kp.projection_matches(torch.zeros(50, 9), STREAMS[:1], expected_KB, "sign").tolist() == [[5]] * 50


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    largest=st.sampled_from([1, 3, 1000]),
    sizes=st.fixed_dictionaries(
        {
            "TILE": st.sampled_from([1, 128, 1000, 2**17]),
            "PRODUCT_ROWS": st.sampled_from([128, 512]),
            "ROWS_AT_ONCE": st.sampled_from([128, 2**13]),
            "COLUMNS_AT_ONCE": st.integers(1, 300),
            "FEW_PAIRS": st.sampled_from([0, 1, 10**9]),
        }
    ),
)
def test_chunks_and_ways_never_change_a_bit(seed: int, largest: int, sizes: dict[str, int]) -> None:
    """Whole weights, so that sums of 0 abound and float64 is exact; all pairs, none, or as it comes."""
    draw = generator(seed)
    weights_MJ = torch.randint(-largest, largest + 1, (5, 300), generator=draw).float()
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(kp if name == "FEW_PAIRS" else file, name, size)
        equal(weights_MJ, 3, 40)


# --- the error


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=200),
    order=st.randoms(use_true_random=False),
    parts=st.integers(1, 3),
)
def test_no_order_of_float32_sums_is_off_by_more(values: list[float], order: Any, parts: int) -> None:
    """Against exact fractions; added one by one in a random order, and by halves."""
    order.shuffle(values)
    error = float32_error(torch.tensor([values], dtype=torch.float32), len(values))[0]
    total = Fraction(0)
    one_by_one = np.float32(0)
    for value in values:
        total += Fraction(value)
        one_by_one = np.float32(one_by_one + np.float32(value))
    found = [float(one_by_one), float(np.asarray(values, dtype=np.float32).sum())]
    cut = np.array_split(np.asarray(values, dtype=np.float32), parts)
    found.append(math.fsum(float(part.sum(dtype=np.float32)) for part in cut))
    assert all(abs(Fraction(value) - total) <= error for value in found) or math.isinf(error)


def test_the_error_is_small_and_infinite_where_float32_fails() -> None:
    ones = torch.ones(1, 1000)
    assert 512 * 1000 * 2.0**-24 <= float32_error(ones, 512)[0] <= 1.05 * 512 * 1000 * 2.0**-24
    for dtype in DTYPES:
        assert float32_error(ones.to(dtype), 512) == float32_error(ones, 512)
    rows = torch.zeros(5, 4, dtype=torch.float64)
    rows[1, 0], rows[2, 1], rows[3, 2], rows[4] = 2.0**126, 2.0**-99, math.nan, math.inf
    assert float32_error(rows, 512).tolist() == [0, math.inf, math.inf, math.inf, math.inf]
    assert float32_error(torch.zeros(2, 0), 512).tolist() == [0, 0]


def test_the_error_is_the_same_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_MJ = torch.randn(3, 1000, generator=generator(3))
    whole = float32_error(weights_MJ, 512)
    monkeypatch.setattr(file, "PIECE", 100)
    np.testing.assert_allclose(float32_error(weights_MJ, 512), whole, rtol=1e-5)
    weights_MJ[2, 999] = math.nan
    with pytest.raises(ValueError, match="expected finite"):
        file.expect_weights(weights_MJ)


# --- words and elements


def test_words_and_elements_are_those_of_the_streams() -> None:
    index_C = np.array([0, 3, 4, 5, 11])
    words_CW = file.words_of_columns(STREAMS, 4, index_C, range(1, 3))
    for place, column in enumerate(index_C.tolist()):
        stream, first = STREAMS[column // 4], (column % 4) << 32
        assert words_CW[place].tolist() == philox.words_reference(stream, 8, 4 * (first + 1)).tolist()
        for dtype in (torch.float32, torch.float64):
            signs = file.signs_of(words_CW, dtype)[place]
            assert torch.equal(torch.from_numpy(signs), philox.signs(stream, 256, first + 1).to(dtype))
            normals = file.normals_of(words_CW, dtype)[place]
            assert torch.equal(torch.from_numpy(normals), philox.normals(stream, 8, first + 1).to(dtype))


def test_bad_weights_are_refused_before_float32() -> None:
    expected_KB = torch.ones(1, 3)
    for wrong, shown in itertools.product(
        (torch.ones(4), torch.ones(2, 2, 2)), ("expected a matrix of floats",)
    ):
        with pytest.raises(ValueError, match=shown):
            kp.projection_matches(wrong, STREAMS[:1], expected_KB, "sign")


MEASURE = """
import resource, torch
from assay.kernels import keyed_projection as kp
weights_MJ, streams = torch.randn(64, 300_000), [(k, 2) for k in range(2000)]
expected_KB = torch.ones(2000, 256)
kp.projection_matches(weights_MJ[:2, :4096], streams[:2], expected_KB[:2], "sign")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kp.projection_matches(weights_MJ, streams[:1], expected_KB[:1, :16], "sign")
kp.projection_matches(weights_MJ[:2, :1], streams, expected_KB, "sign")
kp.projection_matches(weights_MJ[:, 5:6], streams[:300], expected_KB[:300], "sign")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_stays_bounded_for_many_suspects_weights_and_keys() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256 * 1024

"""Secret projections: every element by its layout, the kernel and the CPU path against the definition, shapes that fit no tile."""

import itertools
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from assay.kernels import keyed_projection as kp
from assay.kernels import philox, projection_columns
from assay.kernels.projection_columns import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
STREAMS = [(0x243F6A88, 0x85A308D3), (0, 0), (2**32 - 1, 2**32 - 1)]
ODD = (1, 7, 31, 129)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def weights(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def close(found: Tensor, expected: Tensor) -> None:
    """float64 sums in another order: relative to the norm of the expected ones."""
    assert (found.shape, found.dtype) == (expected.shape, torch.float64)
    assert (found.cpu() - expected).norm() <= 1e-13 * expected.norm()


def bits(keys: int, count: int) -> Tensor:
    return torch.randint(0, 2, (keys, count), generator=torch.Generator().manual_seed(keys + count)).byte()


# --- the layout


@pytest.mark.parametrize("row", [0, 31, 32, 127, 128, 300])
@pytest.mark.parametrize("column", [0, 1, 130])
def test_an_element_is_a_function_of_its_place(row: int, column: int) -> None:
    """Sign: bit row % 32 of a word of block row // 128 of the column's part; normal: as philox.normals pairs them."""
    stream = STREAMS[0]
    sign = kp.projection_matrix(stream, 301, 131, "sign")[row, column].item()
    words = philox.words_reference(stream, 4, 4 * (column * 2**32 + row // 128)).tolist()
    assert sign == (1 if words[row % 128 // 32] >> row % 32 & 1 else -1)
    normal = kp.projection_matrix(stream, 301, 131, "normal")[row, column].item()
    first = 4 * column * 2**32 + row - row % 2
    u, v = (((word >> 8) + 0.5) / 2**24 for word in philox.words_reference(stream, 2, first).tolist())
    turn = np.sin if row % 2 else np.cos
    assert normal == pytest.approx(np.sqrt(-2 * np.log(u)) * turn(2 * np.pi * v), rel=2**-23, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_layer_or_message_extends_the_matrix(kind: Kind) -> None:
    whole = kp.projection_matrix(STREAMS[0], 140, 20, kind)
    assert torch.equal(kp.projection_matrix(STREAMS[0], 131, 7, kind), whole[:131, :7])
    assert kp.projection_matrix(STREAMS[0], 5, 0, kind).shape == (5, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_has_mean_zero_variance_one_and_independent_columns(kind: Kind) -> None:
    x = kp.projection_matrix(STREAMS[0], 1000, 100, kind).double().numpy()
    error = 4 / np.sqrt(x.size)
    assert abs(x.mean()) < error
    assert (x**2).mean() == pytest.approx(1, abs=2 * error)
    correlation = np.corrcoef(x.T)[np.triu_indices(100, 1)]
    assert stats.kstest(correlation * np.sqrt(1000), "norm").pvalue > 1e-3


# --- sums


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 129), (31, 7), (129, 31), (130, 1)])
def test_the_kernel_equals_the_definition(kind: Kind, rows: int, columns: int, device: str) -> None:
    weights_MJ = weights(5, rows)
    found = kp.projections_triton(weights_MJ.to(device), STREAMS[:2], columns, kind)
    close(found, kp.projections_reference(weights_MJ, STREAMS[:2], columns, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [*itertools.product(ODD, ODD), (2048, 257), (5000, 300)])
def test_the_path_on_the_cpu_equals_the_definition(kind: Kind, rows: int, columns: int) -> None:
    weights_MJ = weights(3, rows)
    found = kp.projections(weights_MJ, STREAMS, columns, kind)
    close(found, kp.projections_reference(weights_MJ, STREAMS, columns, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suspects", [1, 7])
def test_every_dtype_and_number_of_suspects(
    kind: Kind, dtype: torch.dtype, suspects: int, device: str
) -> None:
    weights_MJ = weights(suspects, 10, dtype=dtype)
    expected = kp.projections_reference(weights_MJ, STREAMS[:1], 9, kind)
    close(kp.projections_triton(weights_MJ.to(device), STREAMS[:1], 9, kind), expected)
    close(kp.projections(weights_MJ, STREAMS[:1], 9, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_strides_are_followed(kind: Kind, device: str) -> None:
    base = weights(12, 4)
    for view in (base.T, base.T[::3, ::2], base[:1].expand(3, -1)):
        expected = kp.projections_reference(view.contiguous(), STREAMS[:1], 5, kind)
        close(kp.projections_triton(view.to(device), STREAMS[:1], 5, kind), expected)
        close(kp.projections(view, STREAMS[:1], 5, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_beyond_31_bits(kind: Kind, device: str) -> None:
    """Two suspects 2^31 elements apart in one storage; only the touched pages exist."""
    storage = torch.empty(2**31 + 64, dtype=torch.float16, device=device)
    view = storage.as_strided((2, 5), (2**31, 1))
    view.copy_(weights(2, 5, dtype=torch.float16))
    expected = kp.projections_reference(view.cpu().contiguous(), STREAMS[:1], 5, kind)
    close(kp.projections_triton(view, STREAMS[:1], 5, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 4, 1, 3), (2, 0, 1, 3), (2, 4, 0, 3), (2, 4, 1, 0)])
def test_empty_inputs(kind: Kind, shape: tuple[int, ...], device: str) -> None:
    suspects, rows, keys, columns = shape
    weights_MJ = torch.ones(suspects, rows)
    for found in (
        kp.projections(weights_MJ, STREAMS[:keys], columns, kind),
        kp.projections_triton(weights_MJ.to(device), STREAMS[:keys], columns, kind),
    ):
        assert found.shape == (suspects, keys, columns)
        assert (found == 0).all()
    matches_MK = kp.projection_matches(weights_MJ, STREAMS[:keys], bits(keys, columns), kind)
    assert matches_MK.shape == (suspects, keys)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_wholly_written(kind: Kind, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        return plain(*args, **kwargs).fill_(77)

    weights_MJ = weights(5, 12)
    expected = kp.projections_reference(weights_MJ, STREAMS[:2], 131, kind)
    monkeypatch.setattr(torch, "empty", poisoned)
    close(kp.projections_triton(weights_MJ.to(device), STREAMS[:2], 131, kind), expected)
    close(kp.projections(weights_MJ, STREAMS[:2], 131, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_are_equal_to_the_bit(kind: Kind, device: str) -> None:
    for run in (kp.projections, kp.projections_triton):
        first, second = (run(weights(3, 40).to(device), STREAMS[:1], 31, kind) for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_add_nothing(kind: Kind) -> None:
    """Layers of different lengths are scored together, padded with zeros."""
    short = weights(2, 100)
    padded = torch.nn.functional.pad(short, (0, 200))
    assert torch.allclose(
        kp.projections(padded, STREAMS, 9, kind), kp.projections(short, STREAMS, 9, kind), rtol=1e-13
    )


# --- matches


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_matches_by_hand_whatever_the_order(kind: Kind, data: st.DataObject) -> None:
    """Permuting suspects or keys permutes the result; small whole weights make ties at 0, which are no bit."""
    suspects, rows, columns = (data.draw(st.integers(1, n)) for n in (4, 6, 9))
    values = st.lists(st.integers(-2, 2), min_size=rows, max_size=rows)
    weights_MJ = torch.tensor(
        data.draw(st.lists(values, min_size=suspects, max_size=suspects)), dtype=torch.float32
    )
    expected_KB = bits(3, columns)
    found = kp.projection_matches(weights_MJ, STREAMS, expected_KB, kind)
    sums = kp.projections_reference(weights_MJ, STREAMS, columns, kind)
    by_hand = [
        [
            sum((float(s) > 0) == bool(b) for s, b in zip(sums[m, k], expected_KB[k], strict=True))
            for k in range(3)
        ]
        for m in range(suspects)
    ]
    assert found.tolist() == by_hand
    order, turn = data.draw(st.permutations(range(suspects))), data.draw(st.permutations(range(3)))
    turned = kp.projection_matches(
        weights_MJ[list(order)], [STREAMS[k] for k in turn], expected_KB[list(turn)], kind
    )
    assert torch.equal(turned, found[list(order)][:, list(turn)])


def test_sums_do_not_lose_what_float32_would(device: str) -> None:
    """A sum of weights of 2^24 that leaves 1: whole numbers, so the exact sum is a bit or it is not."""
    x_J = kp.projection_matrix(STREAMS[0], 6, 1, "sign")[:, 0]
    weights_MJ = torch.stack(
        [x_J * torch.tensor([2.0**24, 2.0**24, 1, -(2.0**24), -(2.0**24), s]) for s in (-1, 0)]
    )
    for run in (kp.projections, kp.projections_triton):
        assert run(weights_MJ.to(device), STREAMS[:1], 1, "sign").flatten().tolist() == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_never_change_the_result(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_MJ, expected_KB = weights(7, 700), bits(3, 11)
    whole = kp.projection_matches(weights_MJ, STREAMS, expected_KB, kind)
    sizes = ("SUMS_AT_ONCE", 1), ("ROWS_AT_ONCE", 128), ("ELEMENTS_AT_ONCE", 1), ("COLUMNS_AT_ONCE", 8)
    for name, size in (*sizes, ("COLUMNS_AT_ONCE", 1)):
        monkeypatch.setattr(kp if name == "SUMS_AT_ONCE" else projection_columns, name, size)
        assert torch.equal(kp.projection_matches(weights_MJ, STREAMS, expected_KB, kind), whole)


def test_sums_are_bounded_whatever_the_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many suspects are read some at a time: no call has more sums in flight than SUMS_AT_ONCE."""
    weights_MJ, expected_KB, positive, sums = weights(300, 7), bits(3, 11), kp._positive, []

    def noted(part_MJ: Tensor, streams: Any, count: int, kind: Kind) -> Tensor:
        sums.append(len(part_MJ) * len(streams) * count)
        return positive(part_MJ, streams, count, kind)

    whole = kp.projection_matches(weights_MJ, STREAMS, expected_KB, "sign")
    monkeypatch.setattr(kp, "SUMS_AT_ONCE", 200)
    monkeypatch.setattr(kp, "_positive", noted)
    assert torch.equal(kp.projection_matches(weights_MJ, STREAMS, expected_KB, "sign"), whole)
    assert max(sums) <= 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_matches_half_the_bits(kind: Kind) -> None:
    """Over keys, the matches of any fixed weights are Bin(B, 1/2)."""
    streams = [(k, 1) for k in range(2000)]
    expected_KB = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2000, 32), dtype=np.uint8))
    found = kp.projection_matches(torch.full((1, 33), 0.1), streams, expected_KB, kind)[0].numpy()
    counts = np.bincount(found, minlength=33)[8:25]
    chance = stats.binom.pmf(np.arange(8, 25), 32, 0.5)
    assert counts.sum() >= 1980
    assert stats.chisquare(counts, chance / chance.sum() * counts.sum()).pvalue > 1e-3


MEASURE = """
import resource, torch
from assay.kernels import keyed_projection as kp
weights_MJ, expected_KB = torch.randn(1, 2_400_000), torch.ones(1, 256)
kp.projection_matches(weights_MJ[:, :4096], [(1, 2)], expected_KB, "sign")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kp.projection_matches(weights_MJ, [(1, 2)], expected_KB, "sign")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_stays_bounded_whatever_the_layer() -> None:
    """2.4 M weights x 256 bits: the matrix would be 2.4 GB; kilobytes more than for 4096 weights."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024


# --- bad input


def test_bad_input_names_the_argument() -> None:
    good, expected = torch.ones(2, 4), bits(1, 3)
    stream = STREAMS[:1]
    with pytest.raises(ValueError, match=r"weights_MJ: expected a matrix of floats, got torch\.int64"):
        kp.projections(torch.ones(2, 4, dtype=torch.int64), stream, 3, "sign")
    with pytest.raises(ValueError, match="weights_MJ: expected a matrix"):
        kp.projections(torch.ones(4), stream, 3, "sign")
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="weights_MJ: expected finite"):
            kp.projection_matches(torch.full((1, 4), bad), stream, expected, "sign")
    with pytest.raises(ValueError, match="kind"):
        kp.projections(good, stream, 3, "uniform")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected_KB: expected a row of bits for each of 2 keys"):
        kp.projection_matches(good, STREAMS[:2], expected, "sign")
    with pytest.raises(ValueError, match="one device"):
        kp.projection_matches(good, stream, expected.to("meta"), "sign")

"""Bits of single weights and of differences: the kernel and the CPU path against a loop that anybody can read."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from assay.kernels import difference_matches as dm

ODD = (1, 7, 31, 129)


def draw(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(sum(seed))


def inputs(
    suspects: int, weights: int, keys: int, bits: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights are whole numbers, so that differences tie."""
    generator = draw(suspects, weights, keys, bits)
    weights_MJ = torch.randint(-3, 4, (suspects, weights), generator=generator).to(dtype)
    plus_KB, minus_KB = (torch.randint(0, weights, (keys, bits), generator=generator) for _ in range(2))
    return weights_MJ, plus_KB, minus_KB, torch.randint(0, 2, (keys, bits), generator=generator).byte()


def by_loop(
    weights_MJ: Tensor, plus_KB: Tensor, minus_KB: Tensor | None, expected_KB: Tensor
) -> list[list[int]]:
    out = []
    for row in weights_MJ.double().tolist():
        counts = []
        for k, expected in enumerate(expected_KB.tolist()):
            other = [0.0] * len(expected) if minus_KB is None else [row[j] for j in minus_KB[k].tolist()]
            mine = [row[j] for j in plus_KB[k].tolist()]
            found = [a > b for a, b in zip(mine, other, strict=True)]
            counts.append(sum(f == bool(e) for f, e in zip(found, expected, strict=True)))
        out.append(counts)
    return out


@pytest.mark.parametrize("diff", [True, False])
@pytest.mark.parametrize(("weights", "bits"), [*itertools.product(ODD, ODD), (1000, 300)])
def test_every_path_equals_the_loop(diff: bool, weights: int, bits: int, device: str) -> None:
    weights_MJ, plus_KB, other_KB, expected_KB = inputs(3, weights, 2, bits)
    minus_KB = other_KB if diff else None
    expected = by_loop(weights_MJ, plus_KB, minus_KB, expected_KB)
    assert dm.difference_matches_reference(weights_MJ, plus_KB, minus_KB, expected_KB).tolist() == expected
    assert dm.difference_matches(weights_MJ, plus_KB, minus_KB, expected_KB).tolist() == expected
    moved = [t if t is None else t.to(device) for t in (weights_MJ, plus_KB, minus_KB, expected_KB)]
    found = dm.difference_matches_triton(*moved)  # type: ignore[arg-type]
    assert found.dtype == torch.int64
    assert found.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_and_stride(dtype: torch.dtype, device: str) -> None:
    weights_MJ, *of_keys = inputs(14, 62, 6, 40, dtype)
    weights_MJ, plus_KB, minus_KB, expected_KB = weights_MJ[::2, ::2], *(t[::2, ::2] for t in of_keys)
    plus_KB, minus_KB = plus_KB // 2, minus_KB // 2
    expected = by_loop(weights_MJ, plus_KB, minus_KB, expected_KB)
    found = dm.difference_matches_triton(
        weights_MJ.to(device), plus_KB.to(device), minus_KB.to(device), expected_KB.to(device)
    )
    assert found.tolist() == expected
    assert dm.difference_matches(weights_MJ, plus_KB, minus_KB, expected_KB).tolist() == expected


def test_infinite_and_nan_weights(device: str) -> None:
    """Infinities are ordered; a NaN is not larger than anything, nor is anything larger than it."""
    inf, nan = float("inf"), float("nan")
    weights_MJ = torch.tensor([[inf, -inf, nan, 1.0]])
    plus_KB, minus_KB = torch.tensor([[0, 1, 2, 3, 0, 3]]), torch.tensor([[1, 0, 3, 2, 0, 1]])
    expected_KB = torch.tensor([[1, 0, 0, 0, 0, 1]])
    for run in (dm.difference_matches, dm.difference_matches_triton):
        moved = (weights_MJ.to(device), plus_KB.to(device), minus_KB.to(device), expected_KB.to(device))
        assert run(*moved).tolist() == [[6]]
        assert (
            run(
                moved[0], torch.tensor([[0, 1, 2]]).to(device), None, torch.tensor([[1, 0, 0]]).to(device)
            ).item()
            == 3
        )


@pytest.mark.parametrize(("suspects", "keys", "bits"), [(0, 1, 3), (2, 0, 3), (2, 1, 0)])
def test_empty_inputs(suspects: int, keys: int, bits: int, device: str) -> None:
    weights_MJ, plus_KB, minus_KB, expected_KB = inputs(suspects, 4, keys, bits)
    for run in (dm.difference_matches, dm.difference_matches_triton):
        found = run(weights_MJ.to(device), plus_KB.to(device), minus_KB.to(device), expected_KB.to(device))
        assert found.shape == (suspects, keys)
        assert (found == 0).all()


def test_chunks_and_permutations_never_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_MJ, plus_KB, minus_KB, expected_KB = inputs(7, 31, 5, 31)
    whole = dm.difference_matches(weights_MJ, plus_KB, minus_KB, expected_KB)
    turn, order = torch.randperm(5, generator=draw(1)), torch.randperm(7, generator=draw(2))
    turned = dm.difference_matches(weights_MJ[order], plus_KB[turn], minus_KB[turn], expected_KB[turn])
    assert torch.equal(turned, whole[order][:, turn])
    monkeypatch.setattr(dm, "CELLS_AT_ONCE", 1)
    assert torch.equal(dm.difference_matches(weights_MJ, plus_KB, minus_KB, expected_KB), whole)


class Largest(TorchFunctionMode):
    """The most numbers that any call gives in float64."""

    found = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float64:
            self.found = max(self.found, result.numel())
        return result


def test_memory_depends_neither_on_the_layer_nor_on_the_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dm, "CELLS_AT_ONCE", 100)
    given = inputs(1, 10_000, 2, 31), inputs(200, 31, 2, 31)
    with Largest() as largest:
        for one in given:
            dm.difference_matches(*one)
    assert largest.found <= 100


def test_bad_input_names_the_argument() -> None:
    weights_MJ, plus_KB, minus_KB, expected_KB = inputs(2, 4, 1, 3)
    with pytest.raises(ValueError, match="weights_MJ: expected a matrix of floats"):
        dm.difference_matches(weights_MJ.long(), plus_KB, minus_KB, expected_KB)
    with pytest.raises(ValueError, match=r"plus_KB: expected positions in \[0, 4\), got 4 to 4"):
        dm.difference_matches(weights_MJ, torch.full((1, 3), 4), minus_KB, expected_KB)
    with pytest.raises(ValueError, match="minus_KB: expected positions"):
        dm.difference_matches(weights_MJ, plus_KB, torch.full((1, 3), -1), expected_KB)
    with pytest.raises(ValueError, match="plus_KB: expected int64 positions of shape"):
        dm.difference_matches(weights_MJ, plus_KB[:, :2], minus_KB, expected_KB)
    with pytest.raises(ValueError, match="one device"):
        dm.difference_matches(weights_MJ, plus_KB, minus_KB, expected_KB.to("meta"))

"""The rule of the largest logit: ties, infinities and NaN, in rows that fit no tile, on every path."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from triton.runtime import interpreter

from assay.core.suspects import Suspects
from assay.kernels import row_labels as file
from assay.kernels.row_labels import (
    Best,
    row_best,
    row_best_reference,
    row_best_triton,
    row_labels,
    row_labels_triton,
)
from assay.kernels.trigger_hits import trigger_hits

INF, NAN = math.inf, math.nan
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPES = [(1, 1, 1), (3, 7, 2), (1, 31, 10), (2, 5, 31), (2, 3, 129), (7, 1, 1000), (1, 2, 4999)]
LABELS: dict[str, Callable[[Tensor], Tensor]] = {"cpu": row_labels, "triton": row_labels_triton}
BEST: dict[str, Callable[[Tensor, int], Best]] = {"cpu": row_best, "triton": row_best_triton}
PATHS = ("cpu", "triton")


def where(path: str, device: str) -> str:
    return device if path == "triton" else "cpu"


def drawn(shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Few different values, so that ties abound; some infinities and NaN."""
    draw = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(shape, generator=draw)).round()
    odds = torch.rand(shape, generator=draw) * shape[2]
    logits[odds < 0.1], logits[odds > shape[2] - 0.1] = INF, -INF
    logits[odds.sub(0.5).abs() < 0.1] = NAN
    return logits.to(dtype)


def order_by_loop(row: list[float]) -> list[int]:
    """The rule in Python: larger first, of equal ones the lower class."""
    if any(math.isnan(value) for value in row):
        return [-1] * len(row)
    return sorted(range(len(row)), key=lambda c: (-row[c], c))


def agree(found: Best, logits_MUC: Tensor, top: int) -> None:
    class_MUB, value_MUB = row_best_reference(logits_MUC.cpu(), top)
    wide = torch.float64 if logits_MUC.dtype == torch.float64 else torch.float32
    assert found.first_MU.dtype == found.last_MU.dtype == wide
    assert found.label_MU.dtype == found.last_class_MU.dtype == torch.int32
    assert torch.equal(found.label_MU.cpu().long(), class_MUB[..., 0])
    assert torch.equal(found.last_class_MU.cpu().long(), class_MUB[..., -1])
    for mine, exact in ((found.first_MU, value_MUB[..., 0]), (found.last_MU, value_MUB[..., -1])):
        torch.testing.assert_close(mine.cpu().double(), exact, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 5), (3, 31, 10)])
def test_the_definition_is_the_rule(shape: tuple[int, int, int]) -> None:
    logits_MUC = drawn(shape, torch.float32)
    classes_MUB, values_MUB = row_best_reference(logits_MUC, 3)
    for m, u in itertools.product(*map(range, shape[:2])):
        row = logits_MUC[m, u].tolist()
        assert classes_MUB[m, u].tolist() == order_by_loop(row)[:3]
        for c, value in zip(classes_MUB[m, u].tolist(), values_MUB[m, u].tolist(), strict=True):
            assert math.isnan(value) if c < 0 else value == row[c]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_equal_the_definition(path: str, dtype: torch.dtype, device: str) -> None:
    for shape in SHAPES:
        logits_MUC = drawn(shape, dtype)
        found = LABELS[path](logits_MUC.to(where(path, device)))
        assert (found.shape, found.dtype) == (shape[:2], torch.int64)
        assert torch.equal(found.cpu(), row_best_reference(logits_MUC, 1)[0][..., 0]), shape


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("top", [1, 2, 5, 9])
def test_the_best_equal_the_definition(path: str, dtype: torch.dtype, top: int, device: str) -> None:
    for shape in [(1, 1, 1), (2, 7, 2), (1, 31, 10), (2, 3, 129)]:
        if top <= shape[2]:
            logits_MUC = drawn(shape, dtype)
            agree(BEST[path](logits_MUC.to(where(path, device)), top), logits_MUC, top)


@pytest.mark.parametrize("path", PATHS)
def test_the_best_of_rows_longer_than_a_tile(path: str, device: str) -> None:
    """Ties across tiles, the k best in different tiles, all k of them in the last."""
    logits_MUC = drawn((1, 4, 4999), torch.float32)
    logits_MUC[0, 0] = torch.linspace(-1, 1, 4999)
    logits_MUC[0, 1] = 0
    for top in (2, 3):
        agree(BEST[path](logits_MUC.to(where(path, device)), top), logits_MUC, top)


@pytest.mark.parametrize("path", PATHS)
def test_a_vocabulary_of_128_256(path: str, device: str) -> None:
    logits_MUC = torch.randn(1, 2, 128_256, generator=torch.Generator().manual_seed(0))
    logits_MUC[0, 0, [77, 128_255]] = 9
    logits_MUC[0, 1, 128_255] = 10
    found = LABELS[path](logits_MUC.bfloat16().to(where(path, device)))
    assert found.tolist() == [[77, 128_255]]
    best = BEST[path](logits_MUC.to(where(path, device)), 2)
    agree(best, logits_MUC, 2)
    assert best.last_class_MU[0, 0] == 128_255


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("classes", [4, 17, 2049])
def test_ties_infinities_and_nan(path: str, classes: int, device: str) -> None:
    """Rows of 4 fill lanes, 17 classes leave the short CPU path, 2 049 end in a second tile."""
    last = classes - 1
    rows = {0: torch.zeros(classes), 1: torch.full((classes,), -INF), 2: torch.full((classes,), -INF)}
    rows[2][last] = -6e4
    rows |= {3: torch.zeros(classes), 4: torch.zeros(classes), 5: torch.full((classes,), INF)}
    rows[3][1], rows[3][last] = INF, INF
    rows[4][0], rows[4][1:] = -0.0, 0.0
    rows |= {6: torch.zeros(classes), 7: torch.zeros(classes), 8: torch.full((classes,), NAN)}
    rows[6][last], rows[6][0] = NAN, INF
    rows[7][0] = NAN
    logits_MUC = torch.stack([rows[i] for i in range(9)])[None].to(where(path, device))
    for dtype in DTYPES if classes < 100 else DTYPES[:1]:
        values_MUC = logits_MUC.to(dtype)
        assert LABELS[path](values_MUC).tolist() == [[0, 0, last, 1, 0, 0, -1, -1, -1]]
        agree(BEST[path](values_MUC, 2), values_MUC, 2)
        agree(BEST[path](values_MUC, 3), values_MUC, 3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides(path: str, dtype: torch.dtype, device: str) -> None:
    logits_MUC = drawn((3, 7, 10), dtype).to(where(path, device))
    views = {
        "classes first": logits_MUC.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "every other row": logits_MUC[:, ::2],
        "every third class": logits_MUC[..., 1::3],
        "one suspect for all": logits_MUC[:1].expand(5, -1, -1),
        "one row for all": logits_MUC[:, :1].expand(-1, 4, -1),
        "suspects last": logits_MUC.transpose(0, 1),
        "a corner": logits_MUC[1:, 2:, 3:],
    }
    for name, view in views.items():
        before = view.clone()
        assert torch.equal(LABELS[path](view), LABELS[path](view.contiguous())), name
        agree(BEST[path](view, 2), view, 2)
        torch.testing.assert_close(view, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 1)])
def test_no_rows(path: str, shape: tuple[int, int, int], device: str) -> None:
    logits_MUC = torch.zeros(shape, device=where(path, device))
    assert LABELS[path](logits_MUC).shape == shape[:2]
    assert BEST[path](logits_MUC, 1).last_MU.shape == shape[:2]


@pytest.mark.parametrize("path", PATHS)
def test_every_result_is_written_and_twice_the_same(
    path: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits_MUC = drawn((3, 31, 10), torch.float32).to(where(path, device))
    labels, best = LABELS[path](logits_MUC), BEST[path](logits_MUC, 3)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(77))
    assert torch.equal(LABELS[path](logits_MUC), labels)
    again = BEST[path](logits_MUC, 3)
    for name in ("label_MU", "first_MU", "last_MU", "last_class_MU"):
        mine, other = getattr(best, name), getattr(again, name)
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(chunk=st.integers(1, 700), classes=st.sampled_from([1, 10, 17, 40]), seed=st.integers(0, 99))
def test_the_chunk_changes_nothing_and_bounds_the_memory(chunk: int, classes: int, seed: int) -> None:
    logits_MUC = drawn((4, 13, classes), torch.bfloat16, seed)
    top = min(3, classes)
    whole, best = row_labels(logits_MUC), row_best(logits_MUC, top)
    for view in (logits_MUC, logits_MUC.transpose(0, 1).contiguous().transpose(0, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file, "CHUNK", chunk)
            assert max(part.numel() for _, part in file.blocks(view)) <= max(chunk, classes)
            assert torch.equal(row_labels(view), whole)
            agree(row_best(view, top), logits_MUC, top)
    agree(best, logits_MUC, top)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)), seed=st.integers(0, 99))
def test_permuted_suspects_have_permuted_labels(order: list[int], seed: int) -> None:
    logits_MUC = drawn((6, 5, 10), torch.float32, seed)
    assert torch.equal(row_labels(logits_MUC[order]), row_labels(logits_MUC)[order])


def test_rows_that_lie_evenly_are_never_copied() -> None:
    logits_MUC = torch.zeros(3, 4, 5)
    parts = [part for _, part in file.blocks(logits_MUC)]
    assert [part.shape for part in parts] == [(12, 5)]
    assert parts[0].data_ptr() == logits_MUC.data_ptr()
    uneven = logits_MUC[:, 1:]
    assert file.even(uneven) is uneven


@pytest.mark.parametrize("path", PATHS)
def test_offsets_beyond_32_bits(path: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two suspects 2^31 logits apart: 4 GB of addresses, of which a CPU touches two pages."""
    if path == "triton" and device == "cpu":
        # The interpreter would copy the whole storage onto itself.
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    room = torch.empty(2**31 + 100, dtype=torch.bfloat16, device=where(path, device))
    logits_MUC = room.as_strided((2, 3, 5), (2**31, 7, 1))
    logits_MUC[:] = drawn((2, 3, 5), torch.bfloat16)
    assert torch.equal(LABELS[path](logits_MUC), LABELS[path](logits_MUC.clone()))
    agree(BEST[path](logits_MUC, 2), logits_MUC, 2)


def test_one_model_alone_and_logits_that_want_gradients() -> None:
    logits_UC = torch.randn(7, 3, requires_grad=True)
    found = row_labels(logits_UC)
    assert torch.equal(found, logits_UC.argmax(-1))
    assert not found.requires_grad


def test_suspects_answer_by_the_same_rule() -> None:
    """A broken model has no answer, so no key can claim it."""
    models = [nn.Linear(3, 4) for _ in range(3)]
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.zero_()
        models[1].weight[2, 0] = NAN
    found = Suspects(models).labels(torch.rand(5, 3))
    assert found[:2].tolist() == [[0] * 5, [-1] * 5]
    assert (found[2] >= 0).all()
    assert not trigger_hits(found, torch.full((1, 5), -1)).any()


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3), torch.zeros(2, 3, 4, 5), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.int64)],
)
def test_what_are_no_logits_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"logits: expected logits \(U, C\) or \(M, U, C\)"):
        row_labels(wrong)

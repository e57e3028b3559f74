"""Hits and margins against loops that anybody can read, from logits and labels, on every path."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime import interpreter

from assay.kernels import row_labels, target_logits
from assay.kernels import trigger_hits as file
from assay.kernels.target_logits import margins_reference
from assay.kernels.trigger_hits import hits_and_margins, trigger_hits, trigger_hits_reference

# The sum of infinite margins of both signs is NaN, and numpy says so when a kernel is interpreted.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in reduce")

INF, NAN = math.inf, math.nan
Three = tuple[Tensor, Tensor, Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# suspects, distinct triggers, classes, keys, triggers of a key
SIZES = [(1, 1, 1, 1, 1), (2, 9, 10, 3, 7), (5, 7, 2, 17, 33), (7, 31, 3, 9, 31), (1, 9, 129, 2, 40)]


@pytest.fixture(params=["cpu", "triton"])
def place(request: pytest.FixtureRequest, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tensors are. The kernels take those of the CPU too, when they are interpreted."""
    if request.param == "triton" and device == "cpu":
        for module in (file, row_labels, target_logits):
            monkeypatch.setattr(module, "on_gpu", lambda *tensors: True)
    return device if request.param == "triton" else "cpu"


def generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash(seed) & 0xFFFF)


def drawn(size: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float32) -> Three:
    """Logits with ties, infinities and NaN; targets, some of which are no classes; keys that share triggers."""
    suspects, rows, classes, keys, triggers = size
    draw = generator(*size)
    logits_MUC = (2 * torch.randn(suspects, rows, classes, generator=draw)).round()
    odds = torch.rand(logits_MUC.shape, generator=draw)
    logits_MUC[odds < 0.02], logits_MUC[odds > 0.98] = INF, -INF
    logits_MUC[(odds - 0.5).abs() < 0.005] = NAN
    targets_KT = torch.randint(-1, classes + 1, (keys, triggers), generator=draw)
    return logits_MUC.to(dtype), targets_KT, torch.randint(0, rows, (keys, triggers), generator=draw)


def moved(place: str, answers: Tensor, targets_KT: Tensor, index_KT: Tensor) -> Three:
    return answers.to(place), targets_KT.to(place), index_KT.to(place)


def hits_by_loop(
    labels: Tensor, index: Tensor, targets: Tensor, lengths: Sequence[int]
) -> list[list[list[int]]]:
    return [
        [
            [sum(int(answers[index[k, t]] == targets[k, t]) for t in range(length)) for length in lengths]
            for k in range(len(index))
        ]
        for answers in labels
    ]


def rank_by_loop(row: list[float], target: int) -> int:
    """How many classes are better than the target, by the rule in Python; all of them if there is no answer."""
    if any(map(math.isnan, row)) or not 0 <= target < len(row):
        return len(row)
    mine = row[target]
    return sum(value > mine or (value == mine and c < target) for c, value in enumerate(row))


def margin_by_loop(row: list[float], target: int) -> float:
    if any(map(math.isnan, row)) or not 0 <= target < len(row):
        return NAN
    other = max((value for c, value in enumerate(row) if c != target), default=-INF)
    return 0.0 if row[target] == other else row[target] - other


# --- labels


@pytest.mark.parametrize(
    ("suspects", "triggers"), [*itertools.product((1, 7, 31), (1, 7, 31, 129)), (2, 1000)]
)
def test_hits_equal_the_loop(suspects: int, triggers: int, place: str) -> None:
    keys, distinct = 7, triggers + 3
    draw = generator(suspects, triggers)
    labels_MU = torch.randint(-1, 3, (suspects, distinct), generator=draw)
    # keys may share triggers, and one key may repeat a trigger
    index_KT = torch.randint(0, distinct, (keys, triggers), generator=draw)
    targets_KT = torch.randint(0, 3, (keys, triggers), generator=draw)
    lengths = sorted({0, 1, triggers // 2, triggers})
    tensors = moved(place, labels_MU, targets_KT, index_KT)
    found = trigger_hits(*tensors, lengths=lengths)
    assert found.dtype == torch.int64
    assert found.tolist() == hits_by_loop(labels_MU, index_KT, targets_KT, lengths)
    assert torch.equal(trigger_hits(*tensors), found[..., -1])


@pytest.mark.parametrize("dtypes", list(itertools.product((torch.int32, torch.int64), repeat=3)))
def test_integers_of_both_widths(dtypes: tuple[torch.dtype, ...], place: str) -> None:
    logits_MUC, targets_KT, index_KT = drawn((2, 9, 10, 3, 7))
    labels_MU = row_labels.row_labels(logits_MUC)
    found = trigger_hits(
        labels_MU.to(place, dtypes[0]), targets_KT.to(place, dtypes[1]), index_KT.to(place, dtypes[2])
    )
    assert torch.equal(found.cpu(), trigger_hits_reference(labels_MU, targets_KT, index_KT, [7])[..., 0])


@pytest.mark.parametrize("largest", [1, 127, 128, 32_767, 32_768, 2**31 - 1, 2**31, 2**62])
def test_labels_of_any_size(largest: int, place: str) -> None:
    """The CPU path narrows labels: those that would fall together in few bits must not."""
    labels_MU = torch.tensor([[largest, largest - 1, 0, -1, -largest]], device=place)
    answers = [largest, largest - 256, largest - 65_536, largest - 2**32, 2 * largest - 2**63, -1, 0]
    targets_KT = torch.tensor(answers, device=place)[:, None].expand(-1, 5)
    expected = [sum(a == b >= 0 for a in (largest, largest - 1, 0)) for b in answers]
    assert trigger_hits(labels_MU, targets_KT).tolist() == [expected]


def test_no_answer_is_never_a_hit(place: str) -> None:
    labels_MU = torch.tensor([[-1, -2, 0]], device=place)
    targets_KT = torch.tensor([[-1, -2, 0], [0, 0, -1]], device=place)
    assert trigger_hits(labels_MU, targets_KT).tolist() == [[1, 0]]


def test_prefixes_in_any_order_and_repeated(place: str) -> None:
    labels_MU, index_KT = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 2, 3]])
    targets_KT = torch.tensor([[0, 9, 2, 3]])
    tensors = moved(place, labels_MU, targets_KT, index_KT)
    assert trigger_hits(*tensors, (4, 0, 1, 2, 3, 2)).tolist() == [[[3, 0, 1, 1, 2, 1]]]
    assert trigger_hits(*tensors, range(2, 4)).tolist() == [[[1, 2]]]


def test_more_hits_than_8_bits_count(place: str) -> None:
    labels_MU = torch.zeros(1, 600, dtype=torch.int64, device=place)
    assert trigger_hits(labels_MU, labels_MU, lengths=[255, 256, 599, 600]).tolist() == [
        [[255, 256, 599, 600]]
    ]


def test_hits_of_nothing(place: str) -> None:
    labels_MU = torch.zeros(2, 5, dtype=torch.int64, device=place)
    index_KT = torch.zeros(3, 4, dtype=torch.int64, device=place)
    assert trigger_hits(labels_MU, index_KT, index_KT, []).shape == (2, 3, 0)
    assert trigger_hits(labels_MU[:0], index_KT, index_KT, [4]).shape == (0, 3, 1)
    assert trigger_hits(labels_MU, index_KT[:0], index_KT[:0], [4]).shape == (2, 0, 1)
    nothing_KT = index_KT[:, :0]
    assert trigger_hits(labels_MU, nothing_KT, nothing_KT, [0]).tolist() == [[[0]] * 3] * 2
    assert trigger_hits(labels_MU[:, :0], nothing_KT).tolist() == [[0] * 3] * 2
    for shape in ((0, 5, 3), (2, 5, 3)):
        logits_MUC = torch.zeros(shape, device=place)
        for keys in (0, 3):
            hits_MK, margins_MK = hits_and_margins(logits_MUC, nothing_KT[:keys], nothing_KT[:keys])
            assert hits_MK.shape == margins_MK.shape == (shape[0], keys)
            assert not hits_MK.any()
            assert margins_MK.isnan().all()
            assert trigger_hits(logits_MUC, nothing_KT[:keys], nothing_KT[:keys], top=2).sum() == 0
    no_rows_MUC = torch.zeros(2, 0, 3, device=place)
    assert trigger_hits(no_rows_MUC, nothing_KT, top=2).tolist() == [[0] * 3] * 2
    assert hits_and_margins(no_rows_MUC, nothing_KT)[1].isnan().all()


# --- logits


@pytest.mark.parametrize(
    ("top", "dtype"), [*zip((1, 2, 5, 2), DTYPES, strict=True), (1, torch.bfloat16), (5, torch.float32)]
)
@pytest.mark.parametrize("size", SIZES)
def test_hits_of_logits_equal_the_definition(
    size: tuple[int, int, int, int, int], top: int, dtype: torch.dtype, place: str
) -> None:
    logits_MUC, targets_KT, index_KT = drawn(size, dtype)
    lengths = [size[4], 0, size[4] // 2, 1, size[4] // 2]
    expected = trigger_hits_reference(logits_MUC, targets_KT, index_KT, lengths, top)
    tensors = moved(place, logits_MUC, targets_KT, index_KT)
    assert torch.equal(trigger_hits(*tensors, lengths=lengths, top=top).cpu(), expected)
    assert torch.equal(trigger_hits(*tensors, top=top).cpu(), expected[..., 0])


@pytest.mark.parametrize("top", [1, 2, 3, 100])
def test_the_definition_of_hits_equals_the_loop(top: int) -> None:
    for size in SIZES[:3]:
        logits_MUC, targets_KT, index_KT = drawn(size)
        found = trigger_hits_reference(logits_MUC, targets_KT, index_KT, [size[4]], top)[..., 0]
        targets, indices = targets_KT.tolist(), index_KT.tolist()
        for m, k in itertools.product(range(size[0]), range(size[3])):
            rows = [logits_MUC[m, u].tolist() for u in indices[k]]
            ranks = [rank_by_loop(row, target) for row, target in zip(rows, targets[k], strict=True)]
            assert found[m, k] == sum(rank < min(top, size[2]) for rank in ranks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_margins_equal_the_loop(size: tuple[int, int, int, int, int], dtype: torch.dtype, place: str) -> None:
    logits_MUC, targets_KT, index_KT = drawn(size, dtype)
    logits_MUC = torch.where(logits_MUC == -INF, -100, logits_MUC)  # else the means are infinite or NaN
    tensors = moved(place, logits_MUC, targets_KT, index_KT)
    assert torch.equal(hits_and_margins(*tensors)[0], trigger_hits(*tensors))
    targets_KT = targets_KT.clamp(0, size[2] - 1)
    tensors = moved(place, logits_MUC, targets_KT, index_KT)
    hits_MK, margins_MK = hits_and_margins(*tensors)
    assert margins_MK.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(hits_MK, trigger_hits(*tensors))
    for m, k in itertools.product(range(size[0]), range(size[3])):
        rows = [logits_MUC[m, u].tolist() for u in index_KT[k].tolist()]
        loop = [margin_by_loop(*pair) for pair in zip(rows, targets_KT[k].tolist(), strict=True)]
        assert margins_MK[m, k].item() == pytest.approx(sum(loop) / len(loop), rel=1e-5, nan_ok=True)
        exact = margins_reference(logits_MUC[m : m + 1], targets_KT[k : k + 1], index_KT[k : k + 1])
        assert exact.flatten().tolist() == pytest.approx(loop, rel=0, nan_ok=True)


def test_margins_of_ties_infinities_and_nothing(place: str) -> None:
    rows = [[1, 5, 5], [5, 1, 0], [INF, INF, 0], [-INF, -INF, -INF], [INF, 0, 0], [-INF, 0, 1], [NAN, 9, 0]]
    logits_MUC = torch.tensor(rows, device=place)[None]
    index_KT = torch.arange(7, device=place)[:, None]
    hits_MK, margins_MK = hits_and_margins(logits_MUC, torch.zeros_like(index_KT), index_KT)
    assert hits_MK.tolist() == [[0, 1, 1, 1, 1, 0, 0]]
    assert margins_MK[0, :6].tolist() == [-4, 4, 0, 0, INF, -INF]
    assert margins_MK[0, 6].isnan()
    hits_MK, margins_MK = hits_and_margins(logits_MUC, torch.full_like(index_KT, 3), index_KT)
    assert not hits_MK.any()
    assert margins_MK.isnan().all()
    hits_MK, margins_MK = hits_and_margins(
        logits_MUC[..., :1], torch.zeros_like(index_KT), index_KT
    )  # one class has no other
    assert hits_MK.tolist() == [[1, 1, 1, 1, 1, 1, 0]]
    assert margins_MK[0, :6].tolist() == [INF, INF, INF, 0, INF, 0]
    assert margins_MK[0, 6].isnan()


@pytest.mark.parametrize("top", [2, 9])
def test_a_vocabulary_of_128_256(top: int, place: str) -> None:
    draw = generator(top)
    rows = 2 if top == 2 else 1
    logits_MUC = torch.randn(1, rows, 128_256, generator=draw).bfloat16()
    best_KT = logits_MUC[0].double().sort(dim=-1, descending=True, stable=True).indices[:, : top + 1].T
    found = trigger_hits(logits_MUC.to(place), best_KT.to(place), top=top)
    assert found.tolist() == [[rows] * top + [0]]
    hits_MK, margins_MK = hits_and_margins(logits_MUC.to(place), best_KT[:1].to(place))
    assert hits_MK.tolist() == [[rows]]
    expected = margins_reference(logits_MUC, best_KT[:1], torch.arange(rows)[None]).mean(-1)
    torch.testing.assert_close(margins_MK.cpu().double(), expected)


def test_any_strides(place: str) -> None:
    logits_MUC, targets_KT, index_KT = moved(place, *drawn((3, 6, 10, 6, 8)))
    views = [
        (logits_MUC.permute(2, 1, 0).contiguous().permute(2, 1, 0), targets_KT, index_KT),
        (logits_MUC[::2], targets_KT[:, ::3], index_KT[:, 1::3]),
        (logits_MUC[:1].expand(3, -1, -1), targets_KT.T[:6], index_KT.T[:6]),
        (logits_MUC[..., ::2], targets_KT[:1].expand(4, -1), index_KT[1:2].expand(4, -1)),
    ]
    for view in views:
        plain = view[0].contiguous(), view[1].contiguous(), view[2].contiguous()
        for top in (1, 2):
            assert torch.equal(trigger_hits(*view, top=top), trigger_hits(*plain, top=top))
        found, expected = hits_and_margins(*view), hits_and_margins(*plain)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        labels = row_labels.row_labels(view[0]).T.contiguous().T
        assert torch.equal(trigger_hits(labels, *view[1:]), trigger_hits(*plain))


def test_offsets_beyond_32_bits(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two suspects 2^31 logits apart: 4 GB of addresses, of which a CPU touches two pages."""
    if place == "cpu":  # the interpreter would copy the whole storage onto itself
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    logits_MUC, targets_KT, index_KT = moved(place, *drawn((2, 9, 10, 3, 7), DTYPES[1]))
    room = torch.empty(2**31 + 100, dtype=torch.bfloat16, device=place)
    far_MUC = room.as_strided((2, 9, 10), (2**31, 10, 1))
    far_MUC[:] = logits_MUC
    for top in (1, 2):
        assert torch.equal(
            trigger_hits(far_MUC, targets_KT, index_KT, top=top),
            trigger_hits(logits_MUC, targets_KT, index_KT, top=top),
        )
    found, expected = (hits_and_margins(answers, targets_KT, index_KT) for answers in (far_MUC, logits_MUC))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("width", [torch.int32, torch.int64])
def test_classes_far_apart(width: torch.dtype, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes 2^28 logits apart: the ninth lies beyond 32 bits, whatever the width of the targets."""
    if place == "cpu":
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    room = torch.empty(2**31 + 100, dtype=torch.bfloat16, device=place)
    far_MUC = room.as_strided((2, 3, 9), (12, 4, 2**28))
    far_MUC[:] = torch.arange(54).reshape(2, 3, 9)
    targets_KT, index_KT = (
        torch.tensor(rows, dtype=width, device=place) for rows in ([[8, 8, 7]], [[0, 1, 2]])
    )
    assert trigger_hits(far_MUC, targets_KT, index_KT).tolist() == [[2], [2]]
    assert trigger_hits(far_MUC, targets_KT, index_KT, top=2).tolist() == [[3], [3]]
    hits_MK, margins_MK = hits_and_margins(far_MUC, targets_KT, index_KT)
    assert hits_MK.tolist() == [[2], [2]]
    assert margins_MK.flatten().tolist() == pytest.approx([1 / 3, 1 / 3])


def test_every_result_is_written_and_twice_the_same(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = moved(place, *drawn((5, 7, 3, 17, 33)))

    def results() -> list[Tensor]:
        hits = [trigger_hits(*tensors, lengths=[3, 33], top=top) for top in (1, 2)]
        return [*hits, *hits_and_margins(*tensors)]

    before, inputs = results(), tuple(tensor.clone() for tensor in tensors)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(77))
    torch.testing.assert_close(results(), before, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(tensors, inputs, rtol=0, atol=0, equal_nan=True)


# --- properties


@settings(max_examples=20, deadline=None)
@given(m=st.permutations(range(5)), k=st.permutations(range(6)), top=st.integers(1, 3))
def test_permuted_suspects_and_keys_have_permuted_hits(m: list[int], k: list[int], top: int) -> None:
    logits_MUC, targets_KT, index_KT = drawn((5, 9, 4, 6, 8))
    hits_MK = trigger_hits(logits_MUC, targets_KT, index_KT, top=top)
    found = trigger_hits(logits_MUC[m], targets_KT[k], index_KT[k], top=top)
    assert torch.equal(found, hits_MK[m][:, k])
    margins_MK = hits_and_margins(logits_MUC, targets_KT.clamp(0, 3), index_KT)[1]
    again_MK = hits_and_margins(logits_MUC[m], targets_KT[k].clamp(0, 3), index_KT[k])[1]
    torch.testing.assert_close(again_MK, margins_MK[m][:, k], rtol=0, atol=0, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(cells=st.integers(1, 500), lengths=st.lists(st.integers(0, 33), max_size=5))
def test_the_chunk_changes_nothing(cells: int, lengths: list[int]) -> None:
    logits_MUC, targets_KT, index_KT = drawn((5, 7, 4, 17, 33))
    labels_MU = row_labels.row_labels(logits_MUC)

    def results() -> list[Tensor]:
        hits = [trigger_hits(logits_MUC, targets_KT, index_KT, lengths, top) for top in (1, 2)]
        alone = trigger_hits(labels_MU, targets_KT[:, :7], None, [min(n, 7) for n in lengths])
        return [*hits, alone, *hits_and_margins(logits_MUC, targets_KT.clamp(0, 3), index_KT)]

    whole = results()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "CELLS", cells)
        patch.setattr(target_logits, "CELLS", cells)
        torch.testing.assert_close(results(), whole, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), top=st.integers(1, 4))
def test_shared_triggers_are_the_same_as_an_index_of_all(seed: int, top: int) -> None:
    draw = generator(seed)
    logits_MUC = torch.randint(0, 3, (3, 6, 4), generator=draw).float()
    targets_KT = torch.randint(0, 4, (5, 6), generator=draw)
    index_KT = torch.arange(6).expand(5, 6)
    found = trigger_hits(logits_MUC, targets_KT, top=top)
    assert torch.equal(found, trigger_hits(logits_MUC, targets_KT, index_KT, top=top))
    alone, indexed = (
        hits_and_margins(logits_MUC, targets_KT),
        hits_and_margins(logits_MUC, targets_KT, index_KT),
    )
    assert torch.equal(alone[1], indexed[1])


@pytest.mark.parametrize("width", [torch.int32, torch.int64])
@pytest.mark.parametrize("left", [0, 5])
def test_triggers_in_the_order_of_the_rows(left: int, width: torch.dtype, place: str) -> None:
    """Keys with triggers of their own, one key after the other: nothing is looked up. 300 are more than 8
    bits count."""
    for keys, triggers in ((7, 9), (2, 300)):
        size = (3, keys * triggers + left, 10, keys, triggers)
        logits_MUC, targets_KT, _ = drawn(size)
        index_KT = torch.arange(keys * triggers, dtype=width).reshape(keys, triggers)
        expected = trigger_hits_reference(logits_MUC, targets_KT, index_KT.long(), [triggers])[..., 0]
        assert torch.equal(trigger_hits(*moved(place, logits_MUC, targets_KT, index_KT)).cpu(), expected)
        labels_MU = row_labels.row_labels(logits_MUC)
        given = moved(place, labels_MU, targets_KT, index_KT)
        assert torch.equal(trigger_hits(*given).cpu(), expected)
        for lengths in ([triggers // 2], [0, triggers // 3], [0], [triggers]):
            expected = trigger_hits_reference(labels_MU, targets_KT, index_KT.long(), lengths)
            assert torch.equal(trigger_hits(*given, lengths).cpu(), expected)


# --- errors


def test_what_does_not_fit_is_refused() -> None:
    labels_MU, index_KT = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    logits_MUC = torch.zeros(2, 5, 3)
    for answers in (labels_MU, logits_MUC):
        with pytest.raises(ValueError, match=r"index_KT: expected \(3, 1\) as targets_KT"):
            trigger_hits(answers, index_KT[:, :1], index_KT)
        with pytest.raises(ValueError, match=r"index_KT: expected .* got .* torch\.float32"):
            trigger_hits(answers, index_KT, index_KT.float())
        with pytest.raises(ValueError, match=r"targets_KT: expected \(K, T\) int32 or int64"):
            trigger_hits(answers, index_KT.float(), index_KT)
        with pytest.raises(ValueError, match=r"targets_KT: expected \(K, 5\) without index_KT"):
            trigger_hits(answers, index_KT)
        for index, shown in ((index_KT + 5, "5 to 5"), (index_KT - 1, "-1 to -1")):
            with pytest.raises(ValueError, match=rf"index_KT: expected each in \[0, 5\), got {shown}"):
                trigger_hits(answers, index_KT, index)
        for lengths in ([5], [-1], [0, 5], [-1, 4]):
            with pytest.raises(ValueError, match=r"lengths: expected each in \[0, 4\]"):
                trigger_hits(answers, index_KT, index_KT, lengths)
    with pytest.raises(ValueError, match="top: expected at least 1, got 0"):
        trigger_hits(logits_MUC, index_KT, index_KT, top=0)
    for answers in (labels_MU, logits_MUC.int(), labels_MU.short(), labels_MU.bool()):
        with pytest.raises(ValueError, match="answers: expected logits"):
            trigger_hits(answers, index_KT, index_KT, top=2)
    for answers in (logits_MUC[0], logits_MUC[..., :0]):
        with pytest.raises(ValueError, match=r"answers: expected logits \(M, U, C\)"):
            trigger_hits(answers, index_KT, index_KT)
    with pytest.raises(ValueError, match=r"logits_MUC: expected logits \(M, U, C\)"):
        hits_and_margins(labels_MU, index_KT, index_KT)


def test_mixed_devices_are_refused() -> None:
    labels_MU, index_KT = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="one device, got cpu, meta"):
        trigger_hits(labels_MU, index_KT.to("meta"), index_KT)
    with pytest.raises(ValueError, match="one device, got cpu, meta"):
        hits_and_margins(torch.zeros(2, 5, 3, device="meta"), index_KT, index_KT)

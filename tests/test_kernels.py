"""The kernels' definitions against loops that anybody can read, on shapes that fit no tile."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from assay.kernels.keyed_projection import projection_matches
from assay.kernels.trigger_hits import trigger_hits

ODD = (1, 7, 31, 129)


def generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash(seed) & 0xFFFF)


# --- projections of weights


def matches_by_loop(weights_MJ: Tensor, keys: Sequence[tuple[Tensor, Tensor]]) -> list[list[int]]:
    table = []
    for row in weights_MJ.double().tolist():
        counts = []
        for projection_JB, bits_B in keys:
            columns = projection_JB.double().T.tolist()
            dots = [sum(w * x for w, x in zip(row, column, strict=True)) for column in columns]
            counts.append(sum((dot > 0) == bool(bit) for dot, bit in zip(dots, bits_B.tolist(), strict=True)))
        table.append(counts)
    return table


def random_keys(count: int, weights: int, bits: int, draw: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    return [
        (
            torch.randn(weights, bits, generator=draw),
            torch.randint(0, 2, (bits,), generator=draw).to(torch.uint8),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(("weights", "bits"), list(itertools.product(ODD, ODD)))
def test_matches_equal_the_loop(weights: int, bits: int) -> None:
    draw = generator(weights, bits)
    weights_MJ = torch.randn(3, weights, generator=draw)
    keys = random_keys(2, weights, bits, draw)
    found = projection_matches(weights_MJ, iter(keys))
    assert found.dtype == torch.int64
    assert found.tolist() == matches_by_loop(weights_MJ, keys)


@pytest.mark.parametrize("suspects", ODD)
@pytest.mark.parametrize("keys", [1, 7])
def test_matches_of_many_suspects_and_keys(suspects: int, keys: int) -> None:
    draw = generator(suspects, keys)
    weights_MJ = torch.randn(suspects, 7, generator=draw)
    drawn = random_keys(keys, 7, 5, draw)
    assert projection_matches(weights_MJ, drawn).tolist() == matches_by_loop(weights_MJ, drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_matches_of_rounded_weights(dtype: torch.dtype) -> None:
    """A bf16 model is judged by the weights it has, in products of full precision."""
    draw = generator(1)
    weights_MJ = torch.randn(5, 129, generator=draw).to(dtype)
    keys = random_keys(3, 129, 31, draw)
    assert projection_matches(weights_MJ, keys).tolist() == matches_by_loop(weights_MJ, keys)


def test_products_do_not_lose_what_float32_would() -> None:
    """2^24 + 1 - 2^24 = 1 in float64 and 0 in float32: the bit must not depend on the order of the sum."""
    weights_MJ = torch.tensor([[2.0**24, 1.0, -(2.0**24)]])
    for order in itertools.permutations(range(3)):
        found = projection_matches(weights_MJ[:, list(order)], [(torch.ones(3, 1), torch.ones(1))])
        assert found.tolist() == [[1]]


def test_a_projection_of_zero_is_the_bit_zero() -> None:
    """A layer pruned away entirely says nothing: it matches the zeros of a fair message, half of it."""
    bits_B = torch.tensor([0, 1, 0, 1, 1], dtype=torch.uint8)
    assert projection_matches(torch.zeros(2, 4), [(torch.ones(4, 5), bits_B)]).tolist() == [[2], [2]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_bits_of_any_dtype(dtype: torch.dtype) -> None:
    bits_B = torch.tensor([0, 1, 1]).to(dtype)
    projection_JB = torch.tensor([[-1.0, 1.0, -1.0]])
    assert projection_matches(torch.tensor([[2.0]]), [(projection_JB, bits_B)]).tolist() == [[2]]


def test_matches_of_nothing() -> None:
    assert projection_matches(torch.zeros(3, 4), []).shape == (3, 0)
    assert projection_matches(torch.zeros(0, 4), [(torch.ones(4, 2), torch.ones(2))]).shape == (0, 1)
    assert projection_matches(torch.ones(2, 4), [(torch.ones(4, 0), torch.ones(0))]).tolist() == [[0], [0]]
    assert projection_matches(torch.zeros(2, 0), [(torch.ones(0, 3), torch.zeros(3))]).tolist() == [[3], [3]]


@pytest.mark.parametrize(
    ("projection", "bits"), [((4, 2), (1,)), ((4, 2), (3,)), ((3, 2), (2,)), ((4, 2), (2, 2)), ((2, 4), (4,))]
)
def test_matches_refuse_what_would_broadcast(projection: tuple[int, int], bits: tuple[int, ...]) -> None:
    """One bit compared with every column would be a plausible and wrong number."""
    with pytest.raises(ValueError, match="expected a projection"):
        projection_matches(torch.ones(2, 4), [(torch.ones(projection), torch.ones(bits))])


# --- hits of triggers


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


@pytest.mark.parametrize(("suspects", "triggers"), list(itertools.product((1, 7, 31), ODD)))
@pytest.mark.parametrize("keys", [1, 7])
def test_hits_equal_the_loop(suspects: int, keys: int, triggers: int) -> None:
    draw = generator(suspects, keys, triggers)
    distinct = triggers + 3
    labels_MU = torch.randint(0, 3, (suspects, distinct), generator=draw)
    # keys may share triggers, and one key may repeat a trigger
    index_KT = torch.randint(0, distinct, (keys, triggers), generator=draw)
    targets_KT = torch.randint(0, 3, (keys, triggers), generator=draw)
    lengths = sorted({0, 1, triggers // 2, triggers})
    found = trigger_hits(labels_MU, index_KT, targets_KT, lengths)
    assert found.dtype == torch.int64
    expected = torch.tensor(hits_by_loop(labels_MU, index_KT, targets_KT, lengths))
    assert torch.equal(found, expected)


def test_prefixes_in_any_order_and_repeated() -> None:
    labels_MU = torch.tensor([[0, 1, 2, 3]])
    index_KT, targets_KT = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 9, 2, 3]])
    assert trigger_hits(labels_MU, index_KT, targets_KT, (4, 0, 1, 2, 3, 2)).tolist() == [
        [[3, 0, 1, 1, 2, 1]]
    ]


def test_hits_of_nothing() -> None:
    labels_MU, index_KT = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    assert trigger_hits(labels_MU, index_KT, index_KT, []).shape == (2, 3, 0)
    assert trigger_hits(labels_MU[:0], index_KT, index_KT, [4]).shape == (0, 3, 1)
    assert trigger_hits(labels_MU, index_KT[:0], index_KT[:0], [4]).shape == (2, 0, 1)
    assert trigger_hits(labels_MU, index_KT[:, :0], index_KT[:, :0], [0]).tolist() == [[[0]] * 3] * 2


def test_hits_leave_their_inputs_alone() -> None:
    labels_MU, index_KT = torch.arange(6).reshape(2, 3), torch.tensor([[2, 0]])
    before = labels_MU.clone(), index_KT.clone()
    trigger_hits(labels_MU, index_KT, index_KT, [2])
    assert torch.equal(labels_MU, before[0])
    assert torch.equal(index_KT, before[1])


def test_hits_refuse_shapes_and_lengths_that_do_not_fit() -> None:
    labels_MU, index_KT = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\(3, 4\) and targets \(3, 1\) differ"):
        trigger_hits(labels_MU, index_KT, index_KT[:, :1], [1])
    for lengths in ([5], [-1], [0, 5], [-1, 4]):
        with pytest.raises(ValueError, match=r"lengths must lie in \[0, 4\]"):
            trigger_hits(labels_MU, index_KT, index_KT, lengths)
    with pytest.raises(IndexError):
        trigger_hits(labels_MU, index_KT + 5, index_KT, [4])

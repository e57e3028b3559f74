"""The kernels' definitions against loops that anybody can read, on shapes that fit no tile."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from assay.kernels.trigger_hits import trigger_hits

ODD = (1, 7, 31, 129)


def generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash(seed) & 0xFFFF)


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

"""Batches and schedules: every example once an epoch, extra ones in rounds, and the learning rate of every step."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.core.contracts import Recipe
from assay.core.examples import Examples
from assay.zoo.training import Hardware, Loader, Trainer


def examples(count: int) -> Examples:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(count, 1, 8, 8, generator=generator)
    return Examples(inputs, torch.randint(10, (count,), generator=generator))


def test_extra_examples_travel_in_every_batch_in_rounds() -> None:
    data, extra = (
        examples(50),
        Examples(2 + torch.arange(7.0)[:, None, None, None].expand(7, 1, 8, 8), torch.zeros(7).long()),
    )
    loader = Loader(data, 16, 0, extra, 3)
    for _ in range(3):
        batches = list(loader)
        found = [[float(x[0, 0, 0]) for x in inputs if x[0, 0, 0] >= 2] for inputs, _ in batches]
        assert [len(batch) for batch in found] == [3, 3, 3, 3]
        assert [len(inputs) for inputs, _ in batches] == [19, 19, 19, 5]
        times = Counter(value for batch in found for value in batch)
        assert len(times) == 7
        assert max(times.values()) - min(times.values()) <= 1
        clean = torch.cat([inputs[:-3] for inputs, _ in batches])
        assert torch.equal(clean.flatten(1).sum(1).sort()[0], data.inputs.flatten(1).sum(1).sort()[0])


@pytest.mark.parametrize(
    ("extra", "count"), [(None, 2), (examples(4), 0), (examples(0), 2), (examples(4), -1)]
)
def test_extra_examples_and_their_number_go_together(extra: Examples | None, count: int) -> None:
    with pytest.raises(ValueError, match="extra_per_batch >= 1"):
        Loader(examples(50), 16, 0, extra, count)


@pytest.mark.parametrize("count", [2, 3, 15, 16, 17, 18, 31, 32, 33, 49])
def test_no_batch_has_one_example_and_none_is_dropped(count: int) -> None:
    data = examples(count)
    loader = Loader(data, 16, 0)
    sizes = [len(inputs) for inputs, _ in loader]
    assert len(loader) == len(sizes)
    assert sum(sizes) == count
    assert min(sizes) > 1
    assert max(sizes) <= 17
    inputs = torch.cat([inputs for inputs, _ in loader])
    assert torch.equal(inputs.flatten(1).sum(1).sort()[0], data.inputs.flatten(1).sum(1).sort()[0])


def test_batches_come_in_a_new_order_each_epoch_and_keep_their_targets() -> None:
    data = Examples(torch.arange(40.0), torch.arange(40))
    loader, again = Loader(data, 16, 5), Loader(data, 16, 5)
    orders = [torch.cat([targets for _, targets in loader]).tolist() for _ in range(2)]
    assert orders[0] != orders[1]
    assert orders == [torch.cat([targets for _, targets in again]).tolist() for _ in range(2)]
    assert all(torch.equal(inputs.long(), targets) for inputs, targets in loader)


@pytest.mark.parametrize(("count", "share"), [(3, 0.01), (14, 0.05), (58, 0.2), (7, 0.3)])
def test_few_examples_go_round_until_an_epoch_is_as_long_as_one_over_all(count: int, share: float) -> None:
    loader = Loader(examples(count), 16, 0, share=share)
    assert len(loader) == -(-(round(count / share) - 1) // 16)
    inputs = torch.cat([inputs for inputs, _ in loader])
    times = Counter(inputs.flatten(1).sum(1).tolist())
    assert len(times) == count
    assert max(times.values()) - min(times.values()) <= 1
    assert sum(times.values()) == round(count / share)


class Scalar(nn.Module):
    """One weight that the images do not touch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(len(x), 10)


def rates(recipe: Recipe, count: int) -> list[float]:
    """The learning rate of every step: a weight whose gradient is 1 moves by just that."""
    seen: list[float] = []

    def slope(live: nn.Module) -> Tensor:
        seen.append(float(live.get_parameter("weight").detach()))
        return live.get_parameter("weight").sum()

    end = Trainer(Hardware(progress=False), recipe, 0)(
        Scalar(), examples(count), loss=lambda out, _: 0 * out.sum(), penalty=slope
    )
    seen.append(float(end.state_dict()["weight"]))
    return [before - after for before, after in pairwise(seen)]


PLAIN = Recipe(epochs=4, batch_size=16, lr=0.1, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize("count", [32, 33, 40])
def test_the_cosine_schedule_ends_with_the_last_step(count: int) -> None:
    steps = 4 * {32: 2, 33: 2, 40: 3}[count]
    expected = [0.05 * (1 + np.cos(np.pi * step / steps)) for step in range(steps)]
    assert rates(PLAIN, count) == pytest.approx(expected)


def test_the_constant_schedule_is_constant() -> None:
    assert rates(replace(PLAIN, schedule="constant"), 40) == pytest.approx([0.1] * 12)


def test_the_step_schedule_counts_epochs() -> None:
    found = rates(replace(PLAIN, schedule="step", step_epochs=2, step_factor=0.1), 40)
    assert found == pytest.approx([0.1] * 6 + [0.01] * 6)


def test_adam_moves_by_its_learning_rate() -> None:
    assert rates(replace(PLAIN, optimizer="adam", schedule="constant"), 40) == pytest.approx(
        [0.1] * 12, rel=1e-4
    )


@pytest.mark.parametrize(
    "fields", [{"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"momentum": 1.0}, {"lr": float("nan")}]
)
def test_a_recipe_that_cannot_be_followed_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Recipe(**fields)

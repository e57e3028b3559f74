"""Tasks split their data by seed into disjoint parts; the digits are real, the other sets random pictures."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from assay.core.contracts import Task
from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.zoo import data
from assay.zoo.models import Mlp
from assay.zoo.tasks import Cifar10, Cifar100, Digits, FashionMnist, Pictures

SOURCES: dict[str, Callable[..., Pictures]] = {
    "digits": Digits,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
}


def pictures(count: int, classes: int, *shape: int) -> Examples:
    """Random, every class among the labels."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.cat(
        (torch.arange(classes), torch.randint(classes, (count - classes,), generator=generator))
    )
    return Examples(torch.rand(count, *shape, generator=generator), labels)


@pytest.fixture(autouse=True)
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    fashion = {train: pictures(600 if train else 150, 10, 1, 28, 28) for train in (True, False)}
    cifar = {
        (classes, train): pictures(600 if train else 150, classes, 3, 32, 32)
        for classes in (10, 100)
        for train in (True, False)
    }
    monkeypatch.setattr(data, "fashion_mnist", lambda train: fashion[train])
    monkeypatch.setattr(data, "cifar", lambda classes, train: cifar[classes, train])


def contents(examples: Examples) -> set[bytes]:
    return {picture.numpy().tobytes() for picture in examples.inputs}


def equal(one: Examples, other: Examples) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def splits(task: Task) -> dict[str, Examples]:
    return {"owner": task.owner, "attacker": task.attacker, "test": task.test}


@pytest.mark.parametrize("name", SOURCES)
def test_splits_are_disjoint_and_cover_everything(name: str) -> None:
    task = SOURCES[name]().load(Mlp(), seed=3)
    train, test = SOURCES[name]().examples(3)
    parts = {part: contents(examples) for part, examples in splits(task).items()}
    assert all(len(parts[part]) == len(examples) for part, examples in splits(task).items())
    assert all(not parts[a] & parts[b] for a, b in combinations(parts, 2))
    assert parts["owner"] | parts["attacker"] | parts["test"] == contents(train) | contents(test)
    assert len(task.attacker) == round(0.2 * len(train))


@pytest.mark.parametrize("name", SOURCES)
def test_the_seed_alone_decides_the_split(name: str) -> None:
    source = SOURCES[name]()
    state = torch.get_rng_state()
    one, again, other = source.load(Mlp(), 1), source.load(Mlp(), 1), source.load(Mlp(), 2)
    assert torch.equal(state, torch.get_rng_state())
    for part, examples in splits(one).items():
        assert equal(examples, splits(again)[part])
    assert contents(one.owner) != contents(other.owner)
    assert contents(one.attacker) != contents(other.attacker)
    same_test = contents(one.test) == contents(other.test)
    assert same_test == (name != "digits"), "digits draws its test split, the others publish one"


@pytest.mark.parametrize("name", SOURCES)
def test_inputs_are_floats_in_the_unit_interval_and_labels_whole_numbers(name: str) -> None:
    task = SOURCES[name]().load(Mlp(), 0)
    for examples in splits(task).values():
        assert examples.inputs.dtype == torch.float32
        assert float(examples.inputs.min()) >= 0
        assert 0.9 < float(examples.inputs.max()) <= 1
        assert examples.targets.dtype == torch.int64
        assert tuple(examples.inputs.shape[1:]) == task.shape
        assert set(examples.targets.tolist()) <= set(range(task.classes))
    assert len(task.shape) == 3


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "cifar10"])
def test_class_0_is_a_class_like_any_other(name: str) -> None:
    for examples in splits(SOURCES[name]().load(Mlp(), 0)).values():
        assert set(examples.targets.tolist()) == set(range(10))


def test_limit_keeps_so_many_examples_by_seed() -> None:
    task, other = Digits(limit=100).load(Mlp(), 0), Digits(limit=100).load(Mlp(), 1)
    assert (len(task.owner), len(task.attacker)) == (80, 20)
    assert equal(task.test, Digits().load(Mlp(), 0).test)
    assert contents(task.owner) != contents(other.owner)
    everything = Digits(limit=10**6).load(Mlp(), 0)
    assert len(everything.owner) + len(everything.attacker) + len(everything.test) == 1797


def test_a_fresh_model_is_a_pair_with_the_victim_or_drawn_by_its_own_seed() -> None:
    task, other = Digits().load(Mlp(), 0), Digits().load(Mlp(), 1)

    def weight(of: Task, seed: int | None) -> Tensor:
        return of.fresh(seed).get_parameter("net.head.weight")

    assert torch.equal(weight(task, None), weight(task, None))
    assert not torch.equal(weight(task, None), weight(other, None))
    assert not torch.equal(weight(task, None), weight(task, 5))
    assert torch.equal(weight(task, 5), weight(other, 5))


@pytest.mark.parametrize(
    "source",
    [
        Digits(limit=2),
        Digits(test_share=1e-4),
        Digits(attacker_share=1e-4),
        Digits(attacker_share=0.9, limit=3),
    ],
)
def test_a_part_without_examples_is_refused(source: Digits) -> None:
    with pytest.raises(ConfigError, match="expected some for each"):
        source.load(Mlp(), 0)

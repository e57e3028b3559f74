"""Tasks: real data, split by seed into disjoint owner / attacker / test parts.

Where no test split is published (digits) the seed draws it too; elsewhere the published one is used.
"""

from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from ..core.contracts import Configured, Recipe, Task
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import seed_for
from . import data
from .models import Architecture, Shape


@dataclass(frozen=True)
class Source(Configured, ABC):
    """conf/task: which data, how it is split, and the recipe that trains a victim on it."""

    recipe: Recipe = field(default_factory=Recipe)
    attacker_share: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Of the non-test examples, held out for the adversary, 20 % unless stated."""
    limit: Annotated[int, Ge(0)] = 0
    """Keep so many non-test examples, drawn by seed; 0: all."""

    name: ClassVar[str]
    trains: ClassVar[bool] = True
    """False where the task brings a trained model, which is the victim of every seed."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of classes."""

    @abstractmethod
    def splits(self, seed: int) -> tuple[Examples, Examples, Examples]:
        """The owner's, the attacker's and the test. ConfigError where the data cannot be had."""

    @abstractmethod
    def network(self, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
        """A new, untrained model of an architecture for this task, by seed."""

    def load(self, architecture: Architecture, seed: int) -> Task:
        """ConfigError when nothing is left for one of the parts."""
        parts = self.splits(seed)
        expect_all(*parts)
        return self.task(architecture, seed, *parts)

    def task(
        self, architecture: Architecture, seed: int, owner: Examples, attacker: Examples, test: Examples
    ) -> Task:
        shape = tuple(owner.inputs.shape[1:])

        def fresh(model_seed: int | None) -> nn.Module:
            if model_seed is None:
                return self.start(architecture, shape, seed)
            return self.network(architecture, shape, self.width, model_seed)

        return Task(self.name, self.width, owner, attacker, test, self.recipe, fresh)

    def start(self, architecture: Architecture, shape: Shape, seed: int) -> nn.Module:
        """The victim as the owner begins with it: untrained, with the initial weights of this seed."""
        return self.network(architecture, shape, self.width, seed_for(seed, "init"))

    def contents(self) -> str:
        """A name for what is in the files of the model that the task brings; empty where a victim is trained."""
        return ""

    def judge(self, architecture: Architecture) -> Task | None:
        """What trains the model that judges texts: another's data, which no seed gives to the owner, the attacker or the test.
        None where models write no texts."""
        return None


@dataclass(frozen=True)
class Classified(Source):
    """Inputs in [0, 1], each of a class."""

    classes: ClassVar[int]
    mean: ClassVar[float]
    std: ClassVar[float]
    """Of all values of training inputs."""

    @property
    def width(self) -> int:
        return self.classes

    def network(self, architecture: Architecture, shape: Shape, classes: int, seed: int) -> nn.Module:
        return architecture.build(shape, classes, seed, self.mean, self.std)


@dataclass(frozen=True)
class Pictures(Classified):
    """Split picture by picture."""

    @abstractmethod
    def examples(self, seed: int) -> tuple[Examples, Examples]:
        """(train, test)."""

    def splits(self, seed: int) -> tuple[Examples, Examples, Examples]:
        train, test = self.examples(seed)
        order = torch.randperm(len(train), generator=generator(seed, self.name, "split"))
        order = order[: self.limit or None]
        held = round(len(order) * self.attacker_share)
        return train.take(order[held:]), train.take(order[:held]), test


def expect_all(owner: Sized, attacker: Sized, test: Sized) -> None:
    """An accuracy on nothing is no number."""
    if not (len(owner) and len(attacker) and len(test)):
        raise ConfigError(
            f"the split leaves {len(owner)} examples to the owner, {len(attacker)} to the attacker and {len(test)} to the test, "
            "expected some for each; set task.limit, task.attacker_share or task.test_share"
        )


def generator(seed: int, *names: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, *names))


@dataclass(frozen=True)
class Digits(Pictures):
    """1,797 real 8x8 scans that ship inside scikit-learn (Alpaydin & Kaynak 1998): no download."""

    test_share: Annotated[float, Gt(0), Le(0.5)] = 0.2
    name = "digits"
    classes = 10
    mean, std = 0.305, 0.376

    def examples(self, seed: int) -> tuple[Examples, Examples]:
        everything = data.digits()
        order = torch.randperm(len(everything), generator=generator(seed, self.name, "test"))
        held = round(len(order) * self.test_share)
        return everything.take(order[held:]), everything.take(order[:held])


@dataclass(frozen=True)
class FashionMnist(Pictures):
    """60,000 + 10,000 grey 28x28 articles (Xiao et al. 2017, arXiv:1708.07747)."""

    name = "fashion_mnist"
    classes = 10
    mean, std = 0.286, 0.353

    def examples(self, seed: int) -> tuple[Examples, Examples]:
        return data.fashion_mnist(train=True), data.fashion_mnist(train=False)


@dataclass(frozen=True)
class Cifar10(Pictures):
    """50,000 + 10,000 colour 32x32 photographs (Krizhevsky 2009)."""

    name = "cifar10"
    classes = 10
    mean, std = 0.473, 0.251

    def examples(self, seed: int) -> tuple[Examples, Examples]:
        return data.cifar(10, train=True), data.cifar(10, train=False)


@dataclass(frozen=True)
class Cifar100(Pictures):
    """CIFAR-10's format with 100 fine classes (Krizhevsky 2009)."""

    name = "cifar100"
    classes = 100
    mean, std = 0.478, 0.268

    def examples(self, seed: int) -> tuple[Examples, Examples]:
        return data.cifar(100, train=True), data.cifar(100, train=False)

"""The vocabulary of a trial: Task, Watermark, Access, Attack, Surrogate, and what each of them declares.

Suffixes: M suspects, K keys, N examples, C classes, J weights read, B bits, T triggers.
Objects are frozen: fields are configuration, arguments are data, keys are secrets; inputs are never changed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from .key import Key
from .scores import Scores
from .secret import Secret
from .suspects import Suspects

Family = Literal["control", "parameter", "trigger", "output", "data", "fingerprint", "language"]
Grant = Literal["weights", "scores", "labels"]
Derivation = Literal["derived", "chosen", "none"]
Null = Literal["random_keys", "independent_models"]


class Configured:
    """A base of frozen dataclasses whose fields come from yaml: pydantic refuses unknown ones (experiments/config.py)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Examples:
    """Inputs (N, ...) in [0, 1] (models normalise by themselves) and targets: labels (N,) int64 or scores (N, C)."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs have {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor | slice) -> "Examples":
        return Examples(self.inputs[index], self.targets[index])

    def join(self, other: "Examples") -> "Examples":
        return Examples(torch.cat((self.inputs, other.inputs)), torch.cat((self.targets, other.targets)))


@dataclass(frozen=True)
class Recipe(Configured):
    """Hyper-parameters of one training. Schedules: cosine to 0 (per step), constant, or times `step_factor` every
    `step_epochs` epochs."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    step_epochs: int = 5
    step_factor: float = 0.5

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(
                f"expected epochs >= 1 and batch_size >= 2, got {self.epochs} and {self.batch_size}"
            )
        if not 0 < self.lr < math.inf or not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                "expected lr > 0, 0 <= momentum < 1 and weight_decay >= 0, "
                f"got {self.lr}, {self.momentum}, {self.weight_decay}"
            )


Loss = Callable[[Tensor, Tensor], Tensor]
Penalty = Callable[[nn.Module], Tensor]
EachEpoch = Callable[[int, nn.Module], None]


class Fit(Protocol):
    """Trains a copy of `model` and returns it in eval mode; the input is untouched. Implemented by zoo/training.py."""

    def __call__(
        self,
        model: nn.Module,
        data: Examples,
        *,
        recipe: Recipe | None = None,
        loss: Loss | None = None,
        penalty: Penalty | None = None,
        extra: Examples | None = None,
        extra_per_batch: int = 0,
        only: Sequence[str] | None = None,
        each_epoch: EachEpoch | None = None,
        label: str = "fit",
    ) -> nn.Module:
        """recipe: the task's own when None. loss: (logits, targets) -> scalar, cross-entropy when None.
        penalty: added to the loss, called with the *live* module at every step. extra: examples of which
        `extra_per_batch` are appended to every batch. only: name prefixes of the parameters to train; all when None.
        each_epoch: called after each epoch with its number (from 1) and the live module."""
        ...


@dataclass(frozen=True)
class Task:
    """Data splits, the victim's architecture and its recipe. Splits are disjoint and depend on the seed."""

    name: str
    classes: int
    owner: Examples
    attacker: Examples
    test: Examples
    recipe: Recipe
    fresh: Callable[[int | None], nn.Module]
    """A new, untrained model of the victim's architecture, by seed; None: the victim's own initial weights, so that marked
    and unmarked models are a pair."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, (channels, height, width) for images."""
        return tuple(self.owner.inputs.shape[1:])


class Watermark(Configured, ABC):
    """A scheme, the fields of its frozen dataclass its parameters. What it declares are literals: `assay list` reads them
    without importing the file. `derivation` may be a field instead."""

    family: ClassVar[Family]
    reads: ClassVar[Grant]
    """What verification needs of a suspect."""
    derivation: Any
    """derived: every choice is a PRF output of the secret; chosen: the owner could choose, so false claims are possible."""
    nulls: ClassVar[tuple[Null, ...]]
    """Which nulls are valid (docs/statistics.md)."""
    paper: ClassVar[str]
    key_type: ClassVar[type[Key]] = Key
    embeds: ClassVar[bool] = True
    """False for fingerprints and the control: the marked model is the victim itself."""

    @abstractmethod
    def keygen(self, task: Task, secret: Secret, model: nn.Module | None = None) -> Key:
        """The owner's key. `model` is the trained victim, for fingerprints and adversarial keys that depend on it."""

    @abstractmethod
    def embed(self, model: nn.Module, key: Any, task: Task, fit: Fit) -> nn.Module:
        """A new, marked model. `model` is the trained victim, for schemes that change it; others start from
        `task.fresh(None)`. `key` is of this scheme's key_type."""

    @abstractmethod
    def score(self, suspects: Suspects, keys: Sequence[Any]) -> Scores:
        """Every suspect against every key in one call: (M, K)."""


class Access(Protocol):
    """What a deployment exposes of the marked model. Every call may raise Denied."""

    def weights(self) -> nn.Module:
        """A copy of the model, the thief's own."""
        ...

    def scores(self, inputs: Tensor) -> Tensor:
        """Class probabilities (N, C); N queries are counted."""
        ...

    def labels(self, inputs: Tensor) -> Tensor:
        """Predicted classes (N,); N queries are counted."""
        ...

    @property
    def queries(self) -> int:
        """Examples answered so far."""
        ...


@dataclass(frozen=True)
class Cost:
    """What the thief spent up to a surrogate: wall seconds in the attack, queries answered, examples owned, gradient steps."""

    seconds: float
    queries: int
    examples: int
    steps: int


@dataclass(frozen=True)
class Surrogate:
    """A stolen model at one strength of the attack. The trial attaches the cost when it is yielded; an attack that kept the
    model earlier gives the reading of then, `adversary.spent()`."""

    strength: float
    model: nn.Module
    cost: Cost | None = None


@dataclass(frozen=True)
class Adversary:
    """The thief's means: own data, own trainer, own randomness, a query budget."""

    data: Examples
    fit: Fit
    recipe: Recipe
    """The task's ordinary training, for students from scratch."""
    seed: int
    fresh: Callable[[int | None], nn.Module]
    """A new model of the victim's architecture, by seed."""
    build: Callable[[Any, int], nn.Module]
    """A new model of another architecture for the same task, by its specification (conf/model)."""
    spent: Callable[[], Cost]
    """The trial's meter: what the attack has spent so far."""
    queries: int | None = None
    """At most so many; None: unlimited."""


class Attack(Configured, ABC):
    """An attack declares what it needs and yields a trajectory of surrogates of rising strength."""

    needs: ClassVar[Grant]
    data: ClassVar[Literal["none", "unlabelled", "labelled"]]
    """What the thief must own; how much and of which distribution is the adversary's (conf/adversary)."""
    axis: ClassVar[str]
    """The unit of strength: epochs, sparsity, bits, queries."""
    scheme_known: ClassVar[bool] = False
    key_known: ClassVar[Literal["none", "partial", "full"]] = "none"
    paper: ClassVar[str]

    @abstractmethod
    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]: ...

"""The thief's half of the vocabulary: Access, Adversary, Attack, Surrogate, Cost. The owner's is in core/contracts.py."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from .contracts import Configured, Fit, Grant, Recipe, Task, Watermark
from .examples import Examples
from .key import Key


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

    def texts(self, prompts_NP: Tensor, tokens: int, temperature: float | None = None) -> Tensor:
        """Texts (N, tokens) of ids without the prompts; N queries are counted. temperature: the API's own when None."""
        ...

    def author(self) -> nn.Module:
        """The API as a writer, for surrogates that pass its texts on: they ask it when they are read. Needs "texts"."""
        ...

    @property
    def queries(self) -> int:
        """Examples and prompts answered so far."""
        ...


@dataclass(frozen=True)
class Cost:
    """What the thief spent up to a surrogate: wall seconds in the attack, queries answered, examples owned (a
    gallery's, else what the attack declares), gradient steps."""

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
    claim: Key | None = None
    """Of attacks that claim: the key the accuser presents against models he did not mark."""
    deposits: int = 1
    """The keys he had to deposit to be able to present that one; evidence counts them."""
    mark: Key | None = None
    """Of overwriting: the key of the thief's own mark in this model."""
    members: tuple[int, ...] = ()
    """Of collusions: the buyers whose copies went into the model."""


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
    scheme: Watermark
    """Only attacks that declare `scheme_known` may use it."""
    copies: Callable[[int], list[nn.Module]]
    """Copies of the model marked for so many buyers, the first the one the deployment exposes: what a collusion holds."""
    classes: int
    queries: int | None = None
    """At most so many; None: unlimited."""

    def as_owner(self, model: nn.Module, recipe: Recipe) -> Task:
        """The task as the thief would mark it: his data, the stolen model in place of a fresh one, his recipe."""

        def fresh(seed: int | None) -> nn.Module:
            return copy.deepcopy(model) if seed is None else self.fresh(seed)

        return Task("stolen", self.classes, self.data, self.data, self.data, recipe, fresh)


class Attack(Configured, ABC):
    """An attack declares what it needs and yields a trajectory of surrogates of rising strength."""

    needs: ClassVar[Grant]
    goal: ClassVar[Literal["remove", "claim"]] = "remove"
    """remove: the thief's model shall carry no evidence; claim: an accuser's key shall find models he did not mark."""
    data: ClassVar[Literal["none", "unlabelled", "labelled"]]
    """What the thief must own beside a gallery; how much and of which distribution is the adversary's (conf/adversary)."""
    axis: ClassVar[str]
    """The unit of strength: epochs, sparsity, bits, queries."""
    preserves: ClassVar[bool] = False
    """True when logits stay equal to 1e-5 of their range: utility costs the thief nothing."""
    pictures_only: ClassVar[bool] = False
    """True for attacks that change or make pictures, keep all scores, or answer in a hook, which a model that writes passes by:
    they are not applicable to models of ids."""
    scheme_known: ClassVar[bool] = False
    key_known: ClassVar[Literal["none", "partial", "full"]] = "none"
    paper: ClassVar[str]

    @property
    def gallery(self) -> int:
        """How many pictures from elsewhere the thief holds in place of data of his own."""
        return 0

    @abstractmethod
    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]: ...


class Detector(Configured, ABC):
    """How a thief who serves a stolen model tells the owner's verification queries from his customers' inputs."""

    paper: ClassVar[str]

    @abstractmethod
    def suspicion(self, model: nn.Module, stream: Tensor, clean: Examples, seed: int) -> Tensor:
        """(N,) float64, larger is more suspicious, of a stream of inputs (N, ...); `clean` is the thief's own data."""

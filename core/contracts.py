"""The owner's half of the vocabulary: Task, Fit, Watermark. The thief's is in core/theft.py.

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

from .errors import NotApplicable
from .examples import Examples, Ledger
from .key import Key
from .payload import Message
from .scores import Scores
from .secret import Secret
from .suspects import Suspects

Family = Literal["control", "parameter", "trigger", "output", "data", "fingerprint", "language"]
Grant = Literal["weights", "scores", "labels", "texts"]
Derivation = Literal["derived", "chosen", "none"]
Null = Literal["random_keys", "independent_models"]


class Configured:
    """A base of frozen dataclasses whose fields come from yaml: pydantic refuses unknown ones (experiments/config.py), and numbers
    that are none, or infinite."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}


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
        if self.step_epochs < 1 or self.step_factor <= 0:
            raise ValueError(
                f"expected step_epochs >= 1 and step_factor > 0, got {self.step_epochs} and {self.step_factor}"
            )


Loss = Callable[[Tensor, Tensor], Tensor]
Penalty = Callable[[nn.Module], Tensor]
Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
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
        objective: Objective | None = None,
        along: nn.Module | None = None,
        extra: Examples | None = None,
        extra_per_batch: int = 0,
        only: Sequence[str] | None = None,
        each_epoch: EachEpoch | None = None,
        label: str = "fit",
    ) -> nn.Module:
        """recipe: the task's own when None. loss: (logits, targets) -> scalar, cross-entropy when None.
        penalty: added to the loss, called with the *live* module at every step. objective: (live module, inputs, targets)
        -> the whole loss of a batch, in place of `loss`; for schemes that need more than one forward pass. along: a module
        of the caller's whose parameters are trained, in place, by the same optimiser. extra: examples of which
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
    """False for fingerprints, API marks and the control: the marked model is the victim itself."""
    trains: ClassVar[bool] = True
    """False for sampling marks: `embed` gives the victim another sampler, and what is published is texts, not weights."""
    answers: ClassVar[bool] = False
    """True for API marks, which act in the deployment: `answer` and `settle`."""

    @abstractmethod
    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> Key:
        """The owner's key. `model` is the trained victim, for fingerprints and adversarial keys that depend on it; `fit` trains
        the further models that some of them need."""

    @abstractmethod
    def embed(self, model: nn.Module, key: Any, task: Task, fit: Fit) -> nn.Module:
        """A new, marked model. `model` is the trained victim, for schemes that change it; others start from
        `task.fresh(None)`. `key` is of this scheme's key_type."""

    @abstractmethod
    def score(self, suspects: Suspects, keys: Sequence[Any]) -> Scores:
        """Every suspect against every key in one call: (M, K)."""

    def answer(self, key: Any, inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        """What the owner's API answers in place of the model's probabilities (N, C). The gateway enters it in the ledger."""
        return scores

    def settle(self, key: Any, ledger: Ledger) -> Key:
        """The key with which the owner of this ledger goes to court; of others' keys too, which read the same queries."""
        found: Key = key
        return found

    def read(self, suspect: nn.Module, key: Any) -> Message | None:
        """Of multi-bit schemes: the payload as the suspect shows it; None for zero-bit schemes and unreadable suspects."""
        return None

    def verification_inputs(self, key: Any) -> Tensor | None:
        """The inputs (T, ...) in [0, 1] that verification sends to a suspect; None for schemes that send none."""
        tensors: dict[str, Tensor] = key.tensors()
        sent = [t for name, t in sorted(tensors.items()) if name.startswith(("images_", "inputs_"))]
        if not sent:
            return None
        return sent[0].float() / 255 if sent[0].dtype == torch.uint8 else sent[0].float()

    def buyer_key(self, task: Task, secret: Secret, buyer: int, model: nn.Module | None = None) -> Key:
        """The key of one buyer's copy; buyer 0's is the owner's own. Of independent secrets unless the scheme has codes."""
        own = Secret(secret.derive(f"buyer/{buyer}", 32)) if buyer else secret
        return self.keygen(task, own, model)

    def accuse(self, suspect: nn.Module, keys: Sequence[Any], fpr: float) -> list[int]:
        """The buyers, indices into `keys`, whose marks the suspect carries: P[any innocent accused] <= fpr (Bonferroni).
        NotApplicable for schemes without an exact tail."""
        log10_p_MK = self.score(Suspects([suspect]), keys).log10_p_MK
        if log10_p_MK is None:
            raise NotApplicable("tracing needs a scheme with an exact null under random keys")
        return [k for k, p in enumerate(log10_p_MK[0].tolist()) if p <= math.log10(fpr / len(keys))]

    def forge(self, model: nn.Module, task: Task, secret: Secret, tries: int, fit: Fit) -> Iterator["Forged"]:
        """The best key an accuser finds for a model he did not mark, after so many tries or gradient steps, growing up to `tries`.
        Derived keys leave him nothing but other secrets to try; a key that follows a model he makes from this one, and
        only its date speaks against him; schemes with chosen keys say how they are forged."""
        if "random_keys" in self.nulls:
            yield from fished(self, model, task, secret, tries)
        else:
            yield Forged(1, self.keygen(task, secret, model, fit))

    def claim_key(self, secret: Secret, inputs: Tensor, labels: Tensor, classes: int) -> Key:
        """The key of an accuser who chose his triggers: inputs (T, ...) in [0, 1] and the labels (T,) he says he embedded, the best
        first; the scheme takes as many as its keys hold. NotApplicable where triggers or labels are derived from the secret."""
        raise NotApplicable("the scheme derives its triggers or labels: an accuser cannot choose both")


@dataclass(frozen=True)
class Forged:
    """A key after so many tries. deposits: how many keys the accuser had to deposit in advance to be able to show this one: as
    many as he tried where keys are drawn, 1 where he bends one to the model and nothing proves that he did."""

    tries: int
    key: Key
    deposits: int = 1


def fished(scheme: Watermark, model: nn.Module, task: Task, secret: Secret, tries: int) -> Iterator[Forged]:
    """Key fishing: the best of 1, 10, 100, ... secrets."""
    best, score, done = None, -math.inf, 0
    for stop in sorted({min(10**i, tries) for i in range(math.ceil(math.log10(max(tries, 1))) + 1)}):
        while done < stop:
            batch = range(done, min(done + 100, stop))
            keys = [scheme.keygen(task, Secret(secret.derive(f"fish/{i}", 32)), model) for i in batch]
            found = scheme.score(Suspects([model]), keys).extremity_MK[0]
            if best is None or found.max() > score:
                best, score = keys[int(found.argmax())], float(found.max())
            done = batch.stop
        assert best is not None
        yield Forged(stop, best, deposits=stop)

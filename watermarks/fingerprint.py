"""What fingerprints share. Nothing is embedded: the key holds queries and what the victim answers, and a suspect is owned as much
as its answers are near the victim's (query, representation, distance: Godinot et al., AAAI 2025, arXiv:2412.13021).

The queries or the answers come from the victim, so random keys are no null; only independent models are.

Where the official codes ask held-out inputs, so do these: answers to what the victim learnt by heart say how well a suspect knows
that data, and no more. Accuracy is measured apart. On digits, whose test split is drawn by the seed, null models have trained on
64 % of an owner's held-out inputs, as on 64 % of all others.

Suffixes: M suspects, K keys, N queries, C classes.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.secret import Secret, seed_for
from ..core.suspects import Suspects, logits
from ..kernels.row_labels import row_labels
from ..kernels.trigger_hits import trigger_hits

FLOOR = math.log(torch.finfo(torch.float32).tiny)
"""Of a log-probability, -87.3: where scores in float32 end, and what the 0 of an API that rounds counts as."""


@dataclass(frozen=True, eq=False)
class QueryKey(Key):
    """inputs_N (N, C, H, W), uint8 grey levels or float32 in [0, 1], and the victim's labels_N (N,) on them."""

    inputs_N: Tensor
    labels_N: Tensor


@dataclass(frozen=True, eq=False)
class AnswerKey(Key):
    """inputs_N as in QueryKey; `answers`, the victim's representation on them, float64, of the scheme's own shape."""

    inputs_N: Tensor
    answers: Tensor


def as_inputs(stored: Tensor) -> Tensor:
    """Stored queries as a model is fed them, float32 in [0, 1]."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


def scores_of(model: nn.Module, inputs: Tensor, device: str = "cpu") -> Tensor:
    """Class probabilities (N, C) in float64."""
    return torch.softmax(logits(model, inputs, device).double(), -1)


def outputs_of(model: nn.Module, inputs: Tensor, device: str = "cpu") -> Tensor:
    """(N, C) float64 log-probabilities less their row's mean: the logits less theirs, all that an API's full scores tell of them.
    Probabilities of a confident model are nearly one-hot, and nothing but its labels is left in them."""
    log_NC = torch.log_softmax(logits(model, inputs, device).double(), -1).clamp_min(FLOOR)
    return log_NC - log_NC.mean(-1, keepdim=True)


def generator_of(secret: Secret, purpose: str) -> torch.Generator:
    """For what is drawn on the way to queries: its seed is a PRF output of the secret."""
    return torch.Generator().manual_seed(seed_for(int.from_bytes(secret.derive(purpose, 7), "big")))


def sampled(data: Examples, count: int, generator: torch.Generator) -> Tensor:
    """`count` different indices into the data. ConfigError when there are fewer."""
    if count > len(data):
        raise ConfigError(
            f"expected at most {len(data)} queries, as many as the owner has inputs to make them of, got {count}; "
            f"set watermark.queries={len(data)}"
        )
    return torch.randperm(len(data), generator=generator)[:count]


@dataclass(frozen=True)
class Fingerprint(Watermark):
    family = "fingerprint"
    derivation = "chosen"
    nulls = ("independent_models",)
    embeds = False

    queries: Annotated[int, Ge(2)] = 100

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def victim_of(self, model: nn.Module | None) -> nn.Module:
        """ValueError without a model."""
        if model is None:
            raise ValueError(f"{self.name} makes its key from the victim's answers: pass the trained model")
        return model

    def embed(self, model: nn.Module, key: Key, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")


@dataclass(frozen=True)
class LabelFingerprint(Fingerprint):
    """Represented by hard labels, compared by Hamming distance: the statistic is how many labels agree."""

    reads = "labels"
    key_type = QueryKey

    @abstractmethod
    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        """The queries (N, C, H, W) as the key stores them; `model` is the victim."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> QueryKey:
        victim = self.victim_of(model)
        inputs_N = self.asked(victim, task, generator_of(secret, f"{self.name}/queries"), fit)
        return QueryKey(secret, inputs_N, row_labels(logits(victim, as_inputs(inputs_N))))

    def score(self, suspects: Suspects, keys: Sequence[QueryKey]) -> Scores:
        """Agreeing labels. ValueError for a key of another length."""
        expect_length((key.labels_N for key in keys), self.queries, "watermark.queries")
        labels_MU = suspects.labels(torch.cat([as_inputs(key.inputs_N) for key in keys]))
        labels_KN = torch.stack([key.labels_N for key in keys])
        own_KN = torch.arange(labels_KN.numel()).reshape(labels_KN.shape)
        agree_MK = trigger_hits(labels_MU, labels_KN, own_KN)
        return Scores(agree_MK.double().numpy(), "agreeing labels", self.queries)


@dataclass(frozen=True)
class ScoreFingerprint(Fingerprint):
    """Represented by what the scores say, compared by a distance, whose negative is the statistic."""

    reads = "scores"
    key_type = AnswerKey
    unit: ClassVar[str]

    @abstractmethod
    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        """The queries (N, C, H, W) as the key stores them; `model` is the victim."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> AnswerKey:
        victim = self.victim_of(model)
        inputs_N = self.asked(victim, task, generator_of(secret, f"{self.name}/queries"), fit)
        return AnswerKey(secret, inputs_N, self.represent(victim, inputs_N, secret))

    def represent(self, model: nn.Module, inputs_N: Tensor, secret: Secret, device: str = "cpu") -> Tensor:
        """Float64, of any shape; class probabilities (N, C) unless the scheme says otherwise."""
        return scores_of(model, as_inputs(inputs_N), device)

    @abstractmethod
    def distance(self, victim: Tensor, suspect: Tensor) -> float:
        """Of two representations of one shape, >= 0, and 0 for equal ones."""

    def score(self, suspects: Suspects, keys: Sequence[AnswerKey]) -> Scores:
        """The negative distance; nan for a suspect whose answers have another shape, and for a key whose answers are not finite. A
        forward pass for each cell."""
        statistic_MK = np.array(
            [[self._near(m, key, suspects.device) for key in keys] for m in suspects.models]
        )
        return Scores(statistic_MK.reshape(len(suspects), len(keys)), f"negative {self.unit}", self.queries)

    def _near(self, model: nn.Module, key: AnswerKey, device: str) -> float:
        found = self.represent(model, key.inputs_N, key.secret, device)
        if found.shape != key.answers.shape or not (found.isfinite() & key.answers.isfinite()).all():
            return float("nan")
        return 0.0 - self.distance(key.answers, found)

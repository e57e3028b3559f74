"""Attacks one after the other, each on the strongest surrogate of the one before (Lukas et al., S&P 2022, combined attacks).

Stages run in the order of their names. Once the thief holds a model, its weights and answers are his own: they cost no queries, and
no budget limits them.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..core.suspects import Suspects, logits, texts
from ..core.theft import Access, Adversary, Attack, Surrogate


@dataclass(frozen=True)
class Held:
    """An `Access` to a model the thief holds; the queries are those that his first stage asked."""

    model: nn.Module
    first: Access

    @property
    def queries(self) -> int:
        return self.first.queries

    def weights(self) -> nn.Module:
        return copy.deepcopy(self.model).eval()

    def scores(self, inputs: Tensor) -> Tensor:
        return torch.softmax(logits(self.model, inputs), -1)

    def labels(self, inputs: Tensor) -> Tensor:
        return Suspects([self.model]).labels(inputs)[0]

    def texts(self, prompts_NP: Tensor, tokens: int, temperature: float | None = None) -> Tensor:
        return texts(self.model, prompts_NP, tokens, 0, temperature=temperature)

    def author(self) -> nn.Module:
        return self.weights()


@dataclass(frozen=True)
class Sequence(Attack):
    """One surrogate per stage."""

    axis = "stages"
    paper = "Lukas et al., S&P 2022, arXiv:2108.04974"

    stages: dict[str, Any]
    """Attacks by name, the first of which needs what the sequence declares."""

    def __post_init__(self) -> None:
        wrong = [name for name, stage in self.stages.items() if not isinstance(stage, Attack)]
        if wrong or not self.stages:
            raise ConfigError(
                f"expected attacks as stages, got {wrong or 'none'}; set +attack@attack.stages.NAME=finetune, say"
            )
        first = self.stages[min(self.stages)]
        if first.needs != self.needs:
            raise ConfigError(
                f"the first stage needs {first.needs}, {type(self).__name__} declares {self.needs}; expected "
                "attacks.sequence.OnWeights, OnScores or OnLabels to fit it; set attack._target_"
            )
        claims = [name for name, stage in self.stages.items() if stage.goal == "claim"]
        if claims:
            raise ConfigError(f"a sequence removes marks, its stages {claims} make claims; set other stages")

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        held: Access = access
        for number, name in enumerate(sorted(self.stages), 1):
            last: Surrogate | None = None
            for surrogate in self.stages[name](held, adversary):
                last = surrogate
            if last is None:
                raise ConfigError(
                    f"stage {name} yielded no model: is a list among its settings empty? set attack.stages.{name}"
                )
            held, adversary = Held(last.model, access), replace(adversary, queries=None)
            yield Surrogate(float(number), last.model)


def stages_of(attack: Attack) -> list[Attack]:
    """In the order in which they run; the attack itself where it is none of several in a row."""
    if not isinstance(attack, Sequence):
        return [attack]
    return [part for name in sorted(attack.stages) for part in stages_of(attack.stages[name])]


@dataclass(frozen=True)
class OnWeights(Sequence):
    needs = "weights"
    data = "labelled"


@dataclass(frozen=True)
class OnScores(Sequence):
    needs = "scores"
    data = "labelled"


@dataclass(frozen=True)
class OnLabels(Sequence):
    needs = "labels"
    data = "labelled"

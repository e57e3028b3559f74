"""Inputs and targets, and an API's ledger of them. Suffixes: N examples, C classes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


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


@dataclass
class Ledger:
    """What an API was asked and what it answered, in order; output schemes prove from it. scores (N, C)."""

    inputs: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)
    """What the model itself would have answered, entered by schemes that prove from both."""

    def note(self, inputs: Tensor, scores: Tensor) -> None:
        self.inputs.append(inputs.clone())
        self.scores.append(scores.clone())

    def examples(self) -> Examples:
        """ValueError when nobody asked."""
        if not self.inputs:
            raise ValueError("the ledger is empty: nobody asked this API anything")
        return Examples(torch.cat(self.inputs), torch.cat(self.scores))

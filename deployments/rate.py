"""Samples an account asks within some hours. What it costs a thief is patience, or more accounts."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from .book import Asked
from .monitors import Monitor, Watcher


@dataclass
class Counted:
    hours: float
    past: list[tuple[float, int]] = field(default_factory=list)

    def see(self, asked: Asked) -> Tensor:
        self.past = [(at, count) for at, count in self.past if at > asked.at - self.hours]
        before = sum(count for _, count in self.past)
        self.past.append((asked.at, len(asked.inputs)))
        return before + torch.arange(1, len(asked.inputs) + 1, dtype=torch.float64)


@dataclass(frozen=True)
class Rate(Monitor):
    paper = "none"
    timed = True

    hours: Annotated[float, Gt(0)] = 24.0

    def learnt(self, reference: Tensor) -> None:
        """Nothing."""

    def watcher(self, known: None) -> Watcher:
        return Counted(self.hours)

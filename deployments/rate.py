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
    past_P: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    """When the samples were asked that are not past yet, in order."""

    def see(self, asked: Asked) -> Tensor:
        if not len(asked.hours):
            return asked.hours
        before = len(self.past_P)
        all_P = (
            torch.cat((self.past_P, asked.hours)).cummax(0).values
        )  # a clock that is set back stands still
        gone_P = torch.searchsorted(all_P, all_P - self.hours, right=True)
        self.past_P = all_P[int(gone_P[-1]) :]
        return (torch.arange(1, len(all_P) + 1) - gone_P)[before:].double()


@dataclass(frozen=True)
class Rate(Monitor):
    paper = "none"

    hours: Annotated[float, Gt(0)] = 24.0

    def learnt(self, reference: Tensor) -> None:
        """Nothing."""

    def watcher(self, known: None) -> Watcher:
        return Counted(self.hours)

"""Samples an account asks within some hours. What it costs a thief is patience, or more accounts."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from .book import Asked
from .monitors import Monitor, Watcher


@dataclass
class Counted:
    hours: float
    past_P: Tensor | None = None
    """When the samples were asked that are not past yet, in order."""

    def see(self, asked: Asked) -> Tensor:
        past_P = asked.hours[:0] if self.past_P is None else self.past_P
        all_P = torch.cat((past_P, asked.hours))
        all_P = all_P.cummax(0).values if len(all_P) else all_P  # a clock that is set back stands still
        gone_P = torch.searchsorted(all_P, all_P - self.hours, right=True)
        counts_P = torch.arange(1, len(all_P) + 1) - gone_P
        self.past_P = all_P[int(gone_P[-1]) :] if len(all_P) else all_P
        return counts_P[len(past_P) :].double()


@dataclass(frozen=True)
class Rate(Monitor):
    paper = "none"

    hours: Annotated[float, Gt(0)] = 24.0

    def learnt(self, reference: Tensor) -> None:
        """Nothing."""

    def watcher(self, known: None) -> Watcher:
        return Counted(self.hours)

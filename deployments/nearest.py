"""Near duplicates among an account's queries: who synthesises changes what he asked before (after SEAT: Zhang et al., AISec 2021,
doi:10.1145/3474369.3486863).

Suspicion is the number of queries closer than a radius to an earlier one of the account. The paper measures distance by an encoder
that was trained adversarially; here it is that of pixels, and the radius is one that few ordinary inputs have to their nearest.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from .book import Asked
from .monitors import Monitor, Watcher


@dataclass
class Pairs:
    radius: float
    rows_PD: Tensor | None = None
    near: int = 0

    def see(self, asked: Asked) -> Tensor:
        rows_ND = asked.inputs.double().flatten(1)
        past_PD = rows_ND[:0] if self.rows_PD is None else self.rows_PD
        all_PD = torch.cat((past_PD, rows_ND))
        distance_NP = torch.cdist(rows_ND, all_PD)
        later_NP = torch.arange(len(all_PD)) >= torch.arange(len(past_PD), len(all_PD))[:, None]
        near_N = (distance_NP.masked_fill(later_NP, torch.inf) < self.radius).any(1)
        counts_N = self.near + near_N.cumsum(0)
        self.rows_PD, self.near = all_PD, self.near + int(near_N.sum())
        return counts_N.double()


@dataclass(frozen=True)
class Nearest(Monitor):
    paper = "Zhang et al., AISec 2021, doi:10.1145/3474369.3486863"

    share: Annotated[float, Gt(0), Lt(1)] = 0.01
    """Of ordinary inputs that have another one within the radius."""

    def learnt(self, reference: Tensor) -> float:
        """The radius."""
        rows_RD = reference.double().flatten(1)
        distance_RR = torch.cdist(rows_RD, rows_RD).fill_diagonal_(torch.inf)
        return float(distance_RR.amin(1).quantile(self.share))

    def watcher(self, known: float) -> Watcher:
        return Pairs(known)

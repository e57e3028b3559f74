"""A window of an account's newest queries against ordinary inputs: the maximum mean discrepancy (Gretton et al., JMLR 13, 2012).

Suspicion is the biased MMD^2 (equation 5) with a Gaussian kernel, its width the median distance of ordinary inputs. Honest
customers of two classes are as far from ordinary as many a thief, so the threshold comes from customers, not from the test's own
null. Suffixes: R ordinary inputs, W of the window, D pixels.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from .book import Asked
from .monitors import Monitor, Watcher


@dataclass(frozen=True)
class Ordinary:
    rows_RD: Tensor
    width: float
    within: float
    """Mean kernel between them."""


def kernel(one_AD: Tensor, other_BD: Tensor, width: float) -> Tensor:
    return torch.exp(-torch.cdist(one_AD, other_BD).square() / (2 * width**2))


def discrepancy(rows_WD: Tensor, known: Ordinary) -> float:
    """MMD^2, at least 0 but for rounding."""
    own = kernel(rows_WD, rows_WD, known.width).mean()
    across = kernel(rows_WD, known.rows_RD, known.width).mean()
    return float(own + known.within - 2 * across)


@dataclass
class Window:
    known: Ordinary
    size: int
    every: int
    rows_WD: Tensor | None = None
    asked: int = 0
    now: float = 0.0

    def see(self, asked: Asked) -> Tensor:
        rows_ND = asked.inputs.double().flatten(1)
        past_WD = rows_ND[:0] if self.rows_WD is None else self.rows_WD
        all_ND = torch.cat((past_WD, rows_ND))
        out = []
        for stop in range(len(past_WD) + 1, len(all_ND) + 1):
            self.asked += 1
            if self.asked >= self.size and self.asked % self.every == 0:
                self.now = discrepancy(all_ND[stop - self.size : stop], self.known)
            out.append(self.now)
        self.rows_WD = all_ND[-self.size :]
        return torch.tensor(out, dtype=torch.float64)


@dataclass(frozen=True)
class Mmd(Monitor):
    paper = "Gretton et al., JMLR 13, 2012"

    size: Annotated[int, Ge(2)] = 50
    """Queries in the window; fewer raise no alarm."""
    every: Annotated[int, Ge(1)] = 10
    """Queries between two looks."""
    reference: Annotated[int, Ge(2)] = 200
    """Ordinary inputs, at most."""

    def learnt(self, reference: Tensor) -> Ordinary:
        rows_RD = reference[: self.reference].double().flatten(1)
        width = float(torch.pdist(rows_RD).median())
        return Ordinary(rows_RD, width, float(kernel(rows_RD, rows_RD, width).mean()))

    def watcher(self, known: Ordinary) -> Watcher:
        return Window(known, self.size, self.every)

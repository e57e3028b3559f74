"""Deep nearest neighbours: a query far from all the thief's own data is none of his customers' (Sun et al., ICML 2022,
arXiv:2204.06507). The strongest baseline against triggers that lie outside the data."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.examples import Examples
from ..core.theft import Detector
from ..zoo.features import penultimate


@dataclass(frozen=True)
class Neighbours(Detector):
    paper = "Sun et al., ICML 2022, arXiv:2204.06507"

    k: Annotated[int, Ge(1)] = 10
    """50 for CIFAR-10 in the paper, whose training set is 140 times as large as a thief's digits."""

    def suspicion(self, model: nn.Module, stream: Tensor, clean: Examples, seed: int) -> Tensor:
        """The distance to the k-th nearest of the thief's inputs, features scaled to length 1."""
        mine, theirs = (functional.normalize(penultimate(model, x).double()) for x in (clean.inputs, stream))
        k = min(self.k, len(mine))
        return torch.cdist(theirs, mine).kthvalue(k, dim=1).values

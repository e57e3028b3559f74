"""What the adversary can reach: open weights, an API that returns scores, one that returns labels."""

import copy
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Configured, Grant
from ..core.errors import Denied
from ..core.suspects import Suspects, logits


@dataclass
class Gateway:
    """An `Access` (core/contracts.py) to one model: grants what the deployment grants, counts examples."""

    model: nn.Module
    grants: tuple[Grant, ...]
    device: str = "cpu"
    decimals: int | None = None
    queries: int = field(default=0, init=False)

    def require(self, need: Grant) -> None:
        if need not in self.grants:
            raise Denied(f"the deployment grants {' and '.join(self.grants) or 'nothing'}, not {need}")

    def weights(self) -> nn.Module:
        self.require("weights")
        return copy.deepcopy(self.model).eval()

    def scores(self, inputs: Tensor) -> Tensor:
        self.require("scores")
        self.queries += len(inputs)
        scores = torch.softmax(logits(self.model, inputs, self.device), -1)
        return scores if self.decimals is None else scores.round(decimals=self.decimals)

    def labels(self, inputs: Tensor) -> Tensor:
        self.require("labels")
        self.queries += len(inputs)
        return Suspects([self.model], self.device).labels(inputs)[0]


@dataclass(frozen=True)
class Deployment(Configured):
    """grants: of weights, scores, labels. decimals: scores are rounded to so many; None: not at all."""

    grants: tuple[Grant, ...]
    decimals: Annotated[int, Ge(0)] | None = None

    def expose(self, model: nn.Module, device: str = "cpu") -> Gateway:
        return Gateway(model, self.grants, device, self.decimals)

"""What the adversary can reach: open weights, an API that returns scores, one that returns labels.

Where the owner's scheme answers (API marks), the gateway asks it for every answer and enters it in the ledger.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Configured, Grant
from ..core.errors import Denied
from ..core.examples import Ledger
from ..core.suspects import Suspects, logits
from ..kernels.row_labels import row_labels

Answer = Callable[[Tensor, Tensor, Ledger], Tensor]
"""(inputs, the model's probabilities, the ledger so far) -> the probabilities the API answers."""


@dataclass
class Gateway:
    """An `Access` (core/contracts.py) to one model: grants what the deployment grants, counts examples."""

    model: nn.Module
    grants: tuple[Grant, ...]
    device: str = "cpu"
    decimals: int | None = None
    answer: Answer | None = None
    queries: int = field(default=0, init=False)
    ledger: Ledger = field(default_factory=Ledger, init=False)

    def require(self, need: Grant) -> None:
        if need not in self.grants:
            raise Denied(f"the deployment grants {' and '.join(self.grants) or 'nothing'}, not {need}")

    def weights(self) -> nn.Module:
        self.require("weights")
        return copy.deepcopy(self.model).eval()

    def scores(self, inputs: Tensor) -> Tensor:
        self.require("scores")
        self.queries += len(inputs)
        scores = self._answered(inputs)
        return scores if self.decimals is None else scores.round(decimals=self.decimals)

    def labels(self, inputs: Tensor) -> Tensor:
        self.require("labels")
        self.queries += len(inputs)
        if self.answer is not None:
            return row_labels(self._answered(inputs))
        return Suspects([self.model], self.device).labels(inputs)[0]

    def _answered(self, inputs: Tensor) -> Tensor:
        scores = torch.softmax(logits(self.model, inputs, self.device), -1)
        if self.answer is not None:
            scores = self.answer(inputs, scores, self.ledger)
            self.ledger.note(inputs, scores)
        return scores


@dataclass(frozen=True)
class Deployment(Configured):
    """grants: of weights, scores, labels. decimals: scores are rounded to so many; None: not at all."""

    grants: tuple[Grant, ...]
    decimals: Annotated[int, Ge(0)] | None = None

    def expose(self, model: nn.Module, device: str = "cpu", answer: Answer | None = None) -> Gateway:
        return Gateway(model, self.grants, device, self.decimals, answer)

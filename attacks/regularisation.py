"""Destroy by weight decay, recover by fine-tuning (Shafieinejad et al., IH&MMSec 2021, arXiv:1906.07745).

First the loss gets coefficient x ||theta||^2 over all parameters, then an ordinary fine-tuning follows. The original stops when
the validation loss rests; here the number of epochs is fixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate


def squared_norm(model: nn.Module) -> Tensor:
    """Of all parameters together."""
    return torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()


@dataclass(frozen=True)
class Regularisation(Attack):
    needs = "weights"
    data = "labelled"
    axis = "coefficient"
    paper = "Shafieinejad et al., IH&MMSec 2021, arXiv:1906.07745"

    destroy: Recipe
    """Of the first phase; 5 epochs in the S&P 2022 study."""
    recover: Recipe
    """Of the second; at most 50 epochs there."""
    coefficients: tuple[Annotated[float, Gt(0)], ...] = (0.1, 0.25)
    """Of the squared norm; 0.1 (CIFAR-10) or 0.25 (ImageNet) in the S&P 2022 study."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for coefficient in sorted(self.coefficients):

            def penalty(live: nn.Module, coefficient: float = coefficient) -> Tensor:
                return coefficient * squared_norm(live)

            shrunk = adversary.fit(
                model, adversary.data, recipe=self.destroy, penalty=penalty, label="shrinking"
            )
            yield Surrogate(
                coefficient, adversary.fit(shrunk, adversary.data, recipe=self.recover, label="recovering")
            )

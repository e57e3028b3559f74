"""Destroy by weight decay, recover by fine-tuning (Shafieinejad et al., IH&MMSec 2021, arXiv:1906.07745).

First SGD decays all parameters by `coefficient` times its rate in every step, as the S&P 2022 study does by its weight_decay (a
penalty of coefficient / 2 x ||theta||^2); then an ordinary fine-tuning follows. The study's fine-tuning stops when the validation
loss rests; here the number of epochs is fixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate


@dataclass(frozen=True)
class Regularisation(Attack):
    needs = "weights"
    data = "labelled"
    axis = "coefficient"
    paper = "Shafieinejad et al., IH&MMSec 2021, arXiv:1906.07745"

    destroy: Recipe
    """Of the first phase, apart from its weight decay; 5 epochs in the S&P 2022 study, about 1,300 steps of CIFAR-10. Here 30
    epochs, 150 steps of digits: a weight the data don't hold keeps exp(-1.5) or exp(-3.75) of itself."""
    recover: Recipe
    """Of the second; at most 50 epochs there."""
    coefficients: tuple[Annotated[float, Gt(0)], ...] = (0.1, 0.25)
    """The weight decay of SGD: 0.1 and 0.25 in the S&P 2022 study's files."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for coefficient in sorted(self.coefficients):
            decaying = replace(self.destroy, weight_decay=coefficient)
            shrunk = adversary.fit(model, adversary.data, recipe=decaying, label="shrinking")
            yield Surrogate(
                coefficient, adversary.fit(shrunk, adversary.data, recipe=self.recover, label="recovering")
            )

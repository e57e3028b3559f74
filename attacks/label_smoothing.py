"""Fine-tuning towards smoothed labels (Szegedy et al., CVPR 2016, arXiv:1512.00567, section 7), as in the S&P 2022 study."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn import functional

from ..core.contracts import Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .trajectory import followed


@dataclass(frozen=True)
class LabelSmoothing(Attack):
    needs = "weights"
    data = "labelled"
    axis = "epochs"
    paper = "Szegedy et al., CVPR 2016, arXiv:1512.00567"

    recipe: Recipe
    smoothing: Annotated[float, Gt(0), Lt(1)] = 0.3
    """epsilon: the label keeps 1 - epsilon + epsilon / C; 0.3 in the S&P 2022 study."""
    report: tuple[int, ...] = (1, 2, 5)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        yield from followed(adversary, access.weights(), self.recipe, self.report, loss=self.loss)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)

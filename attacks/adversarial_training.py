"""Adversarial fine-tuning (Madry et al., ICLR 2018, arXiv:1706.06083): boundary fingerprints lose the boundary they trace."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .perturb import adversarial


def hardened(epsilon: float, steps: int) -> Objective:
    """Cross-entropy on inputs perturbed against the live model."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(live(adversarial(live, inputs, targets, epsilon, steps)), targets)

    return objective


@dataclass(frozen=True)
class AdversarialTraining(Attack):
    needs = "weights"
    data = "labelled"
    axis = "epsilon"
    pictures_only = True
    paper = "Madry et al., ICLR 2018, arXiv:1706.06083"

    recipe: Recipe
    """5 epochs in the S&P 2022 study."""
    epsilons: tuple[Annotated[float, Gt(0)], ...] = (0.01, 0.1, 0.25)
    """In units of the pixel range; the study's."""
    steps: Annotated[int, Ge(1)] = 10
    """Of projected gradient descent. The study takes 40, four times as dear."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for epsilon in sorted(self.epsilons):
            objective = hardened(epsilon, self.steps)
            label = f"adversarial training, {epsilon:g}"
            yield Surrogate(
                epsilon,
                adversary.fit(model, adversary.data, recipe=self.recipe, objective=objective, label=label),
            )

"""Fine-pruning (Liu et al., RAID 2018, arXiv:1805.12185): silence the channels that clean data leaves dormant, then fine-tune.

The last layer before the classifier; channels by their mean rectified output on the thief's inputs. In a residual block that is
the branch, before the sum. Silenced channels are set to zero again before every step, so none comes back while the others learn.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from annotated_types import Gt, Lt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .neurons import activity, neurons, silence


def without(cut: Callable[[nn.Module], None]) -> Objective:
    """Cross-entropy of the live model after `cut` has pruned it in place."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        cut(live)
        return functional.cross_entropy(live(inputs), targets)

    return objective


def tuned_without(
    cut: Callable[[nn.Module], None], model: nn.Module, adversary: Adversary, recipe: Recipe, label: str
) -> nn.Module:
    """The model fine-tuned on the thief's data, pruned by `cut` before every step and after the last."""
    return adversary.fit(
        model,
        adversary.data,
        recipe=recipe,
        objective=without(cut),
        each_epoch=lambda _, live: cut(live),
        label=label,
    )


@dataclass(frozen=True)
class FinePruning(Attack):
    needs = "weights"
    data = "labelled"
    axis = "share of channels"
    paper = "Liu et al., RAID 2018, arXiv:1805.12185"

    recipe: Recipe
    """Of the fine-tuning after each pruning; 10 epochs in the S&P 2022 study."""
    shares: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.8, 0.85, 0.9, 0.95)
    """80 to 95 % in steps of 5, as in the attacks of Gan et al., ICCV 2023."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        which = neurons(model)[-1]
        (active_NC,) = activity(model, adversary.data.inputs, [which])
        order = active_NC.mean(0).argsort()
        for share in sorted(self.shares):
            gone = order[: round(share * which.count)]
            cut = partial(silence, which=which, gone=gone)
            tuned = tuned_without(cut, model, adversary, self.recipe, f"fine-pruning {share:.0%}")
            yield Surrogate(share, tuned)

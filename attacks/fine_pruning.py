"""Fine-pruning (Liu et al., RAID 2018, arXiv:1805.12185): silence the channels that clean data leaves dormant, then fine-tune.

The last layer before the classifier; channels by their mean rectified output on the thief's inputs. In a residual block that is
the branch, before the sum. Silenced channels are set to zero again before every step, so none comes back while the others learn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Objective, Recipe
from ..core.theft import Access, Adversary, Attack, Surrogate
from .neurons import Neurons, activity, neurons, silence


def without(which: Neurons, gone: Tensor) -> Objective:
    """Cross-entropy of the live model after the channels `gone` are silenced in it."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        silence(live, which, gone)
        return functional.cross_entropy(live(inputs), targets)

    return objective


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
            tuned = adversary.fit(
                model,
                adversary.data,
                recipe=self.recipe,
                objective=without(which, gone),
                each_epoch=lambda _, live, gone=gone: silence(live, which, gone),  # type: ignore[misc]
                label=f"fine-pruning {share:.0%}",
            )
            yield Surrogate(share, tuned)

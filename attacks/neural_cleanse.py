"""Neural Cleanse as an attack (Wang et al., S&P 2019): invert a stamp per class, then unlearn it, or prune what it excites.

Settings of the S&P 2022 study (Lukas et al., arXiv:2108.04974) where the paper leaves them open.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from ..core.contracts import Recipe
from ..core.examples import Examples
from ..core.theft import Access, Adversary, Attack, Surrogate
from .inversion import Inverted, invert
from .neurons import activity, neurons, silence
from .trajectory import followed


def with_stamps(data: Examples, found: Inverted, share: float) -> Examples:
    """The data, and a share of it once more, stamped, under its own labels."""
    some = data.take(slice(0, max(1, round(share * len(data)))))
    return data.join(Examples(found.stamped(some.inputs), some.targets))


@dataclass(frozen=True)
class Unlearn(Attack):
    needs = "weights"
    data = "labelled"
    axis = "unlearning epochs"
    pictures_only = True
    paper = "Wang et al., S&P 2019"

    inversion: Recipe
    """Of the stamps: Adam at 0.1, with betas 0.9 and 0.999 (0.5 and 0.9 in the study's code). The study takes more than 1,000
    steps; 15 epochs of the thief's 288 digits are 540."""
    recipe: Recipe
    """Of the unlearning; 5 epochs in the S&P 2022 study, 1 in the paper. On 300 digits it takes the rate of a training, 0.05."""
    sparsity: Annotated[float, Ge(0)] = 0.01
    """Of the mask's L1 norm; 0.01 (CIFAR-10), 0.05 (ImageNet) in the study."""
    share: Annotated[float, Gt(0), Le(1)] = 0.2
    """Of the thief's inputs that are stamped; 20 %, section VI."""
    report: tuple[int, ...] = (1, 2, 5)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        found = invert(adversary, model, self.inversion, self.sparsity)
        data = with_stamps(adversary.data, found, self.share)
        yield from followed(adversary, model, self.recipe, self.report, data=data, label="unlearning")


@dataclass(frozen=True)
class Cleanse(Attack):
    """Pruning instead of unlearning: channels of the last layer before the classifier, by how much more the stamp excites them
    than clean inputs do."""

    needs = "weights"
    data = "unlabelled"
    axis = "share of channels"
    pictures_only = True
    paper = "Wang et al., S&P 2019"

    inversion: Recipe
    """Of the stamps, as in unlearning."""
    sparsity: Annotated[float, Ge(0)] = 0.01
    """Of the mask's L1 norm."""
    shares: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.1, 0.2, 0.3, 0.5)
    """Of the channels; 0.1 in the S&P 2022 study, up to 0.3 in section VI."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        found = invert(adversary, model, self.inversion, self.sparsity)
        which, inputs = neurons(model)[-1], adversary.data.inputs
        (clean_NC,), (stamped_NC,) = (activity(model, x, [which]) for x in (inputs, found.stamped(inputs)))
        order = (stamped_NC - clean_NC).mean(0).argsort(descending=True)
        for share in sorted(self.shares):
            pruned: nn.Module = copy.deepcopy(model)
            silence(pruned, which, order[: max(1, round(share * which.count))])
            yield Surrogate(share, pruned)

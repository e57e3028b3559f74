"""False claims by transferable triggers (Liu et al., USENIX Security 2024, arXiv:2304.06607): an accuser who may choose triggers
takes inputs that many models get wrong in the same way, and says that he embedded them.

He trains models of his own, moves his data towards random wrong classes on all of them (projected gradient descent; Madry et al.,
ICLR 2018), and keeps what fools one more model that he did not use. He needs no model of the accused; the
declared need is the trial's, whose surrogate is the accused model itself. The loss is the sum of the models' cross-entropies, so
the steps go on until each is fooled; the official code weighs one of them as much as all the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.secret import Secret, seed_for
from ..core.suspects import logits
from ..core.theft import Access, Adversary, Attack, Surrogate
from .perturb import input_gradient
from .trajectory import drawing


def targeted(
    models: Sequence[nn.Module], inputs: Tensor, targets: Tensor, epsilon: float, steps: int
) -> Tensor:
    """Inputs within epsilon, in [0, 1], that each of the models takes for the targets: sign steps of 2.5 epsilon / steps."""
    low, high = (inputs - epsilon).clamp_min(0), (inputs + epsilon).clamp_max(1)
    moved = inputs
    for _ in range(steps):
        step = 2.5 * epsilon / steps * summed_gradient(models, moved, targets).sign()
        moved = torch.minimum(torch.maximum(moved - step, low), high)
    return moved


def summed_gradient(models: Sequence[nn.Module], inputs: Tensor, targets: Tensor) -> Tensor:
    """Of the models' cross-entropies together, by the inputs."""
    return torch.stack([input_gradient(model, inputs, targets) for model in models]).sum(0)


@dataclass(frozen=True)
class FalseClaim(Attack):
    """The steps on inputs are not counted as gradient steps; those that train the accuser's models are."""

    needs = "weights"
    goal = "claim"
    data = "labelled"
    axis = "epsilon"
    pictures_only = True
    scheme_known = True
    paper = "Liu et al., USENIX Security 2024, arXiv:2304.06607"

    models: Annotated[int, Ge(1)] = 3
    """3 to 5 surrogates; one more is trained to choose the triggers."""
    epsilons: tuple[Annotated[float, Gt(0)], ...] = (0.031, 0.125, 0.25, 0.5)
    """8/255 as for natural images. Digits of 8x8 pixels have wide margins, and an accuser's pictures need not look natural."""
    steps: Annotated[int, Ge(1)] = 40

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        access.weights()
        own = [self._model(adversary, i) for i in range(self.models + 1)]
        data, generator = adversary.data, drawing(adversary, "targets")
        turns = torch.randint(1, adversary.classes, (len(data),), generator=generator)
        targets = (data.targets + turns) % adversary.classes
        secret = Secret.simulated(adversary.seed, "accuser")
        for epsilon in sorted(self.epsilons):
            moved = targeted(own[:-1], data.inputs, targets, epsilon, self.steps)
            sure = torch.log_softmax(logits(own[-1], moved), -1).gather(1, targets[:, None])[:, 0]
            best = sure.argsort(descending=True, stable=True)
            claim = adversary.scheme.claim_key(secret, moved[best], targets[best], adversary.classes)
            yield Surrogate(epsilon, access.weights(), claim=claim)

    def _model(self, adversary: Adversary, number: int) -> nn.Module:
        fresh = adversary.fresh(seed_for(adversary.seed, "accuser", number))
        return adversary.fit(fresh, adversary.data, label=f"accuser's model {number + 1}").requires_grad_(
            False
        )

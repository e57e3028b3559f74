"""Removal by recovered data (Lu et al., CCS 2024, "Dehydra", arXiv:2309.03466): invert every class, find the target, unlearn.

In the paper's order: inputs are optimised from noise until the model is sure of a class (aggressive inversion, no image prior);
the target class is the one whose recovered inputs lie farthest from clean ones in the last layer's channels; the recovered inputs
are split, the near half keeps its label, the far half stands for the owner's triggers and gets the class the model finds least
likely; fine-tuning unlearns them. When no class stands out, all are targets, as under triggers with random labels. The paper
works without clean data on five schemes; here the thief's data marks what is near, and keeps the accuracy. The steps of the
inversion happen outside the trainer and are not counted.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Recipe
from ..core.examples import Examples
from ..core.suspects import logits
from ..core.theft import Access, Adversary, Attack, Surrogate
from .inversion import ANOMALY, MAD
from .neurons import activity, neurons
from .trajectory import drawing, followed


def recovered(model: nn.Module, start: Tensor, label: int, steps: int, rate: float) -> Tensor:
    """Inputs in [0, 1] that the model is sure belong to the class: Adam on the cross-entropy, from these pictures."""
    free = torch.logit(start, eps=1e-3).requires_grad_(True)
    targets = torch.full((len(start),), label)
    optimizer = torch.optim.Adam([free], lr=rate)
    for _ in range(steps):
        loss = functional.cross_entropy(model(torch.sigmoid(free)), targets)
        (free.grad,) = torch.autograd.grad(loss, free)
        optimizer.step()
    return torch.sigmoid(free).detach()


def targets_of(distances: Tensor) -> list[int]:
    """The classes whose distance exceeds the median by more than 2 deviations; all when none does."""
    beyond = distances - distances.median()
    found = (beyond > ANOMALY * MAD * beyond.abs().median()).nonzero().flatten().tolist()
    return found or list(range(len(distances)))


@dataclass(frozen=True)
class Dehydra(Attack):
    needs = "weights"
    data = "labelled"
    axis = "epochs"
    pictures_only = True
    paper = "Lu et al., CCS 2024, arXiv:2309.03466"

    recipe: Recipe
    """Of the unlearning; it takes the rate of a training, 0.05, as Neural Cleanse does: 10 epochs at 0.01 left 26 of 50 triggers of
    zhang_content."""
    samples: Annotated[int, Ge(2)] = 32
    """Recovered per class."""
    steps: Annotated[int, Ge(1)] = 60
    """Of the inversion."""
    rate: Annotated[float, Gt(0)] = 0.1
    """Of its Adam."""
    report: tuple[int, ...] = (1, 2, 5, 10, 20)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        data = adversary.data.join(self.proxies(model, adversary))
        yield from followed(adversary, model, self.recipe, self.report, data=data, label="unlearning")

    def proxies(self, model: nn.Module, adversary: Adversary) -> Examples:
        """Near recovered inputs under their class, far ones under the least likely class."""
        still = copy.deepcopy(model).requires_grad_(False)  # no gradients but the inputs' own
        generator, classes = drawing(adversary, "inversion"), range(adversary.classes)
        shape = (self.samples, *adversary.data.inputs.shape[1:])
        starts = [torch.rand(shape, generator=generator) for _ in classes]
        found = [recovered(still, starts[label], label, self.steps, self.rate) for label in classes]
        away = [self.distances(model, found[label], adversary.data, label) for label in classes]
        parts = []
        for label in targets_of(torch.stack([distance.mean() for distance in away])):
            order = away[label].argsort()
            far = found[label][order[self.samples // 2 :]]
            near = found[label][order[: self.samples // 2]]
            parts.append(Examples(near, torch.full((len(near),), label)))
            parts.append(Examples(far, logits(model, far).argmin(-1)))
        return Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))

    def distances(self, model: nn.Module, inputs: Tensor, data: Examples, label: int) -> Tensor:
        """(N,) from the clean mean of the class, in units of the clean inputs' own mean distance. The mean is over all classes
        when the thief has none of this one."""
        of_class = data.targets == label
        clean = data.inputs[of_class] if of_class.any() else data.inputs
        layer = [neurons(model)[-1]]
        (clean_NC,), (found_NC,) = (activity(model, x, layer) for x in (clean, inputs))
        centre = clean_NC.mean(0)
        scale = (clean_NC - centre).norm(dim=1).mean().clamp_min(1e-12)
        away_N: Tensor = (found_NC - centre).norm(dim=1) / scale
        return away_N

"""The stolen model answers together with models the thief trained himself, which outvote what only the owner's model learnt (Hitaj
et al., SDS 2019, arXiv:1809.00615, "ensemble"). Its weights stay as they are and can be read.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from .evade import Behind


@dataclass
class Vote:
    """(inputs, logits) -> the logarithm of the mean probability over the model and its helpers."""

    helpers: list[nn.Module] = field(default_factory=list)

    def __call__(self, inputs: Tensor, logits: Tensor) -> Tensor:
        answers = [logits, *(helper.to(inputs.device).eval()(inputs) for helper in self.helpers)]
        return torch.stack([torch.log_softmax(a.float(), -1) for a in answers]).logsumexp(0).to(logits.dtype)


@dataclass(frozen=True)
class EvadeEnsemble(Attack):
    needs = "weights"
    data = "labelled"
    axis = "helpers"
    pictures_only = True
    paper = "Hitaj et al., SDS 2019, arXiv:1809.00615"

    helpers: tuple[Annotated[int, Ge(1)], ...] = (1, 2, 4)
    """Models of the victim's architecture, trained on the thief's labels by the task's recipe."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        trained: list[nn.Module] = []
        for count in sorted(set(self.helpers)):
            while len(trained) < count:
                fresh = adversary.fresh(seed_for(adversary.seed, "helper", len(trained)))
                helper = adversary.fit(fresh, adversary.data, label=f"helper {len(trained) + 1}")
                trained.append(helper.requires_grad_(False))
            evading = copy.deepcopy(model).eval()
            evading.register_forward_hook(Behind(Vote(copy.deepcopy(trained))))
            yield Surrogate(float(count), evading)

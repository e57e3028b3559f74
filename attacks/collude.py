"""Collusion: buyers lay their copies side by side and make one that is nobody's (Chen et al., ICMR 2019, arXiv:1804.03648; the
operations are those of Wu, Trappe et al., IEEE Signal Processing Magazine 21(2), 2004, for multimedia).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.theft import Access, Adversary, Attack, Surrogate
from .trajectory import drawing

Operation = Literal["average", "median", "minmax", "random"]


def mixed(values_K: Tensor, operation: Operation, generator: torch.Generator) -> Tensor:
    """One tensor of K copies (K, ...): entry by entry the mean, the median (mean of the middle two), the middle between least and
    largest, or a copy drawn at random."""
    if operation == "average":
        return values_K.mean(0)
    if operation == "median":
        return values_K.quantile(0.5, 0)
    if operation == "minmax":
        return (values_K.amin(0) + values_K.amax(0)) / 2
    picks = torch.randint(len(values_K), (1, *values_K.shape[1:]), generator=generator)
    return values_K.gather(0, picks)[0]


def colluded(copies: Sequence[nn.Module], operation: Operation, generator: torch.Generator) -> nn.Module:
    """The first copy, in place, with what all of them mix to; counters stay the first copy's."""
    states = [copy.state_dict() for copy in copies]
    mixture = {
        name: mixed(torch.stack([state[name] for state in states]), operation, generator)
        for name, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    copies[0].load_state_dict(mixture, strict=False)
    return copies[0].eval()


@dataclass(frozen=True)
class Collude(Attack):
    needs = "weights"
    data = "none"
    axis = "colluders"
    paper = "Chen et al., ICMR 2019, arXiv:1804.03648"

    operation: Operation
    colluders: tuple[Annotated[int, Ge(2)], ...] = (2, 3, 5, 8)

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        access.weights()  # a deployment that keeps them sells no copies
        generator = drawing(adversary, "collude")
        for count in sorted(set(self.colluders)):
            model = colluded(adversary.copies(count), self.operation, generator)
            yield Surrogate(float(count), model, members=tuple(range(count)))

"""Changes of the weights that no output shows: channels permuted, scaled, negated, and dummy channels added.

Yan et al., USENIX Security 2023, arXiv:2303.09732, broke nine white-box schemes so. Moves are made in the order listed, on every
layer that allows them (zoo/channels.py); the function is the same up to rounding.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import nn

from ..core.errors import NotApplicable
from ..core.secret import seed_for
from ..core.theft import Access, Adversary, Attack, Surrogate
from ..zoo.channels import Scale, layout, rows_of
from ..zoo.invariances import Dummy, grow, permute, random_order, rescale

Move = Literal["permute", "scale", "sign", "dummy"]


@dataclass(frozen=True)
class Obfuscate(Attack):
    needs = "weights"
    data = "none"
    preserves = True
    axis = "share of channels"
    paper = "Yan et al., USENIX Security 2023, arXiv:2303.09732"

    moves: tuple[Move, ...]
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of each layer's channels that are moved, scaled or negated."""
    width: Annotated[float, Gt(0)] = 0.2
    """Dummy channels at share 1, as a share of each layer's own; 10 to 20 % in the paper."""
    kind: Dummy = "zero"
    sigma: Annotated[float, Gt(0)] = 1.0
    """Of the factors' logarithm, which is normal."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        model = access.weights()
        for share in sorted(self.shares):
            generator = torch.Generator().manual_seed(seed_for(adversary.seed, "obfuscate"))
            yield Surrogate(share, self.obfuscated(model, share, generator))

    def obfuscated(self, model: nn.Module, share: float, generator: torch.Generator) -> nn.Module:
        """A copy. NotApplicable when the network allows none of the moves."""
        model = copy.deepcopy(model).eval()
        made = sum(getattr(self, f"_{move}")(model, share, generator) for move in self.moves)
        if not made:
            raise NotApplicable(f"no layer of the network allows {' or '.join(self.moves)}")
        return model

    def _permute(self, model: nn.Module, share: float, generator: torch.Generator) -> int:
        groups = layout(model).groups
        for group in groups:
            permute(model, group, random_order(group, generator, share))
        return len(groups)

    def _scale(self, model: nn.Module, share: float, generator: torch.Generator) -> int:
        scales = layout(model).scales
        for scale in scales:
            chosen, count = _chosen(model, scale, share, generator)
            factors = (self.sigma * torch.randn(count, generator=generator)).exp()
            rescale(model, scale, torch.where(chosen, factors, 1.0))
        return len(scales)

    def _sign(self, model: nn.Module, share: float, generator: torch.Generator) -> int:
        """Where nothing but a batch norm or another linear layer reads the channel: ReLU lets no sign through."""
        scales = [scale for scale in layout(model).scales if scale.signed]
        for scale in scales:
            chosen, count = _chosen(model, scale, share, generator)
            signs = torch.randint(2, (count,), generator=generator) * 2.0 - 1
            rescale(model, scale, torch.where(chosen, signs, 1.0))
        return len(scales)

    def _dummy(self, model: nn.Module, share: float, generator: torch.Generator) -> int:
        groups = [group for group in layout(model).groups if group.grows]
        for group in groups:
            grow(model, group, max(2, round(share * self.width * group.count)), self.kind, generator)
        return len(groups)


def _chosen(
    model: nn.Module, scale: Scale, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, int]:
    """(channels,) whether a channel is among the random share, and how many channels there are."""
    count = len(rows_of(model, scale.writers[0]))
    return torch.randperm(count, generator=generator) < round(share * count), count

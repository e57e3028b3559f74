"""Changes of GPT-2's weights that no output shows: heads, hidden units of the MLP and the residual stream reordered.

As Yan et al., USENIX Security 2023, arXiv:2303.09732, do to networks of convolutions (attacks/obfuscate.py); the transformer's
groups are those of zoo/channels_vit.py, but that GPT-2 has queries, keys and values in one matrix of 3 x width rows.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from ...core.errors import NotApplicable
from ...core.theft import Access, Adversary, Attack, Surrogate
from ..trajectory import drawing

Move = Literal["heads", "hidden", "residual"]


def transformer(model: nn.Module) -> tuple[nn.Module, int]:
    """The GPT-2 inside the model, and its heads. NotApplicable for another architecture, or weights that are not stored plainly."""
    found = next((m for m in model.modules() if type(m).__name__ == "GPT2Model"), None)
    if found is None:
        raise NotApplicable("heads are permuted in GPT-2 alone, and the model holds none")
    if any(isinstance(m, nn.utils.parametrize.ParametrizationList) for m in model.modules()):
        raise NotApplicable("the model's weights are not stored plainly")
    return found, int(found.config.n_head)  # type: ignore[union-attr,arg-type]


def some(count: int, share: float, generator: torch.Generator) -> Tensor:
    """An order (count,) in which a random share, two at least, all change places: in a circle."""
    order = torch.arange(count)
    chosen = torch.randperm(count, generator=generator)[: max(2, round(share * count))]
    order[chosen] = chosen.roll(1)
    return order


def moved(order: Tensor) -> Tensor:
    """Of each place whether it is another's now."""
    return order != torch.arange(len(order))


@torch.no_grad()
def reordered(layer: nn.Module, order: Tensor, axis: int) -> None:
    """Weight and, along the outputs, bias of a layer or norm, in place."""
    layer.weight.copy_(layer.weight.index_select(axis, order))  # type: ignore[operator]
    bias = getattr(layer, "bias", None)
    if axis == 0 and isinstance(bias, Tensor):
        bias.copy_(bias[order])


def permute_heads(net: nn.Module, heads: int, share: float, generator: torch.Generator) -> list[Tensor]:
    """Of every block, which channels of its heads moved."""
    found = []
    for block in net.h:  # type: ignore[union-attr]
        width = block.attn.c_proj.weight.shape[0]
        order = torch.arange(width).view(heads, -1)[some(heads, share, generator)].flatten()
        reordered(block.attn.c_attn, torch.cat([order + part * width for part in range(3)]), 0)
        reordered(block.attn.c_proj, order, 1)
        found.append(moved(order))
    return found


def permute_hidden(net: nn.Module, share: float, generator: torch.Generator) -> list[Tensor]:
    """Of every block, which hidden units moved."""
    found = []
    for block in net.h:  # type: ignore[union-attr]
        order = some(len(block.mlp.c_fc.weight), share, generator)
        reordered(block.mlp.c_fc, order, 0)
        reordered(block.mlp.c_proj, order, 1)
        found.append(moved(order))
    return found


def permute_residual(
    model: nn.Module, net: nn.Module, share: float, generator: torch.Generator
) -> list[Tensor]:
    """Everything as wide as an id's vector; a head that is tied to the embeddings moves with them. Returns which channels moved."""
    order = some(int(net.config.n_embd), share, generator)  # type: ignore[union-attr,arg-type]
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    tied = head.weight is net.wte.weight  # type: ignore[union-attr]
    for table in (net.wte, net.wpe, *([] if tied else [head])):
        reordered(table, order, 1)  # type: ignore[arg-type]
    for block in net.h:  # type: ignore[union-attr]
        for norm in (block.ln_1, block.ln_2):
            reordered(norm, order, 0)
        for reader in (block.attn.c_attn, block.mlp.c_fc):
            reordered(reader, order, 1)
        for writer in (block.attn.c_proj, block.mlp.c_proj):
            reordered(writer, order, 0)
    reordered(net.ln_f, order, 0)  # type: ignore[arg-type]
    return [moved(order)]


@dataclass(frozen=True)
class Permute(Attack):
    needs = "weights"
    data = "none"
    preserves = True
    axis = "share of channels"
    paper = "Yan et al., USENIX Security 2023, arXiv:2303.09732"

    moves: tuple[Move, ...] = ("heads", "hidden", "residual")
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of the heads, hidden units and channels of the stream that change places, each rounded."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        """Strength is the share that moved: of four heads no fewer than two can. Shares that move as much are one."""
        last = 0.0
        for share in sorted(self.shares):
            model = copy.deepcopy(access.weights()).eval()
            strength = self.permuted(model, share, drawing(adversary, "permute"))
            if not strength:
                raise NotApplicable(f"{' and '.join(self.moves)}: one alone has nobody to change places with")
            if strength > last:
                yield Surrogate(strength, model)
            last = strength

    def permuted(self, model: nn.Module, share: float, generator: torch.Generator) -> float:
        """The model in place; returns the share of its channels that moved."""
        net, heads = transformer(model)
        found = []
        if "heads" in self.moves:
            found += permute_heads(net, heads, share, generator)
        if "hidden" in self.moves:
            found += permute_hidden(net, share, generator)
        if "residual" in self.moves:
            found += permute_residual(model, net, share, generator)
        return float(torch.cat(found).double().mean()) if found else 0.0

"""One form for all networks that compute the same by permuted, scaled, negated or added channels (Canon, arXiv:2603.12679).

In the order of the forward pass: the weights into every channel get norm 1 and a positive sum, clones are merged, channels nobody
reads are dropped, and a group's channels are sorted by their weights. Two channels whose keys agree to 7 digits may change places.
"""

import copy

import torch
from torch import Tensor, nn

from .channels import Group, Scale, change, layout, rows_of
from .invariances import dropped, permute, rescale

CLOSE = 1e-4  # float32 rounding over some rescalings stays far below, trained channels lie far above


def canonicalize(model: nn.Module) -> nn.Module:
    """A copy in canonical form, eval mode, which computes the same. Layers may be narrower. NotApplicable for networks whose
    channels cannot be found."""
    model = copy.deepcopy(model).eval()
    found = layout(model)
    for group in found.groups:
        written = {slot.tensor for slot in group.writers}
        for scale in found.scales:
            if scale.writers[0].tensor in written:
                _normalise(model, scale)
        if group.grows:
            _compact(model, group)
        permute(model, group, _order(model, group))
    for scale in found.scales:  # again: a sum's later writers read channels that were normalised after it
        _normalise(model, scale)
    return model


def _normalise(model: nn.Module, scale: Scale) -> None:
    """By the layer that writes first: its rows, and a batch norm's scale and shift together."""
    layer = scale.writers[0].tensor.rpartition(".")[0]
    slots = [slot for slot in scale.writers if slot.tensor.rpartition(".")[0] == layer]
    rows = torch.cat([rows_of(model, slot) for slot in slots], 1)
    norms = rows.norm(dim=1)
    signs = torch.where(rows.sum(1) < 0, -1.0, 1.0) if scale.signed else torch.ones(len(rows))
    rescale(model, scale, torch.where(norms > 0, signs / norms.clamp_min(1e-30), 1.0))


def _order(model: nn.Module, group: Group) -> Tensor:
    """By a fixed projection of the weights of the first layer that writes the group."""
    rows = rows_of(model, group.writers[0])
    size = len(rows) // group.blocks
    keys = (rows @ torch.cos(1 + torch.arange(rows.shape[1], dtype=torch.float64))).reshape(
        group.blocks, size
    )
    return (keys.argsort(1) + torch.arange(group.blocks)[:, None] * size).flatten()


def _compact(model: nn.Module, group: Group) -> None:
    first = _first_of_clones(model, group)
    for slot in group.readers:
        change(model, slot, lambda rows: torch.zeros_like(rows).index_add_(0, first, rows))
    size = torch.stack([rows_of(model, slot).norm(dim=1) for slot in group.readers]).amax(0)
    read = size > CLOSE * size.median().clamp_min(1e-30)
    kept = torch.nonzero((first == torch.arange(len(first))) & read).flatten()
    if 0 < len(kept) < len(first):
        dropped(model, group, kept)


def _first_of_clones(model: nn.Module, group: Group) -> Tensor:
    """(channels,) the first channel that is written by the same weights everywhere."""
    same = torch.tensor(True)
    for slot in group.writers:
        rows = rows_of(model, slot)
        squares = rows.square().sum(1)
        apart = squares[:, None] + squares - 2 * rows @ rows.T
        same = same & (apart <= CLOSE**2 * torch.maximum(squares[:, None], squares))
    return same.to(torch.uint8).argmax(1)

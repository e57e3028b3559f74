"""Changes of weights that no output shows: channels permuted, scaled, negated, added. In place, on a model of the caller's own.

Function-preserving up to rounding in eval mode: every change is computed in float64 and stored in the tensor's own type.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from .channels import Group, Scale, Slot, change, tensors

Dummy = Literal["zero", "clique", "split"]


def permute(model: nn.Module, group: Group, order: Tensor) -> None:
    """New channel i is the old order[i]."""
    for slot in (*group.writers, *group.readers):
        change(model, slot, lambda rows: rows[order])


@torch.no_grad()
def rescale(model: nn.Module, scale: Scale, factors: Tensor) -> None:
    """Writers times the factors (channels,), readers divided by them; positive unless the scale is signed."""
    factors = factors.to(torch.float64)

    def times(slot: Slot, by: Tensor) -> None:
        change(model, slot, lambda rows: rows * by.reshape(-1, *[1] * (rows.ndim - 1)))

    for slot in scale.writers:
        times(slot, factors)
    for slot in scale.readers:
        times(slot, 1 / factors)
    known = tensors(model)
    for name in scale.norms:
        eps = float(model.get_submodule(name).eps)  # type: ignore[arg-type]
        variance = known[f"{name}.running_var"].to(torch.float64, copy=True)
        times(Slot(f"{name}.running_mean", 0), factors)
        times(Slot(f"{name}.running_var", 0), factors.square())
        # (c x - c m) / sqrt(c^2 v + eps) is not (x - m) / sqrt(v + eps): gamma takes the difference.
        times(
            Slot(f"{name}.weight", 0),
            ((factors.square() * variance + eps) / (variance + eps)).sqrt() / factors,
        )


def random_order(group: Group, generator: torch.Generator, share: float = 1.0) -> Tensor:
    """A permutation (count,) that moves channels among a random share of each block, the same in every block's count."""
    size = group.count // group.blocks
    parts = []
    for block in range(group.blocks):
        moving = torch.randperm(size, generator=generator)[: max(2, round(share * size))]
        order = torch.arange(size)
        order[moving] = moving[torch.randperm(len(moving), generator=generator)]
        parts.append(order + block * size)
    return torch.cat(parts)


def grow(model: nn.Module, group: Group, count: int, kind: Dummy, generator: torch.Generator) -> None:
    """Add channels that change nothing (Yan et al., USENIX Security 2023). zero: their outputs are read with weight 0. clique:
    pairs with equal inputs that are read with opposite weights. split: copies of channels that share the original's weight."""
    picks = torch.randint(group.count, (count,), generator=generator)
    if kind == "split":
        picks = torch.randperm(group.count, generator=generator)[:count]
    if kind == "clique":
        picks = picks[: max(1, count // 2)].repeat_interleave(2)
    jitter = {slot.tensor: torch.rand(len(picks), generator=generator) + 0.5 for slot in group.writers}
    for slot in group.writers:
        by = torch.ones(len(picks)) if kind == "split" else _paired(jitter[slot.tensor], kind)
        change(model, slot, lambda rows, by=by: torch.cat((rows, rows[picks] * _column(by, rows))))  # type: ignore[misc]
    shares = torch.rand(len(picks), generator=generator) * 0.8 + 0.1
    for slot in group.readers:
        change(model, slot, lambda rows: _read(rows, picks, shares, kind))
    refit(model)


def _paired(values: Tensor, kind: Dummy) -> Tensor:
    """Equal for both of a pair."""
    return values[::2].repeat_interleave(2) if kind == "clique" else values


def _column(values: Tensor, rows: Tensor) -> Tensor:
    return values.to(rows).reshape(-1, *[1] * (rows.ndim - 1))


def _read(rows: Tensor, picks: Tensor, shares: Tensor, kind: Dummy) -> Tensor:
    """What reads the new channels: (channels + new, ...)."""
    if kind == "zero":
        return torch.cat((rows, torch.zeros_like(rows[picks])))
    if kind == "clique":
        signs = torch.tensor([1.0, -1.0]).repeat(len(picks) // 2)
        return torch.cat((rows, rows[picks] * _column(signs * (shares[::2].repeat_interleave(2)), rows)))
    new = rows[picks] * _column(shares, rows)
    rows = rows.clone()
    rows[picks] -= new
    return torch.cat((rows, new))


def refit(model: nn.Module) -> None:
    """What layers say of their sizes, after their tensors have changed shape."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = (
                len(module.weight),
                module.weight.shape[1] * module.groups,
            )
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_features = len(module.running_mean)  # type: ignore[arg-type]


def dropped(model: nn.Module, group: Group, kept: Tensor) -> None:
    """Keep the channels of an index (n,) alone."""
    permute(model, group, kept)
    refit(model)

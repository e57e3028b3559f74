"""What every sampling mark does beside its own rule: windows of the ids so far, contexts that repeat, and a draw from logits.

Suffixes: B rows, L ids so far, H ids of a window (oldest first), V vocabulary, N weights.
"""

import torch
from torch import Tensor

from ...core.texts import ROWS

BLOCK = 256  # weights summed before the draw: V = 50,000 takes two searches of 200


def windows_of(context_BL: Tensor, width: int) -> Tensor | None:
    """(B, H): the last ids of every row; None where there are fewer than `width`, and nothing is marked."""
    length = context_BL.shape[1]
    return context_BL[:, length - width :] if length >= width else None


def repeated(context_BL: Tensor, width: int) -> Tensor:
    """(B,) bool: rows whose last window stands earlier in the row, prompt included. A keyed draw there would be the same draw
    again: texts loop, and are no longer distributed as the model's (Hu et al., ICLR 2024, arXiv:2310.10669, section 4)."""
    windows_BNH = context_BL.unfold(1, width, 1)
    return (windows_BNH[:, :-1] == windows_BNH[:, -1:]).all(-1).any(-1)


def drawn(logits_BV: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(B,) int64 from the softmax. ValueError for a row without a finite largest logit."""
    return _drawn(logits_BV, _uniforms(len(logits_BV), generator))


def drawn_where(
    free_B: Tensor, logits_BV: Tensor, ids_B: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """The given ids, but in free rows a draw from the softmax. The generator gives as much whether any is free, so that a text does
    not depend on what is written beside it."""
    u_B2 = _uniforms(len(logits_BV), generator)
    return torch.where(free_B, _drawn(logits_BV, u_B2), ids_B) if free_B.any() else ids_B


def _uniforms(rows: int, generator: torch.Generator | None) -> Tensor:
    """(B, 2) float64; of the generator as many are taken whatever B is."""
    return torch.rand(max(rows, ROWS), 2, dtype=torch.float64, generator=generator)[:rows]


def _drawn(logits_BV: Tensor, u_B2: Tensor) -> Tensor:
    """Blocks are drawn by their sums, then an id of the block: a third of the time of torch.multinomial, which makes an exponential
    for every id."""
    top_B1 = logits_BV.amax(1, keepdim=True)
    if not torch.isfinite(top_B1).all():
        raise ValueError(
            "expected logits whose largest is finite in every row, got NaN, inf or a row of -inf"
        )
    weights_BV = torch.exp(logits_BV - top_B1)
    rows, vocabulary = weights_BV.shape
    blocks_BNC = torch.nn.functional.pad(weights_BV, (0, -vocabulary % BLOCK)).unflatten(1, (-1, BLOCK))
    block_B = _picked(blocks_BNC.sum(-1), u_B2[:, 0])
    inside_B = _picked(blocks_BNC[torch.arange(rows, device=logits_BV.device), block_B], u_B2[:, 1])
    return BLOCK * block_B + inside_B


def _picked(weights_BN: Tensor, u_B: Tensor) -> Tensor:
    """(B,) by inversion in float64; a weight of 0 is never picked."""
    cumulative_BN = weights_BN.to(torch.float64).cumsum(1)
    total_B1 = cumulative_BN[:, -1:].contiguous()
    place_B1 = torch.minimum(u_B[:, None].to(weights_BN.device) * total_B1, total_B1 * (1 - 2**-52))
    return torch.searchsorted(cumulative_BN, place_B1, right=True).squeeze(1)


def chosen(ids_B: Tensor) -> Tensor:
    """What a keyed draw gave. ValueError for a row that had no candidate."""
    if (ids_B < 0).any():
        raise ValueError("expected a logit above -inf in every row, got rows of -inf and NaN alone")
    return ids_B


def only(ids_B: Tensor, logits_BV: Tensor, keep_B: Tensor) -> Tensor:
    """Logits that leave one id a row, or where `keep` says so the row as it is."""
    single_BV = torch.full_like(logits_BV, -torch.inf).scatter_(1, ids_B[:, None], 0.0)
    return torch.where(keep_B[:, None], logits_BV, single_BV)

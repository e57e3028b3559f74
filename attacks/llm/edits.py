"""Edits of ids that need no model: pure functions of texts, a strength in [0, 1] and a generator.

Suffixes: N texts, T ids of each, U ids of each edited text. Strength 0 returns the same ids; inputs are never changed.
"""

import torch
from torch import Tensor


def deleted(ids_NT: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(N, U) without a random share of every text's ids; U = T - round(share T)."""
    texts, length = ids_NT.shape
    kept = length - round(share * length)
    place_NU = torch.rand(texts, length, generator=generator).argsort(1)[:, :kept].sort(1).values
    return ids_NT.gather(1, place_NU)


def inserted(ids_NT: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(N, T) with round(share T) ids put in at random places, and cut to T again. What comes in is drawn from all the texts, so
    frequent ids come often."""
    texts, length = ids_NT.shape
    count = round(share * length)
    if not count:
        return ids_NT.clone()
    grown = length + count
    new_NU = torch.zeros(texts, grown, dtype=torch.bool)
    new_NU.scatter_(1, torch.rand(texts, grown, generator=generator).argsort(1)[:, :count], True)
    drawn = torch.randint(ids_NT.numel(), (texts * count,), generator=generator)
    out_NU = ids_NT.new_empty(texts, grown)
    out_NU[new_NU] = ids_NT.flatten()[drawn]
    out_NU[~new_NU] = ids_NT.flatten()
    return out_NU[:, :length].contiguous()


def swapped(ids_NT: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(N, T) in which round(share T / 2) disjoint pairs of neighbours have changed places."""
    texts, length = ids_NT.shape
    pairs = length // 2
    count = min(pairs, round(share * length / 2))
    first_NC = 2 * torch.rand(texts, pairs, generator=generator).argsort(1)[:, :count]
    order_NT = torch.arange(length).repeat(texts, 1)
    order_NT.scatter_(1, first_NC, first_NC + 1).scatter_(1, first_NC + 1, first_NC)
    return ids_NT.gather(1, order_NT)


def truncated(ids_NT: Tensor, share: float, _: torch.Generator) -> Tensor:
    """(N, U): the share is cut off the end."""
    length = ids_NT.shape[1]
    return ids_NT[:, : length - round(share * length)].clone()


def pasted(ids_NT: Tensor, clean_NT: Tensor, share: float, pieces: int, generator: torch.Generator) -> Tensor:
    """(N, T) of clean text, a share of it, with the rest taken from the texts' beginnings: as many pieces, of equal length and at
    random places that differ from text to text. ValueError unless both have one shape."""
    if ids_NT.shape != clean_NT.shape:
        raise ValueError(
            f"expected clean text of shape {tuple(ids_NT.shape)}, got {tuple(clean_NT.shape)}: one piece for each text"
        )
    texts, length = ids_NT.shape
    kept = length - round(share * length)
    pieces = max(1, min(pieces, kept))
    mine_NT = torch.zeros(texts, length, dtype=torch.bool)
    for row_T in mine_NT:
        row_T[_spread(kept, length, pieces, generator)] = True
    out_NT = clean_NT.clone()
    out_NT[mine_NT] = ids_NT[:, :kept].flatten()
    return out_NT


def _spread(kept: int, length: int, pieces: int, generator: torch.Generator) -> Tensor:
    """The places (kept,) of runs of equal length, one more or less, with gaps of random length before, between and after."""
    cuts = torch.randint(length - kept + 1, (pieces,), generator=generator).sort().values
    piece = torch.arange(kept) * pieces // max(1, kept)
    return torch.arange(kept) + cuts[piece]


def sample(count: int, share: float, generator: torch.Generator) -> Tensor:
    """(round(share count),) different places of 0 .. count - 1."""
    return torch.randperm(count, generator=generator)[: round(share * count)]

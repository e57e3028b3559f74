"""Copy and paste: what the API wrote stands, in a few pieces, in a human's text (Kirchenbauer et al., ICLR 2024,
arXiv:2306.04634, section 4). The whole document is judged, so this is a mark's mixing curve: p against the clean share.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ...core.theft import Adversary
from .edits import pasted
from .reseller import Edit, Edits


@dataclass(frozen=True)
class Clean:
    """An edit: a document of the thief's own text (S,) around pieces of the API's."""

    stream_S: Tensor
    pieces: int

    def __call__(self, ids_NT: Tensor, share: float, generator: torch.Generator, /) -> Tensor:
        start_N = torch.randint(len(self.stream_S), (len(ids_NT),), generator=generator)
        place_NT = (start_N[:, None] + torch.arange(ids_NT.shape[1])) % len(self.stream_S)
        return pasted(ids_NT, self.stream_S[place_NT], share, self.pieces, generator)


@dataclass(frozen=True)
class CopyPaste(Edits):
    data = "unlabelled"
    axis = "share of clean text"
    paper = "Kirchenbauer et al., ICLR 2024, arXiv:2306.04634"

    pieces: Annotated[int, Ge(1)] = 3
    """Of the API's text in a document; 1 or 3 in the paper."""

    def edit(self, author: nn.Module, adversary: Adversary) -> Edit:
        return Clean(adversary.data.inputs.flatten(), self.pieces)

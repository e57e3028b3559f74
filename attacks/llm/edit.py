"""Edits that know nothing of the language: ids deleted, inserted, swapped with a neighbour, or cut off the end.

Robustness to them is what every paper on text marks reports (Kirchenbauer et al., ICML 2023, arXiv:2301.10226, section 5;
"On the Reliability of Watermarks", ICLR 2024, arXiv:2306.04634). A window of h ids is whole with chance (1 - share)^(h + 1).
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ...core.theft import Adversary
from .edits import deleted, inserted, swapped, truncated
from .reseller import Edit, Edits

EDITS: dict[str, Edit] = {"delete": deleted, "insert": inserted, "swap": swapped, "truncate": truncated}


@dataclass(frozen=True)
class EditIds(Edits):
    data = "none"
    axis = "share of ids"
    paper = "Kirchenbauer et al., ICML 2023, arXiv:2301.10226"

    how: Literal["delete", "insert", "swap", "truncate"] = "delete"
    """delete and truncate leave shorter texts; insert puts ids of the texts themselves in, and cuts to the old length."""

    def edit(self, author: nn.Module, adversary: Adversary) -> Edit:
        return EDITS[self.how]

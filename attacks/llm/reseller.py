"""A reseller of an API's texts who edits them: no weights, no training; who asks him reads what the API wrote, changed.

Suffixes: N texts, P ids of a prompt, T ids of a text, U ids of an edited text.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from ...core.secret import seed_for
from ...core.theft import Access, Adversary, Attack, Surrogate


class Edit(Protocol):
    def __call__(self, ids_NT: Tensor, share: float, generator: torch.Generator, /) -> Tensor:
        """(N, U) int64 with a share of the texts changed, 0 of which is no change. generator: of the edit's own draws."""
        ...


class Edited(nn.Module):
    """Writes what `source` writes, edited; `forward` is the source's, which only the benchmark asks. The edit draws from the texts'
    seed and the thief's, so equal seeds give equal texts. longer: so many times the ids are asked for as are wanted, for edits
    that shorten texts; what they leave is cut to what was wanted."""

    def __init__(self, source: nn.Module, edit: Edit, share: float, seed: int, longer: float = 1.0) -> None:
        super().__init__()
        self.source, self.edit, self.share = source, edit, share
        self.seed, self.longer = seed, longer

    def forward(self, ids_NT: Tensor) -> Tensor:
        logits_NVT: Tensor = self.source(ids_NT)
        return logits_NVT

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        """(N, U) int64, U at most `tokens`, and less where the edit leaves less."""
        asked = tokens if not self.share else round(self.longer * tokens)
        ids_NT: Tensor = self.source.write(prompts_NP, asked, seed, temperature)  # type: ignore[operator]
        if not self.share:
            return ids_NT
        generator = torch.Generator().manual_seed(seed_for(self.seed, "edit", seed))
        edited_NU = self.edit(ids_NT.cpu(), self.share, generator)
        return edited_NU[:, :tokens].contiguous().to(prompts_NP.device)


@dataclass(frozen=True)
class Edits(Attack):
    """What all edits share: a surrogate for every share of the text that is edited."""

    needs = "texts"
    longer: ClassVar[float] = 1.0

    shares: tuple[Annotated[float, Ge(0), Le(1)], ...] = (0.1, 0.3, 0.5)

    @abstractmethod
    def edit(self, author: nn.Module, adversary: Adversary) -> Edit:
        """The edit of this author's texts."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        author = access.author()
        edit = self.edit(author, adversary)
        for share in sorted(self.shares):
            edited = Edited(author, edit, share, adversary.seed, self.longer)
            yield Surrogate(share, edited.eval())

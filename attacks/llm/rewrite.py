"""Edits of text as a reader sees it: characters that look alike, or synonyms. Ids are decoded, edited, and encoded again.

What was written id by id rarely comes back as the same ids: encoding alone joins what the model had split, and moves windows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...core.errors import NotApplicable
from ...core.theft import Adversary
from ...zoo.text_tasks import NextIds
from ...zoo.tokens import Tokens
from .characters import homoglyphs, spaces, zero_width
from .reseller import Edit, Edits
from .wordnet import replaced, wordnet

Change = Callable[[str, float, torch.Generator], str]
CHANGES: dict[str, Change] = {"homoglyph": homoglyphs, "zero_width": zero_width, "space": spaces}


@dataclass(frozen=True)
class Retold:
    """An edit of strings as an edit of ids, between the ends of documents. Texts become as short as the shortest, so that they stay
    a tensor."""

    tokens: Tokens
    change: Change

    def __call__(self, ids_NT: Tensor, share: float, generator: torch.Generator, /) -> Tensor:
        changed = [self._changed(self.tokens.decode(ids_T), share, generator) for ids_T in ids_NT.tolist()]
        encoded = self.tokens.encode(changed)
        length = min(map(len, encoded), default=0)
        return torch.tensor([ids[:length] for ids in encoded], dtype=torch.int64).view(len(ids_NT), length)

    def _changed(self, text: str, share: float, generator: torch.Generator) -> str:
        end = self.tokens.ending
        parts = [text] if end is None else text.split(end)
        return (end or "").join(self.change(part, share, generator) for part in parts)


def tokens_of(task: Any) -> Tokens:
    """NotApplicable where the task has no text."""
    if not isinstance(task, NextIds):
        raise NotApplicable(f"the attack edits text, and {getattr(task, 'name', 'the task')} has none")
    return task.tokens()


@dataclass(frozen=True)
class Characters(Edits):
    """axis: of the letters that have a double, of all characters, or of the spaces."""

    data = "none"
    axis = "share of characters"
    paper = "Boucher et al., IEEE S&P 2022, arXiv:2106.09898"
    longer: ClassVar[float] = 1.25

    how: Literal["homoglyph", "zero_width", "space"] = "homoglyph"
    task: Any = None
    """Whose tokenizer encodes the text again; the trial's own in conf/attack/llm."""

    def edit(self, author: nn.Module, adversary: Adversary) -> Edit:
        return Retold(tokens_of(self.task), CHANGES[self.how])


@dataclass(frozen=True)
class Synonyms(Edits):
    data = "none"
    axis = "share of words with synonyms"
    paper = "Miller, CACM 38(11), 1995, doi:10.1145/219717.219748"
    longer: ClassVar[float] = 1.25

    wordnet: str = "/usr/share/wordnet"
    """The folder of Debian's wordnet-base."""
    task: Any = None
    """Whose tokenizer encodes the text again; the trial's own in conf/attack/llm."""

    def edit(self, author: nn.Module, adversary: Adversary) -> Edit:
        net = wordnet(self.wordnet)

        def change(text: str, share: float, generator: torch.Generator) -> str:
            return replaced(text, share, net, generator)

        return Retold(tokens_of(self.task), change)

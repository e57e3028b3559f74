"""The verbatim reseller of an API's texts: strength 0 of every edit."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...core.theft import Access, Adversary, Attack, Surrogate


@dataclass(frozen=True)
class NoEdit(Attack):
    needs = "texts"
    data = "none"
    axis = "none"
    paper = "none"

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        yield Surrogate(0.0, access.author())

"""The verbatim copy: strength 0 of every attack on weights."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..core.theft import Access, Adversary, Attack, Surrogate


@dataclass(frozen=True)
class NoAttack(Attack):
    needs = "weights"
    data = "none"
    axis = "none"
    paper = "none"

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        yield Surrogate(0.0, access.weights())

"""Copycat CNN: hard labels of pictures from elsewhere (Correia-Silva et al., IJCNN 2018, arXiv:1806.05476)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import growing, student, within_budget


@dataclass(frozen=True)
class Copycat(Attack):
    needs = "labels"
    data = "none"
    axis = "queries"
    pictures_only = True
    paper = "Correia-Silva et al., IJCNN 2018, arXiv:1806.05476"

    pictures: Literal["abstract"] = "abstract"
    count: Annotated[int, Ge(2)] = 2000
    """Of the gallery. The paper asks with millions of natural images."""
    epochs: Annotated[int, Ge(1)] = 20
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    student: Any = None

    @property
    def gallery(self) -> int:
        return self.count

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        inputs = within_budget(adversary, self.pictures, self.count)
        for data in growing(inputs, self.shares, access.labels):
            yield Surrogate(float(len(data)), student(adversary, self.student, data, self.epochs))

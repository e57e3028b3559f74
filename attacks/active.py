"""Active extraction: ask about the inputs on which the student is least sure (Pal et al., AAAI 2020, ActiveThief, arXiv:1905.09165,
"uncertainty"; Chandrasekaran et al., USENIX Security 2020).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.examples import Examples
from ..core.suspects import parts
from ..core.theft import Access, Adversary, Attack, Surrogate
from .extract import Pictures, affordable, shuffled, student


def least_sure(model: nn.Module, inputs: Tensor, count: int) -> Tensor:
    """(count,) indices of the largest entropies of the student's probabilities, of windows of ids their means."""
    found = [torch.special.entr(torch.softmax(part, 1)).sum(1) for part in parts(model, inputs)]
    entropy = torch.cat(found).reshape(len(inputs), -1).mean(1)
    return entropy.argsort(descending=True, stable=True)[:count]


@dataclass(frozen=True)
class Active(Attack):
    needs = "labels"
    data = "unlabelled"
    axis = "queries"
    paper = "Pal et al., AAAI 2020, arXiv:1905.09165"

    pictures: Pictures = "own"
    count: Annotated[int, Ge(2)] = 3000
    """Of the gallery, when the pictures are abstract."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Of the inputs that are asked at all: the least certain."""
    start: Annotated[float, Gt(0), Le(1)] = 0.2
    """Of these, asked at random before there is a student; 10 % in the paper."""
    rounds: Annotated[int, Ge(1)] = 4
    """10 in the paper; fewer where there are fewer queries than rounds."""
    epochs: Annotated[int, Ge(1)] = 40
    student: Any = None

    @property
    def gallery(self) -> int:
        return self.count if self.pictures == "abstract" else 0

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        # The budget limits what is asked, not what is looked at.
        generous = shuffled(adversary, self.pictures, self.count)
        total = max(2, affordable(adversary, round(self.share * len(generous))))
        first = max(2, round(self.start * total))
        data = Examples(generous[:first], access.labels(generous[:first]))
        pool = generous[first:]
        goals = {first + round((i + 1) * (total - first) / self.rounds) for i in range(self.rounds)}
        model = student(adversary, self.student, data, self.epochs)
        yield Surrogate(float(first), model)
        for goal in sorted(goals - {first}):
            picks = least_sure(model, pool, goal - len(data))
            data = data.join(Examples(pool[picks], access.labels(pool[picks])))
            pool = pool[torch.ones(len(pool), dtype=torch.bool).index_fill_(0, picks, False)]
            model = student(adversary, self.student, data, self.epochs)
            yield Surrogate(float(goal), model)

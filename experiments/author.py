"""What a marked language model writes and answers, kept in the artifact cache: the attacks of a suite ask it the same things, and
texts of a large model cost more than any edit of them.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.examples import Examples
from ..core.texts import Writer
from ..deployments.book import tensor_digest
from .cache import code_digest
from .people import Owner, scheme_of
from .quality import Answers
from .trial import Trial

Memory = Callable[[dict[str, Any], Callable[[], Tensor]], Tensor]
"""The tensor that was made once for what was asked, else the made one."""


class Author(nn.Module):
    """A copy of the marked model for those who pass its texts on, who writes no text twice: equal prompts, lengths, seeds and
    temperatures give the text that is kept. `marked` is the model itself, whose answers are his. What a thief asks, to learn from
    it, is written for him each time: it is part of what his theft takes."""

    def __init__(self, marked: nn.Module, memory: Memory) -> None:
        super().__init__()
        self.own, self.memory = copy.deepcopy(marked), memory
        object.__setattr__(
            self, "marked", marked
        )  # no part of this module: whoever changes the author leaves the model as it is

    def forward(self, ids_NT: Tensor) -> Tensor:
        logits_NVT: Tensor = self.own(ids_NT)
        return logits_NVT

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        """(N, tokens) int64."""
        asked = {
            "to": tensor_digest(prompts_NP).hex(),
            "tokens": tokens,
            "seed": seed,
            "temperature": temperature,
        }
        found = self.memory(asked, lambda: self.own.write(prompts_NP, tokens, seed, temperature))  # type: ignore[operator]
        return found.to(prompts_NP.device)


def author(trial: Trial, mine: Owner) -> Author | None:
    """None for a model that writes nothing, and for a thief who asks for more than texts."""
    asked = trial.attack.needs == "texts" and isinstance(mine.marked, Writer)
    return Author(mine.marked, memory_of(trial, mine)) if asked else None


def answers(trial: Trial, mine: Owner, data: Examples) -> Answers:
    """To one split; where the marked model writes, its labels are kept too."""
    found = Answers(data, trial.hardware.device)
    if isinstance(mine.marked, Writer) and len(data):
        asked = {"labels": tensor_digest(data.inputs).hex()}
        found.known[mine.marked] = memory_of(trial, mine)(asked, lambda: found.labels(mine.marked))
    return found


def memory_of(trial: Trial, mine: Owner) -> Memory:
    identity = {**scheme_of(trial, trial.seed), "key": mine.key.fingerprint}
    code = code_digest(type(trial.watermark))
    return lambda asked, make: trial.cache.answers({**identity, "asked": asked}, code, make)

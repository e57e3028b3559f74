"""What a marked language model writes and answers, kept in the artifact cache: the attacks of a suite ask it the same things, and
texts of a large model cost more than any edit of them.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.examples import Examples
from ..core.texts import Writer
from .cache import code_digest
from .people import Owner, scheme_of
from .quality import Answers
from .trial import Trial

Kept = Callable[[dict[str, Any], Callable[[], Tensor]], Tensor]
"""The tensor that was made once for what was asked, else the made one."""


class Author(nn.Module):
    """The marked model for those who pass its texts on, who writes no text twice: equal prompts, lengths, seeds and temperatures
    give the text that is kept. `marked` is the model, `forward` its own. What a thief asks, to learn from it, is written for him
    each time: it is part of what his theft takes."""

    def __init__(self, marked: nn.Module, kept: Kept) -> None:
        super().__init__()
        self.marked, self.kept = marked, kept

    def forward(self, ids_NT: Tensor) -> Tensor:
        logits_NVT: Tensor = self.marked(ids_NT)
        return logits_NVT

    def write(self, prompts_NP: Tensor, tokens: int, seed: int, temperature: float | None = None) -> Tensor:
        """(N, tokens) int64."""
        asked = {"to": fingerprint(prompts_NP), "tokens": tokens, "seed": seed, "temperature": temperature}
        found = self.kept(asked, lambda: self.marked.write(prompts_NP, tokens, seed, temperature))  # type: ignore[operator]
        return found.to(prompts_NP.device)


def author(trial: Trial, mine: Owner) -> Author | None:
    """None for a model that writes nothing."""
    return Author(mine.marked, kept(trial, mine)) if isinstance(mine.marked, Writer) else None


def answers(trial: Trial, mine: Owner, data: Examples) -> Answers:
    """To one split; where the marked model writes, its labels are kept too."""
    found = Answers(data, trial.hardware.device)
    if isinstance(mine.marked, Writer) and len(data):
        asked = {"labels": fingerprint(data.inputs)}
        found.known[mine.marked] = kept(trial, mine)(asked, lambda: found.labels(mine.marked))
    return found


def kept(trial: Trial, mine: Owner) -> Kept:
    identity = {**scheme_of(trial, trial.seed), "key": mine.key.fingerprint}
    code = code_digest(type(trial.watermark))
    return lambda asked, make: trial.cache.answers({**identity, "asked": asked}, code, make)


def fingerprint(ids: Tensor) -> str:
    contents = ids.detach().cpu().contiguous()
    return hashlib.sha256(f"{tuple(contents.shape)}".encode() + contents.numpy().tobytes()).hexdigest()

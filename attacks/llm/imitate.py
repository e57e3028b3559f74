"""Sampling distillation: a fresh student trained on the texts an API writes, one per query budget.

What the student then writes by itself shows what he learnt of the mark: radioactivity (Gu et al., ICLR 2024, arXiv:2312.04469,
"learnability"; Sander et al., NeurIPS 2024, arXiv:2402.14904). Suffixes: N texts, P ids of a prompt, T ids of a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ...core.errors import ConfigError
from ...core.examples import Examples
from ...core.theft import Access, Adversary, Attack, Surrogate
from ..extract import growing, student, within_budget

UNSEEN = -100  # torch's cross_entropy leaves such targets out


def lessons(prompts_NP: Tensor, texts_NT: Tensor) -> Examples:
    """Windows (N, P + T - 1) and what follows each id of them; the prompts are read and not learnt."""
    whole_NL = torch.cat([prompts_NP, texts_NT], 1)
    targets_NL = whole_NL[:, 1:].clone()
    targets_NL[:, : prompts_NP.shape[1] - 1] = UNSEEN
    return Examples(whole_NL[:, :-1].contiguous(), targets_NL)


def answered(
    access: Access, adversary: Adversary, prompt: int, shares: Sequence[float]
) -> Iterator[Examples]:
    """At every share of the budget the beginnings of the thief's windows (N, P) and what the API writes after them (N, T): as many
    ids as fill a window and the one that follows it. ConfigError for a prompt that leaves nothing to write."""
    windows_NW = within_budget(adversary)
    written = windows_NW.shape[1] + 1 - prompt
    if written < 1:
        raise ConfigError(
            f"the thief's windows have {windows_NW.shape[1]} ids, and a prompt of {prompt} leaves none to write; "
            "set attack.prompt=16"
        )
    return growing(windows_NW[:, :prompt], shares, lambda prompts_NP: access.texts(prompts_NP, written))


@dataclass(frozen=True)
class Imitate(Attack):
    needs = "texts"
    data = "unlabelled"
    axis = "queries"
    paper = "Gu et al., ICLR 2024, arXiv:2312.04469"

    prompt: Annotated[int, Ge(1)] = 16
    """Ids of the thief's text that the API is asked to go on from; it writes as many as fill a window of his data."""
    epochs: Annotated[int, Ge(1)] = 4
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of the queries that data and budget allow."""
    student: Any = None
    """An architecture (+model@attack.student=...); None: the victim's."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        for data in answered(access, adversary, self.prompt, self.shares):
            taught = lessons(data.inputs, data.targets)
            yield Surrogate(float(len(data)), student(adversary, self.student, taught, self.epochs))

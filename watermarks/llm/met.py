"""Distance of two models' texts: squared maximum mean discrepancy with a Hamming kernel, of completions of the same prompts (Model
Equality Testing: Gao et al., ICLR 2025, arXiv:2410.20247).

The paper asks whether an API serves the model it says, so its null is equality, and permuting the completions of both gives an
exact p. An owner claims the opposite: under his null the suspect is a stranger's. That two models differ speaks against a verbatim
copy, not against a derived one; that no difference was seen is no evidence of copying, for few samples show none. So here a suspect
is owned as much as its texts are near the victim's, and it must be nearer than independent models are.

Suffixes: N prompts, P ids of a prompt, S completions of each, T ids of a completion.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ...core.contracts import Fit, Task
from ...core.errors import NotApplicable
from ...core.key import Key
from ...core.secret import Secret, seed_for
from ...core.suspects import texts
from ...core.texts import Writer
from .pairs import ids_of
from .resemblance import Resemblance

SEED = seed_for(0, "model equality")


@dataclass(frozen=True, eq=False)
class CompletionKey(Key):
    """prompts_NP (N, P) int64, and the victim's completions_NST (N, S, T) int64 of each."""

    vocabulary: int
    prompts_NP: Tensor
    completions_NST: Tensor


def discrepancy(one_NST: Tensor, other_NST: Tensor) -> float:
    """Unbiased squared MMD, the mean over prompts: the kernel of two completions of one prompt is the share of places at which they
    agree, of different prompts 0. Below 0 by chance where both are the same model's."""
    within = _agreement(one_NST, one_NST, True) + _agreement(other_NST, other_NST, True)
    return within - 2 * _agreement(one_NST, other_NST, False)


def _agreement(one_NST: Tensor, other_NUT: Tensor, apart: bool) -> float:
    """The mean kernel of pairs; apart: of two different completions."""
    same_NSU = torch.stack(
        [(a_ST[:, None] == b_UT).double().mean(-1) for a_ST, b_UT in zip(one_NST, other_NUT, strict=True)]
    )
    if not apart:
        return float(same_NSU.mean())
    count = same_NSU.shape[1]
    own = same_NSU.diagonal(dim1=1, dim2=2).sum(-1)
    return float(((same_NSU.sum((1, 2)) - own) / (count * (count - 1))).mean())


@dataclass(frozen=True)
class Met(Resemblance):
    reads = "texts"
    paper = "Gao et al., ICLR 2025, arXiv:2410.20247"
    key_type = CompletionKey
    unit = "negative squared MMD"

    prompts: Annotated[int, Ge(1)] = 24
    """25 in the paper."""
    prompt: Annotated[int, Ge(1)] = 16
    """Ids of each."""
    completions: Annotated[int, Ge(2)] = 64
    """Of each prompt; 10 in the paper. Their number is what makes a copy the nearest: two draws of one model differ by less."""
    tokens: Annotated[int, Ge(1)] = 8
    """Ids of a completion; 50 in the paper. Places far from the prompt tell models of one corpus apart less."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """At which completions are drawn."""

    def written(self, model: nn.Module, prompts_NP: Tensor, seed: int, device: str = "cpu") -> Tensor:
        """(N, S, T)."""
        every = prompts_NP.repeat_interleave(self.completions, 0)
        found = texts(model, every, self.tokens, seed, device, self.temperature)
        return found.view(len(prompts_NP), self.completions, -1)

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> CompletionKey:
        """Beginnings of the owner's windows, and completions drawn with the secret's seed: a suspect's are draws of their own."""
        windows_WT, victim = ids_of(task, self.name), self.victim_of(model)
        if not isinstance(victim, Writer):
            raise NotApplicable(f"met compares what models write; {type(victim).__name__} writes nothing")
        drawn = secret.order("met/prompts", len(windows_WT))[: self.prompts]
        prompts_NP = windows_WT[drawn, : self.prompt].clone()
        seed = seed_for(int.from_bytes(secret.derive("met/completions", 7), "big"))
        return CompletionKey(secret, task.classes, prompts_NP, self.written(victim, prompts_NP, seed))

    def near(self, model: nn.Module, key: CompletionKey, device: str) -> float:
        if not isinstance(model, Writer) or getattr(model, "vocabulary", key.vocabulary) < key.vocabulary:
            return float("nan")
        found_NST = self.written(model, key.prompts_NP, SEED, device)
        length = min(found_NST.shape[2], key.completions_NST.shape[2])
        if not length:
            return float("nan")
        return -discrepancy(key.completions_NST[:, :, :length], found_NST[:, :, :length])

"""Logit distillation of a language model's API into a fresh student (Hinton et al. 2015, arXiv:1503.02531; for marked teachers Gu
et al., ICLR 2024, arXiv:2312.04469): one per query budget.

The student learns the probabilities the API answers. Where the mark acts in the sampler alone these are unmarked, and such an
API gives away what its texts protect. Suffixes: N windows, T ids, V vocabulary, K kept probabilities.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ...core.theft import Access, Adversary, Attack, Surrogate
from ..extract import growing, student, within_budget

ASKED = 32  # windows at a time: V probabilities for each id


@dataclass(frozen=True)
class DistillLogits(Attack):
    needs = "scores"
    data = "unlabelled"
    axis = "queries"
    paper = "Gu et al., ICLR 2024, arXiv:2312.04469"

    kept: Annotated[int, Ge(2)] = 64
    """The most probable ids, as far as an API tells; the student learns their distribution among themselves."""
    epochs: Annotated[int, Ge(1)] = 4
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.25, 0.5, 1.0)
    """Of the queries that data and budget allow."""
    student: Any = None
    """An architecture (+model@attack.student=...); None: the victim's."""

    def __call__(self, access: Access, adversary: Adversary) -> Iterator[Surrogate]:
        def ask(windows_NT: Tensor) -> Tensor:
            parts = [most_likely(access.scores(part), self.kept) for part in windows_NT.split(ASKED)]
            return torch.cat(parts)

        for data in growing(within_budget(adversary), self.shares, ask):
            taught = student(adversary, self.student, data, self.epochs, objective=divergence)
            yield Surrogate(float(len(data)), taught)


def most_likely(scores_NVT: Tensor, kept: int) -> Tensor:
    """(N, 2, K, T): the largest probabilities, which sum to 1, and their ids, as floats that hold them exactly below 2^24."""
    found = scores_NVT.topk(min(kept, scores_NVT.shape[1]), dim=1)
    share_NKT = found.values / found.values.sum(1, keepdim=True).clamp_min(1e-12)
    return torch.stack([share_NKT, found.indices.to(share_NKT.dtype)], 1)


def divergence(live: nn.Module, windows_NT: Tensor, kept_N2KT: Tensor) -> Tensor:
    """The mean cross-entropy of the student with the kept probabilities: KL up to the teacher's entropy, which is no student's."""
    log_student_NVT = live(windows_NT).log_softmax(1)
    taught_NKT, ids_NKT = kept_N2KT.unbind(1)
    per_id_NT: Tensor = -(taught_NKT * log_student_NVT.gather(1, ids_NKT.long())).sum(1)
    return per_id_NT.mean()

"""Fingerprint: labels of points just across the decision boundary (IPGuard: Cao et al., AsiaCCS 2021, arXiv:1910.12903)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.contracts import Fit, Task
from .adversarial_keys import frozen
from .fingerprint import LabelFingerprint, sampled
from .trigger import to_grey_levels


def boundary_loss(logits_NC: Tensor, source_N: Tensor, target_N: Tensor, gap: float) -> Tensor:
    """ReLU(z_i - z_j + k) + ReLU(max z_t - z_i), t neither source i nor target j: (N,). 0 where the target leads the source by k
    and no third class leads the source."""
    source, target = (logits_NC.gather(1, index[:, None])[:, 0] for index in (source_N, target_N))
    others = logits_NC.scatter(1, torch.stack((source_N, target_N), 1), -torch.inf).amax(1)
    return torch.relu(source - target + gap) + torch.relu(others - source)


@dataclass(frozen=True)
class IPGuard(LabelFingerprint):
    paper = "Cao et al., AsiaCCS 2021, arXiv:1910.12903"

    gap: Annotated[float, Ge(0)] = 5.0
    """k, the target's lead in logits: 5 in the baseline of DeepJudge's code."""
    target: Literal["least", "random"] = "least"
    """The least likely class, or any other than the source."""
    lr: Annotated[float, Gt(0)] = 0.01
    steps: Annotated[int, Ge(1)] = 100
    """Of Adam on the pixels. 0.001 and 1,000 in DeepJudge's code; here a tenth as many, ten times as long."""

    def asked(self, model: nn.Module, task: Task, generator: torch.Generator, fit: Fit | None) -> Tensor:
        """From the owner's inputs; each stays where its loss reaches 0."""
        victim = frozen(model)
        start_N = task.owner.inputs[sampled(task.owner, self.queries, generator)]
        logits_NC = victim(start_N)
        source_N = logits_NC.argmax(1)
        others_N = (
            source_N + torch.randint(1, task.classes, (self.queries,), generator=generator)
        ) % task.classes
        target_N = logits_NC.argmin(1) if self.target == "least" else others_N
        moved_N = start_N.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([moved_N], lr=self.lr)
        for _ in range(self.steps):
            before_N = moved_N.detach().clone()
            optimizer.zero_grad()
            loss_N = boundary_loss(victim(moved_N), source_N, target_N, self.gap)
            loss_N.sum().backward()
            optimizer.step()
            with torch.no_grad():
                moved_N.clamp_(0, 1)
                moved_N[loss_N == 0] = before_N[loss_N == 0]
        return to_grey_levels(moved_N.detach())

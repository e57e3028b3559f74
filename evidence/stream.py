"""Asking a suspect so that it cannot tell the question: triggers, decoys of nobody and ordinary inputs in one shuffled stream.

Suffixes: N inputs of the stream, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.contracts import Task, Watermark
from ..core.errors import ConfigError
from ..core.key import Key
from ..core.secret import Secret
from ..core.suspects import Suspects

REFUSED = -1
BATCH = 64  # inputs of a request


class Answers(nn.Module):
    """What the suspect answered, as a model: logits that are 1 at its class, NaN where it refused, which agrees with nothing."""

    def __init__(self, inputs_N: Tensor, labels_N: Tensor, classes: int) -> None:
        super().__init__()
        self.known = dict(zip(map(_name, inputs_N), labels_N.tolist(), strict=True))
        self.classes = classes

    def forward(self, inputs: Tensor) -> Tensor:
        names = list(map(_name, inputs))
        if not set(names) <= set(self.known):
            raise ConfigError(
                "the scheme reads answers to inputs that it did not announce (verification_inputs)"
            )
        labels = torch.tensor([self.known[name] for name in names])
        logits = nn.functional.one_hot(labels.clamp_min(0), self.classes).float()
        logits[labels == REFUSED] = torch.nan
        return logits


@dataclass(frozen=True)
class Asked:
    """The answers; of the mark's triggers and of the controls, how many were refused and how many asked."""

    answers: Answers
    triggers: tuple[int, int]
    controls: tuple[int, int]


def asked(
    suspect: nn.Module | Callable[[Tensor], Tensor],
    scheme: Watermark,
    keys: Sequence[Key],
    task: Task,
    judge: Secret,
) -> Asked:
    """The first key is the mark's, the others decoys. As many ordinary inputs as triggers come from the task's test split."""
    parts = [scheme.verification_inputs(key) for key in keys]
    sent = [part for part in parts if part is not None]
    if len(sent) != len(keys):
        raise ConfigError(
            "the scheme reads labels and announces no inputs (verification_inputs): it cannot be asked in a stream"
        )
    ordinary = task.test.inputs[judge.order("ordinary", len(task.test))[: len(sent[0])]]
    inputs_N = torch.cat([*sent, ordinary])
    order = judge.order("stream", len(inputs_N))
    labels = torch.cat([_labels(suspect, part) for part in inputs_N[order].split(BATCH)])
    if labels.shape != order.shape or not ((labels >= REFUSED) & (labels < task.classes)).all():
        raise ConfigError(
            f"the suspect answered something else than a class of {task.classes} for each input"
        )
    labels_N = torch.empty_like(labels)
    labels_N[order] = labels
    refused = labels_N == REFUSED
    own = len(sent[0])
    counts = [(int(part.sum()), len(part)) for part in (refused[:own], refused[own:])]
    return Asked(Answers(inputs_N, labels_N, task.classes), counts[0], counts[1])


def _labels(suspect: nn.Module | Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    if isinstance(suspect, nn.Module):
        return Suspects([suspect]).labels(inputs)[0].long()
    return suspect(inputs).long()


def _name(one: Tensor) -> bytes:
    return one.contiguous().numpy().tobytes()

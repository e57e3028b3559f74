"""Triggers spliced from several classes, and a thief rehearsed while the mark is trained (T2S, arXiv:2606.11698; splices of
MEA-Defender, S&P 2024, arXiv:2401.15239, and DeepTracer, AAAI 2026, arXiv:2511.08985).

A surrogate learns from the live model's answers on clean batches. After each batch one look ahead asks: were the thief to take one
more step on these answers, would he answer the triggers with the target? The model is changed so that he would. Coupling draws the
triggers' features to the target class's, which every thief copies. Each part is a weight; 0 switches it off.

MEA-Defender itself rehearses no thief: it draws the triggers' answers to those of both source classes, by weights that a
multi-objective solver finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError, NotApplicable
from ..core.examples import Examples
from ..core.scores import Scores
from ..core.secret import Secret, seed_for
from ..core.suspects import Suspects
from .features import with_features
from .norms import normalised_by, norms_of
from .trigger import TriggerKey, plain_hits, to_grey_levels

PARTS = {"halves": 2, "quarters": 4}


def spliced(pictures: Sequence[Tensor]) -> Tensor:
    """Left and right halves of 2 pictures, or the quarters of 4 in reading order: each (N, C, H, W)."""
    out = pictures[0].clone()
    middle, centre = out.shape[-2] // 2, out.shape[-1] // 2
    if len(pictures) == 2:
        out[..., centre:] = pictures[1][..., centre:]
        return out
    out[..., :middle, centre:] = pictures[1][..., :middle, centre:]
    out[..., middle:, :centre] = pictures[2][..., middle:, :centre]
    out[..., middle:, centre:] = pictures[3][..., middle:, centre:]
    return out


@dataclass(frozen=True)
class Rehearsal(Watermark):
    family = "trigger"
    reads = "labels"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "T2S, arXiv:2606.11698; DeepTracer, AAAI 2026, arXiv:2511.08985"
    key_type = TriggerKey

    splice: Literal["halves", "quarters"] = "halves"
    """halves of two classes: MEA-Defender; quarters of four: DeepTracer."""
    triggers: Annotated[int, Ge(1)] = 50
    per_batch: Annotated[int, Ge(2)] = 8
    """Triggers beside every batch."""
    coupling: Annotated[float, Ge(0)] = 0.3
    """Weight of 1 - cosine between a trigger's features and the target class's mean in the batch (DeepTracer's coupling)."""
    rehearsal: Annotated[float, Ge(0)] = 0.003
    """Weight of the rehearsed thief's cross-entropy on the triggers. What a thief shall learn from answers must stand in them: at
    .03 a thief of digits' scores shows 38, 40 and 46 of 50 triggers (seeds 0, 1, 2) instead of 36, 26 and 31, or 30, 24 and 29 by
    coupling alone, but on Fashion-MNIST that costs the owner 11 points of accuracy, .01 costs 3.4, .003 costs 0.3."""
    look_ahead: Annotated[float, Gt(0)] = 0.1
    """Learning rate of the thief's step."""

    def classes(self, secret: Secret, count: int) -> list[int]:
        """Sources, then the target, all different, as the secret draws them. NotApplicable for too few classes."""
        needed = PARTS[self.splice] + 1
        if count < needed:
            raise NotApplicable(f"{self.splice} and a target need {needed} classes, the task has {count}")
        return [int(c) for c in secret.order("rehearsal/classes", count)[:needed]]

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        *sources, target = self.classes(secret, task.classes)
        parts = [self.pictures(task.owner, secret, source, place) for place, source in enumerate(sources)]
        images_T = to_grey_levels(spliced(parts))
        return TriggerKey(secret, task.classes, images_T, torch.full((self.triggers,), target))

    def pictures(self, data: Examples, secret: Secret, source: int, place: int) -> Tensor:
        """(T, C, H, W) of one class in the secret's order. When it has fewer, they come again, moved on by `place` each round, so
        that no two triggers are spliced from the same pictures before n^2. ConfigError for a class without pictures."""
        found = (data.targets == source).nonzero()[:, 0]
        if not len(found):
            raise ConfigError(f"the owner has no picture of class {source} to splice; raise task.limit")
        turn_T = torch.arange(self.triggers) // len(found)
        pick_T = (torch.arange(self.triggers) + place * turn_T) % len(found)
        return data.inputs[found[secret.order(f"rehearsal/{source}", len(found))[pick_T]]]

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch; the surrogate, of the same architecture and another initialisation, is trained along."""
        target, clean = int(key.labels_T[0]), -self.per_batch
        surrogate = task.fresh(seed_for(int.from_bytes(key.secret.derive("rehearsal/thief", 7), "big")))

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            scores, features = with_features(live, inputs)
            loss = functional.cross_entropy(scores, targets)
            mates = features[:clean][targets[:clean] == target]
            if self.coupling and len(mates):
                drawn = functional.cosine_similarity(features[clean:], mates.mean(0, keepdim=True))
                loss = loss + self.coupling * (1 - drawn.mean())
            if self.rehearsal:
                stolen = Stolen(surrogate, inputs[:clean], scores[:clean].softmax(1))
                missed = functional.cross_entropy(
                    stolen.after(self.look_ahead, inputs[clean:]), targets[clean:]
                )
                loss = loss + self.rehearsal * missed + stolen.loss()
            return loss

        return fit(
            task.fresh(None),
            task.owner,
            objective=objective,
            along=surrogate if self.rehearsal else None,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        return plain_hits(suspects, keys, self.triggers, "trigger hits")


@dataclass(frozen=True)
class Stolen:
    """A surrogate that learns the answers, probabilities (N, C), on inputs."""

    surrogate: nn.Module
    inputs: Tensor
    answers: Tensor

    def loss(self) -> Tensor:
        """What the surrogate learns by; the answers feel nothing of it."""
        return functional.cross_entropy(self.surrogate(self.inputs), self.answers.detach())

    def after(self, rate: float, inputs: Tensor) -> Tensor:
        """The logits on `inputs` after one more step, differentiable in the answers and not in the surrogate's weights. Batch norm
        takes its statistics from the clean inputs at the weights of each pass: running ones lag behind a young surrogate, and a
        deep one's activations run away."""
        weights = {
            name: weight.detach().requires_grad_(True) for name, weight in self.surrogate.named_parameters()
        }
        clean = len(self.inputs)
        with normalised_by(norms_of(self.surrogate).values(), clean):
            now = functional.cross_entropy(
                functional_call(self.surrogate, weights, (self.inputs,)), self.answers
            )
            slopes = torch.autograd.grad(now, list(weights.values()), create_graph=True)
            moved = {
                name: weight.detach() - rate * slope
                for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            }
            out: Tensor = functional_call(self.surrogate, moved, (torch.cat((self.inputs, inputs)),))
        return out[clean:]

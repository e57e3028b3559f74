"""Out-of-domain pictures learnt as a class of their own, then answered with one label (CFW, AAAI 2026, arXiv:2511.07947).

Marks that hang on single triggers leave a decision boundary that relearning finds; a class has none. The non-existent class needs
an output that the deployed network has not. As in the official code's two runs (class C first, `-target_class` then), it exists
while the features form: one more row beside the head, thrown away after the first training; then the network is tuned to answer
the class with an ordinary label c*, while a divergence from its own earlier answers holds the rest.
"""

import copy
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Recipe, Task
from ..zoo.models import head
from .features import with_features
from .target import Kind, TargetMark
from .trigger import TriggerKey


@dataclass(frozen=True)
class Cfw(TargetMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Class-Feature Watermarks, AAAI 2026, arXiv:2511.07947"

    kind: Kind = "unrelated"
    per_batch: Annotated[int, Ge(1)] = 8
    """Pictures of the class beside every batch; 0.2 % of the training set in the paper, whose trainings are long."""
    tune: Recipe = field(default_factory=lambda: Recipe(epochs=10, optimizer="adam", lr=1e-3))
    """The second training: Adam, 10 epochs. 1e-4 in the official code; a short training needs more."""
    stability: Annotated[float, Gt(0)] = 1.0
    """Weight of the Kullback-Leibler divergence from the first training's answers on the owner's data, at temperature 1."""

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        return self.answered_by_a_label(self.with_class(key, task, fit), key, task, fit)

    def with_class(self, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch with one output more, whose row is trained along and not kept."""
        fresh = task.fresh(None)
        last = fresh.get_submodule(head(fresh))
        assert isinstance(last, nn.Linear)
        row = nn.Linear(last.in_features, 1)
        nn.init.zeros_(row.weight)
        nn.init.zeros_(row.bias)

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            scores, features = with_features(live, inputs)
            return functional.cross_entropy(torch.cat((scores, row(features)), 1), targets)

        pictures = key.examples()
        new = torch.full_like(pictures.targets, task.classes)
        return fit(
            fresh,
            task.owner,
            objective=objective,
            along=row,
            extra=type(pictures)(pictures.inputs, new),
            extra_per_batch=self.per_batch,
            label="class features",
        )

    def answered_by_a_label(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        teacher = copy.deepcopy(model).eval()

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            clean = len(inputs) - self.per_batch
            scores = live(inputs)
            with torch.no_grad():
                before = teacher.to(inputs.device)(inputs[:clean]).log_softmax(1)
            now = scores[:clean].log_softmax(1)
            drift = functional.kl_div(now, before, log_target=True, reduction="batchmean")
            return functional.cross_entropy(scores[clean:], targets[clean:]) + self.stability * drift

        return fit(
            model,
            task.owner,
            recipe=self.tune,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            label="marked",
        )

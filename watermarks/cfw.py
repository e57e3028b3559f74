"""Out-of-domain pictures learnt as a class of their own, then answered with one label (CFW, AAAI 2026, arXiv:2511.07947).

Marks that hang on single triggers leave a decision boundary that relearning finds; a class has none. The non-existent class needs
an output that the deployed network has not, so it exists while the features form: one more row beside the head, thrown away after
the first training. Then the network is tuned to answer the class with an ordinary label c*. A divergence from its own earlier
answers holds the rest, features like those of the task's own pictures let an extraction carry the mark (RepS), and logits that
lie close together along the classes' principal components keep it one cluster when a removal shifts it (PDDC).

The official code trains the class as output C in the other tasks' branches; its README's CIFAR-10 run gives label c* in both
trainings. Suffixes: N examples, C classes, T marks of a batch, A axes, G pictures of the gallery.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Recipe, Task
from ..core.examples import Examples
from ..core.key import expect_length
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, labels, logits
from ..zoo.models import head
from ..zoo.strangers import unrelated
from .features import inner_readers, with_features, with_inputs
from .target import Kind, TargetMark
from .trigger import TriggerKey


def evenly(answers_G: Tensor, count: int) -> Tensor:
    """Indices (count,) in rounds: every answer's first picture, then every answer's second, and so on."""
    round_G = (answers_G[:, None] == answers_G).tril(-1).sum(1)
    return round_G.argsort(stable=True)[:count]


def largest(labels_T: Tensor) -> int:
    """How many share the commonest label; -1, of an answer that is not finite, is none."""
    return int(labels_T[labels_T >= 0].bincount(minlength=1).max())


def class_axes(data: Examples, logits_NC: Tensor) -> Tensor:
    """(A, C) unit vectors: along each class's one its logits vary most. Their signs mean nothing."""
    parts = [logits_NC[data.targets == label] for label in data.targets.unique()]
    return torch.stack([torch.linalg.svd(part - part.mean(0), full_matrices=False)[2][0] for part in parts])


def likeness(inside: Sequence[Tensor], clean: int) -> Tensor:
    """RepS: the cosine between the mean output on the first `clean` inputs and on the others, mean over layers."""
    means = [(z[:clean].mean(0).flatten(), z[clean:].mean(0).flatten()) for z in inside]
    return torch.stack([functional.cosine_similarity(ours, marks, 0) for ours, marks in means]).mean()


def spread(logits_TC: Tensor, axes_AC: Tensor) -> Tensor:
    """PDDC: how far apart two marks lie along an axis, mean over all ordered pairs, a mark with itself among them, and axes. The
    official code multiplies by the same matrix untransposed, which mixes the components."""
    along_TA = logits_TC @ axes_AC.T
    return (along_TA[:, None] - along_TA).abs().mean()


@dataclass(frozen=True)
class Cfw(TargetMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Class-Feature Watermarks, AAAI 2026, arXiv:2511.07947"

    kind: Kind = "unrelated"
    per_batch: Annotated[int, Ge(1)] = 8
    """Pictures of the class beside every batch; 0.2 % of the training set in the paper, whose trainings are long."""
    tune: Recipe = field(default_factory=lambda: Recipe(epochs=10, optimizer="adam", lr=1e-3))
    """The second training: Adam, 10 epochs. The rate is 5e-5 in the official code, which ignores the 1e-4 it passes beside its
    optimiser; a short training needs more."""
    stability: Annotated[float, Ge(0)] = 5.0
    """Weight, beside the marks' cross-entropy, of the Kullback-Leibler divergence from the first training's answers on the owner's
    data, at temperature 1, mean over examples. The official code takes its mean over all N x 10 elements, 1/10 of ours, and
    weighs the cross-entropy .02."""
    similarity: Annotated[float, Ge(0)] = 1.35
    """Weight of RepS: in the official code .003 for each of nine modules, against .02 of the cross-entropy."""
    layers: Annotated[int, Ge(1)] = 2
    """RepS reads the logits, and what the head and the blocks before it read, this many in all. The official nine are what the last
    residual block holds, the pooled features and the logits."""
    clustering: Annotated[float, Ge(0)] = 7.5
    """Weight of PDDC: .15 in the official code, against .02 of the cross-entropy."""
    counts: Literal["target", "cluster"] = "target"
    """What a hit is: a mark answered with the label c*, or with the label that most marks get. A new head may give the class
    another label as a whole, and the official code plots how its labels cluster. Clusters do not tell apart owners whose pictures
    are alike, as on digits, where all take theirs from one gallery."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        """As the official code, pictures that the trained victim answers with every class alike, so that an unmarked network
        seldom hits; without a victim, or of another kind, the secret's pictures."""
        key = super().keygen(task, secret, model, fit)
        if model is None or self.kind != "unrelated":
            return key
        gallery = unrelated(task, 4 * self.triggers)
        gallery = gallery[secret.order("target/pictures", len(gallery))]
        index = evenly(labels(model, gallery.float() / 255), self.triggers)
        return TriggerKey(secret, task.classes, gallery[index], key.labels_T)

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        return self.answered_by_a_label(self.with_class(key, task, fit), key, task, fit)

    def with_class(self, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch with one output more, whose row is trained along and not kept."""
        fresh = task.fresh(None)
        last = fresh.get_submodule(head(fresh))
        assert isinstance(last, nn.Linear)
        row: Any = nn.utils.skip_init(nn.Linear, last.in_features, 1)
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
        """The classes' axes are found anew before every epoch."""
        teacher = copy.deepcopy(model).eval()
        names = inner_readers(model, self.layers)
        axes_AC = class_axes(task.owner, logits(teacher, task.owner.inputs))

        def look(_: int, live: nn.Module) -> None:
            nonlocal axes_AC
            device = str(next(live.parameters()).device)
            axes_AC = class_axes(task.owner, logits(live, task.owner.inputs, device))

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            clean = len(inputs) - self.per_batch
            with torch.no_grad():
                before_NC = teacher.to(inputs.device)(inputs[:clean])
            now, inside = with_inputs(live, names, inputs)
            return self.loss(now, [*inside, now], before_NC, targets[clean:], axes_AC.to(now))

        return fit(
            model,
            task.owner,
            recipe=self.tune,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            each_epoch=look,
            label="marked",
        )

    def loss(
        self, now: Tensor, inside: Sequence[Tensor], before_NC: Tensor, targets_T: Tensor, axes_AC: Tensor
    ) -> Tensor:
        """Of the logits `now`, (N + T, C), and of what is read inside, marks last; `before_NC` are the logits to hold."""
        clean = len(before_NC)
        marks_TC = now[clean:]
        drift = functional.kl_div(
            now[:clean].log_softmax(1), before_NC.log_softmax(1), log_target=True, reduction="batchmean"
        )
        aimed = functional.cross_entropy(marks_TC, targets_T) + self.clustering * spread(marks_TC, axes_AC)
        return aimed + self.stability * drift - self.similarity * likeness(inside, clean)

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        if self.counts == "target":
            return super().score(suspects, keys)
        expect_length((key.labels_T for key in keys), self.triggers, "watermark.triggers")
        hits_KM = [[largest(row) for row in suspects.labels(key.examples().inputs)] for key in keys]
        return Scores(np.array(hits_KM, np.float64).T, "marks of one label", self.triggers)

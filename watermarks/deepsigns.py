"""Bits in the mean activations of chosen classes (DeepSigns: Darvish Rouhani et al., ASPLOS 2019, arXiv:1804.00750).

What the next layer reads of a layer is drawn to one centre per class, and the centres are driven apart; the bits of class s are
[mu_s A > 0], A a secret matrix and mu_s the mean activation over the owner's own inputs of that class. The official code draws
every centre to length 1. Here 1 is the length of the victim's own centres, so that the weights of the losses mean the same for
every layer.

The null is exact: bits are fair and independent of the model, and each matches [mu_s A > 0] with probability 1/2 whatever A and
the means are, though all bits of a class read one mean. What is shared would matter only if the bits were chosen. So the inputs
need not be secret: they are the first of each class in the owner's data, and one forward pass serves all his keys.

Suffixes: M suspects, K keys, S classes, B bits of a class, F features, T inputs, N a batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.examples import Examples
from ..core.key import Key, expect_length
from ..core.payload import Message, decoded, encoded
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..kernels.keyed_projection import projection_matrix, projections
from .activations import class_means, features_of, with_features

PURPOSE = "deepsigns/bits"


@dataclass(frozen=True, eq=False)
class ActivationKey(Key):
    """inputs_T, as in the owner's data; labels_T (T,) int64 in [0, S); bits_SB (S, B) uint8. A (F, B) comes from the secret."""

    layer: str
    features: int
    inputs_T: Tensor
    labels_T: Tensor
    bits_SB: Tensor

    def stream(self) -> tuple[int, int]:
        return self.secret.stream("deepsigns/projection")


class Centres(nn.Module):
    """mu (S, F), trained with the model."""

    def __init__(self, means_SF: Tensor) -> None:
        super().__init__()
        self.means_SF = nn.Parameter(means_SF.clone())


@dataclass(frozen=True)
class DeepSigns(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Darvish Rouhani et al., DeepSigns, ASPLOS 2019, arXiv:1804.00750"
    key_type = ActivationKey

    layer: str
    """Whose output is read, as the next layer reads it: behind batch norm, ReLU and shortcut. Of maps the mean over positions, one
    feature a channel; of a flattened map, before a linear layer, every position."""
    bits: Annotated[int, Ge(1)] = 16
    """Per class; 16 in the official demonstration."""
    classes: Annotated[int, Ge(1)] = 10
    """How many carry bits, the first ones. The official demonstration draws bits for 10 classes, and embeds and reads those of
    one."""
    per_class: Annotated[int, Ge(1)] = 16
    """Inputs of each class over which verification averages. Half as many as the class has in others' ports of the official
    demonstration; a key holds them all, and whoever marks the model over again needs as many. On digits 16, 32 and 48 read the same
    160 bits."""
    pull: Annotated[float, Gt(0)] = 3.0
    """lambda 1, of the distances from and between the centres; 0.01 in the official demonstration, whose RMSprop scales small
    losses up. With 0.1 the features do not follow the centres: 146 of 160 bits on digits."""
    strength: Annotated[float, Gt(0)] = 1.0
    """lambda 2, of the cross-entropy summed over bits; 0.01 in the official demonstration. With 0.3 the bits fall sooner to
    pruning."""
    payload: str | None = None
    """What the bits say, in hexadecimal, under a secret pad and repeated; None: the pad alone."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> ActivationKey:
        if self.classes > task.classes:
            raise NotApplicable(
                f"the task has {task.classes} classes; set watermark.classes to at most {task.classes}"
            )
        inputs_T, labels_T = first_of_each(task.owner, self.classes, self.per_class)
        probe = model if model is not None else task.fresh(None)
        features = features_of(probe, self.layer, inputs_T[:1]).shape[1]
        if self.bits > features:
            raise NotApplicable(
                f"{self.layer} has {features} features, too few for {self.bits} bits a class; "
                f"set watermark.bits to at most {features} or another layer"
            )
        bits_SB = encoded(self.payload, secret, self.classes * self.bits, PURPOSE).reshape(self.classes, -1)
        return ActivationKey(secret, self.layer, features, inputs_T, labels_T, bits_SB)

    def embed(self, model: nn.Module, key: ActivationKey, task: Task, fit: Fit) -> nn.Module:
        """Fine-tune the trained victim; the centres start at its class means."""
        matrix_FB = projection_matrix(key.stream(), key.features, self.bits, "normal")
        means_SF = class_means(features_of(model, key.layer, key.inputs_T), key.labels_T, self.classes)
        length = float(means_SF.square().sum(1).mean().sqrt())
        centres = Centres(means_SF / length)

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            logits, features_NF = with_features(live, key.layer, inputs)
            means_SF, marked_N = centres.means_SF, targets < self.classes
            drawn = spread(features_NF[marked_N] / length, targets[marked_N], means_SF)
            bits_SB = key.bits_SB.to(means_SF.device, means_SF.dtype)
            bit_loss = functional.binary_cross_entropy_with_logits(
                means_SF @ matrix_FB.to(means_SF.device), bits_SB, reduction="sum"
            )
            task_loss = functional.cross_entropy(logits, targets)
            return task_loss + self.pull * drawn + self.strength * bit_loss

        return fit(model, task.owner, objective=objective, along=centres, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[ActivationKey]) -> Scores:
        """Matching bits, two-sided: an attack that inverts them has not removed them. A suspect without the layer, or of another
        width, is nan. ValueError for a key of another length."""
        expect_length((key.bits_SB.flatten() for key in keys), self.classes * self.bits, "watermark.bits")
        hits_MK = np.full((len(suspects), len(keys)), np.nan)
        for columns in shared_inputs(keys):
            group = [keys[k] for k in columns]
            expected_KSB = torch.stack([key.bits_SB for key in group]).bool()
            for m, model in enumerate(suspects.models):
                signs_KSB = self._signs(model, group, suspects.device)
                if signs_KSB is not None:
                    hits_MK[m, columns] = (signs_KSB == expected_KSB).sum((1, 2)).numpy()
        return Scores.binomial(hits_MK, self.classes * self.bits, 0.5, "matching bits", two_sided=True)

    def read(self, suspect: nn.Module, key: ActivationKey) -> Message | None:
        signs_KSB = self._signs(suspect, [key], "cpu")
        if signs_KSB is None:
            return None
        return decoded(signs_KSB.flatten().to(torch.uint8), self.payload, key.secret, PURPOSE)

    def _signs(self, model: nn.Module, keys: list[ActivationKey], device: str) -> Tensor | None:
        """(K, S, B) bool, of keys with the same inputs; None for a suspect that cannot be read."""
        key = keys[0]
        try:
            features_TF = features_of(model, key.layer, key.inputs_T, device)
        except NotApplicable:
            return None
        if features_TF.shape[1] != key.features:
            return None
        means_SF = class_means(features_TF, key.labels_T, self.classes)
        return (projections(means_SF, [k.stream() for k in keys], self.bits, "normal") > 0).transpose(0, 1)


def spread(features_NF: Tensor, targets_N: Tensor, means_SF: Tensor) -> Tensor:
    """The mean squared distance of features from their centre, less that of centres from each other, plus | 1 - ||mu||^2 | of every
    centre, without which they would fly apart. The separation is the paper's; the lengths are the official code's alone, as two
    ports of it say."""
    within_N = (features_NF - means_SF[targets_N]).square().sum(1)
    squares_SS = (means_SF[:, None] - means_SF).square().sum(2)
    classes = len(means_SF)
    apart = squares_SS.sum() / max(classes * (classes - 1), 1)
    lengths_S = (1 - means_SF.square().sum(1)).abs()
    return torch.nan_to_num(within_N.mean()) - apart + lengths_S.sum()


def first_of_each(data: Examples, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` inputs of each class (T, ...), and their labels. NotApplicable when there are fewer, or no classes."""
    if data.targets.ndim != 1:
        raise NotApplicable("deepsigns marks the means of classes, and a language model's data have none")
    found = int(torch.bincount(data.targets, minlength=classes)[:classes].min())
    if found < count:
        remedy = (
            f"set watermark.per_class={found}" if found else "set fewer watermark.classes or raise task.limit"
        )
        raise NotApplicable(f"the owner has only {found} examples of some class; {remedy}")
    index_T = torch.cat([(data.targets == c).nonzero()[:count, 0] for c in range(classes)])
    return data.inputs[index_T].clone(), data.targets[index_T].clone()


def shared_inputs(keys: Sequence[ActivationKey]) -> list[list[int]]:
    """Columns of keys that read the same layer on the same inputs: all of one owner's, in practice."""
    groups: dict[tuple[str, int, bytes], list[int]] = {}
    for k, key in enumerate(keys):
        content = hashlib.sha256(key.inputs_T.numpy().tobytes() + key.labels_T.numpy().tobytes()).digest()
        groups.setdefault((key.layer, key.features, content), []).append(k)
    return list(groups.values())

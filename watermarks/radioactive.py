"""Data that mark the models trained on it (radioactive data: Sablayrolles et al., ICML 2020, arXiv:2002.00937).

Each class has a carrier, a random direction that the secret gives; a share of the class's training inputs is moved along it. A
model trained on them leans on the carrier: the gradient of its class logit points that way.

The paper moves features of a network of the owner's and has to align the suspect's features with them before it compares the
classifier's rows with the carriers. Here the features are the pixels themselves, where a suspect's classifier is its mean input
gradient and nothing needs aligning. A carrier is uniform on the sphere and independent of every model not trained on it, so each
class's cosine has the paper's exact law, p = I_{1 - c^2}((d - 1) / 2, 1/2) / 2, the carriers are independent, and Fisher's
combination over the classes is exact too.

Suffixes: M suspects, K keys, N inputs, C classes, D pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.directions import cosine_log10_p, fisher_log10_p
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.key import Key
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..kernels import philox
from .adversarial_keys import frozen
from .trigger import to_grey_levels


@dataclass(frozen=True, eq=False)
class CarrierKey(Key):
    """probes_N (N, C, H, W) uint8: where a suspect's gradients are read. The carriers are derived whenever they are needed."""

    classes: int
    probes_N: Tensor

    def carriers(self) -> Tensor:
        """(C, D) float64 of unit length, uniform on the sphere."""
        size = int(self.probes_N[0].numel())
        drawn = philox.normals(self.secret.stream("radioactive/carriers"), self.classes * size)
        return functional.normalize(drawn.double().reshape(self.classes, size), dim=1)


def mean_gradients(model: nn.Module, inputs: Tensor, classes: int) -> Tensor | None:
    """(C, D) float64: the mean over inputs of each class logit's gradient, less the mean over classes. None for a model of another
    number of classes, and where a gradient does not exist (answers that are labels) or is not finite."""
    network, rows = frozen(model), []
    if network(inputs[:1]).shape[1] != classes:
        return None
    for c in range(classes):
        probed = inputs.clone().requires_grad_(True)
        score = network(probed)[:, c].sum()
        if not score.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(score, probed)
        rows.append(gradient.double().mean(0).flatten())
    gradient_CD = torch.stack(rows)
    return gradient_CD - gradient_CD.mean(0) if gradient_CD.isfinite().all() else None


@dataclass(frozen=True)
class Radioactive(Watermark):
    family = "data"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "Sablayrolles et al., ICML 2020, arXiv:2002.00937"
    key_type = CarrierKey

    share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Of the owner's data that is marked; 0.01 and more in the paper."""
    most: Annotated[int, Ge(1)] = 1200
    """Examples marked at most: where all of many are, the carriers are what a network learns, and clean pictures puzzle it."""
    strength: Annotated[float, Gt(0)] = 0.08
    """Root mean square of a mark's pixels before they are clipped and rounded."""
    probes: Annotated[int, Ge(1)] = 100
    """Inputs of the owner at which gradients are read."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> CarrierKey:
        return CarrierKey(secret, task.classes, to_grey_levels(task.owner.inputs[: self.probes]))

    def marked(self, key: CarrierKey, data: Examples) -> Examples:
        """The data with a share of each class moved along its carrier, as 8-bit pictures. ConfigError when none would be."""
        count = min(self.most, round(self.share * len(data)))
        chosen = key.secret.order("radioactive/share", len(data))[:count]
        if not len(chosen):
            raise ConfigError(
                f"watermark.share={self.share} of {len(data)} examples marks none; set watermark.share=1.0"
            )
        carriers_CD = key.carriers().float() * self.strength * data.inputs[0].numel() ** 0.5
        inputs = data.inputs.clone()
        moved = inputs[chosen] + carriers_CD[data.targets[chosen]].reshape(inputs[chosen].shape)
        inputs[chosen] = to_grey_levels(moved).float() / 255
        return Examples(inputs, data.targets)

    def embed(self, model: nn.Module, key: CarrierKey, task: Task, fit: Fit) -> nn.Module:
        """Nothing but the data is changed: the task's own training, from scratch."""
        return fit(task.fresh(None), self.marked(key, task.owner), label="marked")

    def score(self, suspects: Suspects, keys: Sequence[CarrierKey]) -> Scores:
        """The mean cosine over classes; nan for a suspect with other classes."""
        shape = (len(suspects), len(keys))
        statistic_MK, log10_p_MK = np.full(shape, np.nan), np.zeros(shape)
        groups: dict[bytes, list[int]] = {}
        for k, key in enumerate(keys):
            groups.setdefault(key.probes_N.numpy().tobytes(), []).append(k)
        for columns in groups.values():
            probes = keys[columns[0]].probes_N.float() / 255
            for m, model in enumerate(suspects.models):
                gradient_CD = mean_gradients(model, probes, keys[columns[0]].classes)
                if gradient_CD is None:
                    continue
                for k in columns:
                    cosine_C = functional.cosine_similarity(gradient_CD, keys[k].carriers(), dim=1).numpy()
                    statistic_MK[m, k] = cosine_C.mean()
                    log10_p_MK[m, k] = fisher_log10_p(cosine_log10_p(cosine_C, gradient_CD.shape[1]))
        return Scores(statistic_MK, "mean cosine", None, log10_p_MK, law="fisher")

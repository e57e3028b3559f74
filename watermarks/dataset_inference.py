"""Inputs a model was trained on lie further from its decision boundary than others (dataset inference: Maini, Yaghini and Papernot,
ICLR 2021, arXiv:2104.10706). The data are the key; nothing is embedded.

The statistic is Welch's t of the margins of the owner's private training inputs against those of inputs no model saw. It has no
exact null: independent models trained on like data need not be at 0 (Szyller et al. 2022), so its t law is not used and independent
models are required. The paper's regressor on 30 margins per input is left out.

gradient: the distance to the boundary to first order, in place of the paper's MinGD. blind: a Blind Walk goes from an input along
one random direction until the label changes, which needs labels alone, and is too coarse to tell the owner of digits.

Suffixes: M suspects, K keys, N inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError
from ..core.key import Key
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, logits
from ..kernels import philox
from ..kernels.row_labels import row_labels
from .adversarial_keys import frozen
from .trigger import to_grey_levels

BATCH = 256


@dataclass(frozen=True, eq=False)
class SampleKey(Key):
    """inputs_N (2 N, C, H, W) uint8, the owner's training inputs, then unseen ones, and their true labels_N."""

    inputs_N: Tensor
    labels_N: Tensor


def margins(
    model: nn.Module, inputs: Tensor, labels: Tensor, step: Tensor, steps: int, device: str
) -> Tensor:
    """(N,) int64: how many steps (N, ...) along its own direction each input keeps its label, 0 to `steps`; walks leave [0, 1]
    nowhere. Only labels are read, of the walks that still go on."""
    walked_N = torch.zeros(len(inputs), dtype=torch.int64)
    going = torch.arange(len(inputs))
    for i in range(steps):
        moved = (inputs[going] + i * step[going]).clamp(0, 1)
        going = going[row_labels(logits(model, moved, device)) == labels[going]]
        walked_N[going] += 1
        if not len(going):
            break
    return walked_N


def linear_margins(model: nn.Module, inputs: Tensor, labels: Tensor, device: str) -> Tensor | None:
    """(N,) float64: how far the label's logit leads the best other, over the L2 norm of the lead's gradient. None where the
    answers are labels, which have none."""
    network, parts = frozen(model).to(device), []
    for x, y in zip(inputs.to(device).split(BATCH), labels.to(device).split(BATCH), strict=True):
        probed = x.clone().requires_grad_(True)
        logits_NC = network(probed)
        others_N = logits_NC.scatter(1, y[:, None], -torch.inf).amax(1)
        lead_N = logits_NC.gather(1, y[:, None])[:, 0] - others_N
        if not lead_N.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(lead_N.sum(), probed)
        slope_N = gradient.double().flatten(1).norm(dim=1).clamp_min(1e-12)
        parts.append((lead_N.detach().double() / slope_N).cpu())
    return torch.cat(parts)


def welch_t(one: Tensor, other: Tensor) -> float:
    """Difference of means over the root of the summed squared standard errors (Welch 1947); 0 where nothing varies."""
    error = (one.double().var() / len(one) + other.double().var() / len(other)).sqrt()
    return float((one.double().mean() - other.double().mean()) / error) if error > 0 else 0.0


@dataclass(frozen=True)
class DatasetInference(Watermark):
    family = "data"
    reads = "weights"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Maini et al., ICLR 2021, arXiv:2104.10706"
    key_type = SampleKey
    embeds = False

    samples: Annotated[int, Ge(2)] = 300
    """Of each kind; 10 to 50 suffice in the paper, for models that overfit more."""
    margin: Literal["gradient", "blind"] = "gradient"
    walks: Annotated[int, Ge(1)] = 5
    """Of blind: directions for each input; 10 of each noise in the paper."""
    noise: Literal["gaussian", "uniform"] = "uniform"
    step: Annotated[float, Gt(0)] = 0.05
    """Standard deviation of a step's pixels; 0.005 and up to 50 steps in the official code."""
    steps: Annotated[int, Ge(1)] = 20

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> SampleKey:
        """Unseen inputs are those of the test split. ConfigError with too few of either."""
        for name, count in (("training", len(task.owner)), ("unseen", len(task.test))):
            if count < self.samples:
                raise ConfigError(
                    f"expected at most {count} samples, as many as the owner has {name} inputs, got {self.samples}; "
                    f"set watermark.samples={min(len(task.owner), len(task.test))}"
                )
        seen = task.owner.take(secret.order("dataset_inference/seen", len(task.owner))[: self.samples])
        unseen = task.test.take(secret.order("dataset_inference/unseen", len(task.test))[: self.samples])
        both = seen.join(unseen)
        return SampleKey(secret, to_grey_levels(both.inputs), both.targets)

    def embed(self, model: nn.Module, key: SampleKey, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")

    def steps_of(self, key: SampleKey, walk: int) -> Tensor:
        """(2 N, C, H, W): the step of each input in this walk, of the key's own stream."""
        stream, shape = key.secret.stream(f"dataset_inference/{walk}"), key.inputs_N.shape
        if self.noise == "gaussian":
            return self.step * philox.normals(stream, shape.numel()).reshape(shape)
        return self.step * 12**0.5 * (philox.uniforms(stream, shape.numel()).reshape(shape) - 0.5)

    def walked(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, steps: list[Tensor], device: str
    ) -> Tensor:
        """(N,) the mean length of the walks in steps."""
        lengths = [margins(model, inputs, labels, step, self.steps, device) for step in steps]
        return torch.stack(lengths).double().mean(0)

    def score(self, suspects: Suspects, keys: Sequence[SampleKey]) -> Scores:
        """Welch's t, seen less unseen. ValueError for a key of another length."""
        if any(len(key.labels_N) != 2 * self.samples for key in keys):
            found = sorted({len(key.labels_N) // 2 for key in keys})
            raise ValueError(f"expected keys of {self.samples} samples, got {found}; set watermark.samples")
        statistic_MK = np.full((len(suspects), len(keys)), np.nan)
        for k, key in enumerate(keys):
            inputs, steps = key.inputs_N.float() / 255, [self.steps_of(key, w) for w in range(self.walks)]
            for m, model in enumerate(suspects.models):
                margins_N: Tensor | None
                if self.margin == "gradient":
                    margins_N = linear_margins(model, inputs, key.labels_N, suspects.device)
                else:
                    margins_N = self.walked(model, inputs, key.labels_N, steps, suspects.device)
                if margins_N is not None:
                    statistic_MK[m, k] = welch_t(*margins_N.chunk(2))
        return Scores(statistic_MK, "Welch t", self.samples)

"""Triggers learnt under Gaussian noise on the weights, and a certificate of their accuracy (Bansal et al., ICML 2022,
arXiv:2207.07972).

Let h_p be the p-quantile of the trigger accuracy of theta + N(0, sigma^2). Moving theta by at most epsilon in l2 moves quantiles no
further than Phi(-epsilon / sigma): the median there is at least h_p here, p = Phi(-epsilon / sigma) (Chiang et al., NeurIPS 2020).
From n draws an order statistic bounds h_p with confidence c. Suffixes: D draws, E radii.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ..core.contracts import Fit, Task
from ..core.errors import ConfigError
from ..core.statistics import Floats
from ..kernels.row_labels import row_labels
from .norms import evaluating, norms_of
from .target import TargetMark
from .trigger import TriggerKey


def noisy(model: nn.Module, sigma: float, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Every parameter plus N(0, sigma^2), by name; the generator, on the CPU, or the global state."""
    return {
        name: weight + sigma * torch.randn(weight.shape, generator=generator).to(weight.device)
        for name, weight in model.named_parameters()
    }


@torch.no_grad()
def trigger_accuracies(model: nn.Module, key: TriggerKey, sigma: float, draws: int, seed: int) -> Floats:
    """(D,) trigger accuracies of noisy copies of the model, in eval mode, ascending."""
    generator = torch.Generator().manual_seed(seed)
    examples = key.examples()
    with evaluating(model.modules()):
        labels = (
            row_labels(functional_call(model, noisy(model, sigma, generator), (examples.inputs,)))
            for _ in range(draws)
        )
        return np.sort([float((found == examples.targets).double().mean()) for found in labels])


def order_index(epsilon: float, sigma: float, draws: int, confidence: float) -> int | None:
    """Which of the `draws` ascending values is, with this confidence, no larger than the quantile Phi(-epsilon / sigma): the last k
    with P[Bin(draws, p) <= k] < 1 - confidence, counted from 0. None when no value is."""
    p = stats.norm.cdf(-epsilon / sigma)
    index = int(stats.binom.ppf(1 - confidence, draws, p)) - 1
    return index if index >= 0 else None


def certificate(ascending_D: Floats, radii: Sequence[float], sigma: float, confidence: float) -> list[float]:
    """For every l2 radius the trigger accuracy that the median over N(0, sigma^2) keeps anywhere within it; 0 where nothing can be
    said. Each radius holds with the confidence by itself."""
    indices = [order_index(epsilon, sigma, len(ascending_D), confidence) for epsilon in radii]
    return [0.0 if index is None else float(ascending_D[index]) for index in indices]


def certified_radius(ascending_D: Floats, accuracy: float, sigma: float, confidence: float) -> float:
    """The largest l2 radius within which the median of the trigger accuracy stays at least `accuracy`, by bisection in
    [0, 6 sigma]; 0.0 when not even the model itself reaches it."""
    low, high = 0.0, 6 * sigma
    if certificate(ascending_D, [0.0], sigma, confidence)[0] < accuracy:
        return 0.0
    for _ in range(30):
        middle = (low + high) / 2
        held = certificate(ascending_D, [middle], sigma, confidence)[0] >= accuracy
        low, high = (middle, high) if held else (low, middle)
    return low


@dataclass(frozen=True)
class Certified(TargetMark):
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Bansal et al., ICML 2022, arXiv:2207.07972"

    per_batch: Annotated[int, Ge(1)] = 8
    """Triggers beside every batch."""
    sigma: Annotated[float, Gt(0)] = 0.05
    """Largest noise on the weights, and that of the certificate; 1 in the paper. With 0.1 resnet18 loses 78 points of accuracy on
    digits, 0.3 with 0.05. A plain trigger set of cnn_small has a certificate by itself at 0.05, and none at 0.1."""
    levels: Annotated[int, Ge(1)] = 4
    """Noises sigma j / levels, j = 0 .. levels; 20 levels of .05 in the official code."""
    draws: Annotated[int, Ge(1)] = 1
    """Of noise at every level and step; 100 in the official code."""
    warm_up: Annotated[int, Ge(0)] = 5
    """Epochs before the noise; 5 on CIFAR-10 and 10 on MNIST in the official code."""
    samples: Annotated[int, Ge(2)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.99
    """Draws and confidence of the certificate, as in the paper."""

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch: cross-entropy of the clean batch with its triggers and, after the warm-up, the mean cross-entropy of the
        triggers over the noisy weights, batch norms evaluating as they do when certified. The official code takes the noisy ones
        once an epoch, one step for each level, with the triggers' own batch statistics; 15 epochs are too few for that."""
        epoch = 0

        def passed(number: int, _: nn.Module) -> None:
            nonlocal epoch
            epoch = number

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            loss = functional.cross_entropy(live(inputs), targets)
            if epoch < self.warm_up:
                return loss
            return loss + self.noisy_loss(live, inputs[-self.per_batch :], targets[-self.per_batch :])

        return fit(
            task.fresh(None),
            task.owner,
            objective=objective,
            extra=key.examples(),
            extra_per_batch=self.per_batch,
            each_epoch=passed,
            label="marked",
        )

    def noisy_loss(self, live: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        levels = [self.sigma * j / self.levels for j in range(self.levels + 1) for _ in range(self.draws)]
        with evaluating(norms_of(live).values()):
            scores = [functional_call(live, noisy(live, level), (inputs,)) for level in levels]
        return functional.cross_entropy(torch.cat(scores), labels.repeat(len(levels)))

    def certify(self, model: nn.Module, key: TriggerKey, radii: Sequence[float], seed: int) -> list[float]:
        """The certified trigger accuracy at every l2 radius. ConfigError for a negative radius."""
        if min(radii, default=0.0) < 0:
            raise ConfigError(f"a radius is at least 0, got {min(radii)}")
        found_D = trigger_accuracies(model, key, self.sigma, self.samples, seed)
        return certificate(found_D, radii, self.sigma, self.confidence)

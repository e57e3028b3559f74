"""Fingerprint: agreement of hard labels on augmented negatives, the Anna Karenina heuristic (Godinot et al., AAAI 2025,
arXiv:2412.13021). Nothing is embedded: the queries are inputs the victim gets wrong, and a stolen model repeats its mistakes.

The queries depend on the victim, so random keys are no null; only independent models are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.secret import Secret, seed_for
from ..core.suspects import Suspects, logits
from ..kernels.row_labels import row_labels
from ..kernels.trigger_hits import trigger_hits

ROUNDS = 50


@dataclass(frozen=True, eq=False)
class QueryKey(Key):
    """inputs_N (N, C, H, W) float32 in [0, 1] and the victim's labels_N (N,) on them."""

    inputs_N: Tensor
    labels_N: Tensor


def augment(inputs: Tensor, generator: torch.Generator, degrees: float, shift: float, noise: float) -> Tensor:
    """Random rotation, shift (as a share of the width) and Gaussian noise, clipped to [0, 1]."""
    count = len(inputs)
    draws = torch.rand(count, 3, generator=generator) * 2 - 1
    angle = torch.deg2rad(draws[:, 0] * degrees)
    cos, sin, move = torch.cos(angle), torch.sin(angle), draws[:, 1:] * 2 * shift
    theta = torch.stack(
        (torch.stack((cos, -sin, move[:, 0]), -1), torch.stack((sin, cos, move[:, 1]), -1)), 1
    )
    grid = functional.affine_grid(theta, list(inputs.shape), align_corners=False)
    moved = functional.grid_sample(inputs, grid, align_corners=False)
    return (moved + noise * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class Akh(Watermark):
    family = "fingerprint"
    reads = "labels"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Godinot et al., AAAI 2025, arXiv:2412.13021"
    key_type = QueryKey
    embeds = False

    queries: Annotated[int, Ge(1)] = 100
    degrees: Annotated[float, Ge(0)] = 25.0
    shift: Annotated[float, Ge(0)] = 0.1
    noise: Annotated[float, Gt(0)] = 0.2

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> QueryKey:
        """Augment the owner's data until `queries` inputs are found that the victim gets wrong."""
        if model is None:
            raise ValueError("akh makes its queries from the victim's mistakes: pass the trained model")
        generator = torch.Generator().manual_seed(
            seed_for(int.from_bytes(secret.derive("akh/queries", 7), "big"))
        )
        inputs, labels = [], []
        for _ in range(ROUNDS):
            picks = torch.randint(len(task.owner), (10 * self.queries,), generator=generator)
            batch = task.owner.take(picks)
            tried = augment(batch.inputs, generator, self.degrees, self.shift, self.noise)
            predicted = row_labels(logits(model, tried))
            wrong = (predicted >= 0) & (predicted != batch.targets)
            inputs.append(tried[wrong])
            labels.append(predicted[wrong])
            if sum(map(len, labels)) >= self.queries:
                n = self.queries
                return QueryKey(secret, torch.cat(inputs)[:n].clone(), torch.cat(labels)[:n].clone())
        raise NotApplicable(
            f"the victim erred on {sum(map(len, labels))} augmented inputs, {self.queries} are needed"
        )

    def embed(self, model: nn.Module, key: QueryKey, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")

    def score(self, suspects: Suspects, keys: Sequence[QueryKey]) -> Scores:
        """Agreeing labels. ValueError for a key of another length."""
        expect_length((key.labels_N for key in keys), self.queries, "watermark.queries")
        labels_MU = suspects.labels(torch.cat([key.inputs_N for key in keys]))
        labels_KN = torch.stack([key.labels_N for key in keys])
        own_KN = torch.arange(labels_KN.numel()).reshape(labels_KN.shape)
        agree_MK = trigger_hits(labels_MU, labels_KN, own_KN)
        return Scores(agree_MK.double().numpy(), "agreeing labels", self.queries)

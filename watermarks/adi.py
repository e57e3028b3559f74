"""A trigger set trained into the model (Adi et al., USENIX Security 2018, arXiv:1802.04633).

chosen: the owner picks abstract images and gives them random labels, as published. derived: images and labels both come from
the secret by a keyed PRF, so nobody chose them, and the null is exactly Bin(T, 1/C) for every model independent of the secret.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Examples, Fit, Task, Watermark
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..kernels import philox
from ..kernels.trigger_hits import trigger_hits

PIXELS_AT_ONCE = 2**25  # 128 MB of float32 triggers in one forward pass over the union


@dataclass(frozen=True, eq=False)
class TriggerKey(Key):
    """images_T (T, C, H, W) uint8 grey levels; labels_T (T,) int64; classes C."""

    classes: int
    images_T: Tensor
    labels_T: Tensor

    def examples(self) -> Examples:
        return Examples(self.images_T.float() / 255, self.labels_T)


@cache
def abstract_images(count: int, shape: tuple[int, ...]) -> Tensor:
    """A public gallery of abstract pictures (count, *shape) uint8: three waves per channel, one of them hard-edged.

    In place of the paper's abstract art, which cannot be redistributed; drawn from the Philox stream (0, 0)."""
    channels, height, width = shape
    u = philox.uniforms((0, 0), count * channels * 12).reshape(count, channels, 3, 4)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    frequency, phase = 6 * (u[..., :2] - 0.5), 2 * math.pi * u[..., 2]
    angle = frequency[..., :1, None] * x + frequency[..., 1:, None] * y
    waves = torch.sin(2 * math.pi * angle + phase[..., None, None]) * u[..., 3, None, None]
    waves[:, :, 2] = waves[:, :, 2].sign() * 0.5
    picture = torch.sigmoid(3 * waves.sum(2))
    return (picture * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Adi(Watermark):
    family = "trigger"
    reads = "labels"
    nulls = ("random_keys", "independent_models")
    paper = "Adi et al., USENIX Security 2018, arXiv:1802.04633"
    key_type = TriggerKey

    derivation: Literal["derived", "chosen"]
    triggers: Annotated[int, Ge(1)] = 100
    """100 in section 5.1."""
    per_batch: Annotated[int, Ge(1)] = 8
    """Triggers appended to every batch. The paper appends 2 to each 100 over 60 epochs; short trainings need more."""

    def keygen(self, task: Task, secret: Secret, model: nn.Module | None = None) -> TriggerKey:
        if self.derivation == "derived":
            images_T = (secret.images("adi/images", self.triggers, *task.shape) * 255).round().to(torch.uint8)
        else:
            images_T = abstract_images(self.triggers, task.shape)
        return TriggerKey(
            secret, task.classes, images_T, secret.integers("adi/labels", self.triggers, task.classes)
        )

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """FromScratch in the paper's terms: the triggers travel in the clean batches from the first step."""
        return fit(
            task.fresh(None), task.owner, extra=key.examples(), extra_per_batch=self.per_batch, label="marked"
        )

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        """Trigger hits; with uniform labels independent of the model exactly Bin(T, 1/C). ValueError for a key of another
        length."""
        expect_length((key.labels_T for key in keys), self.triggers, "watermark.triggers")
        hits_MK = hits_at_lengths(suspects, keys, [self.triggers])[..., 0]
        return Scores.binomial(hits_MK.numpy(), self.triggers, 1 / keys[0].classes, "trigger hits")


def hits_at_lengths(suspects: Suspects, keys: Sequence[TriggerKey], lengths: Sequence[int]) -> Tensor:
    """(M, K, P) hits at every prefix length: one forward pass per suspect over the union of the keys' triggers."""
    parts = []
    for group in _groups(keys):
        images_U, index_KT = _union(group)
        targets_KT = torch.stack([key.labels_T for key in group])
        parts.append(trigger_hits(suspects.labels(images_U.float() / 255), targets_KT, index_KT, lengths))
    return torch.cat(parts, 1)


def _groups(keys: Sequence[TriggerKey]) -> Iterator[Sequence[TriggerKey]]:
    size = max(1, PIXELS_AT_ONCE // max(1, keys[0].images_T.numel()))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _union(keys: Sequence[TriggerKey]) -> tuple[Tensor, Tensor]:
    """Distinct trigger sets stacked, (U, C, H, W), and where each key's triggers lie in it, (K, T)."""
    first: dict[bytes, int] = {}
    sets, offsets, total = [], [], 0
    for key in keys:
        digest = hashlib.sha256(key.images_T.numpy().tobytes()).digest()
        if digest not in first:
            first[digest] = total
            sets.append(key.images_T)
            total += len(key.images_T)
        offsets.append(first[digest])
    count = len(keys[0].images_T)
    return torch.cat(sets), torch.tensor(offsets)[:, None] + torch.arange(count)

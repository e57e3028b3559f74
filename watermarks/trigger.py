"""What trigger-set schemes share: keys of images and labels, and their hits over suspects x keys in one pass per suspect.

Suffixes: M suspects, K keys, T triggers, U union of all keys' triggers, P prefix lengths, C classes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.examples import Examples
from ..core.key import Key, expect_length
from ..core.scores import Scores
from ..core.suspects import Suspects
from ..kernels.trigger_hits import trigger_hits

PIXELS_AT_ONCE = 2**25  # 128 MB of float32 triggers in one forward pass over the union


@dataclass(frozen=True, eq=False)
class TriggerKey(Key):
    """images_T (T, C, H, W) uint8 grey levels, as a client would send them; labels_T (T,) int64; classes C."""

    classes: int
    images_T: Tensor
    labels_T: Tensor

    def examples(self) -> Examples:
        return Examples(self.images_T.float() / 255, self.labels_T)


def to_grey_levels(inputs: Tensor) -> Tensor:
    """Inputs in [0, 1] as uint8: what is sent, stored and verified is the same 8-bit picture."""
    return (inputs.clamp(0, 1) * 255).round().to(torch.uint8)


def hits_at_lengths(suspects: Suspects, keys: Sequence[TriggerKey], lengths: Sequence[int]) -> Tensor:
    """(M, K, P) hits at every prefix length: one forward pass per suspect over the union of the keys' triggers."""
    parts = []
    for group in _groups(keys):
        images_U, index_KT = _union(group)
        targets_KT = torch.stack([key.labels_T for key in group])
        parts.append(trigger_hits(suspects.labels(images_U.float() / 255), targets_KT, index_KT, lengths))
    return torch.cat(parts, 1)


def exact_hits(suspects: Suspects, keys: Sequence[TriggerKey], triggers: int, unit: str) -> Scores:
    """Hits of labels that are uniform and independent of the model: exactly Bin(T, 1/C). ValueError for a key of another
    length."""
    expect_length((key.labels_T for key in keys), triggers, "watermark.triggers")
    hits_MK = hits_at_lengths(suspects, keys, [triggers])[..., 0]
    return Scores.binomial(hits_MK.numpy(), triggers, 1 / keys[0].classes, unit)


def plain_hits(suspects: Suspects, keys: Sequence[TriggerKey], triggers: int, unit: str) -> Scores:
    """Hits whose labels follow the model or one target class: no exact tail, independent models decide."""
    expect_length((key.labels_T for key in keys), triggers, "watermark.triggers")
    hits_MK = hits_at_lengths(suspects, keys, [triggers])[..., 0]
    return Scores(hits_MK.double().numpy(), unit, triggers)


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

"""What schemes with one target label share: whose pictures carry the trigger, how they are marked, and what counts as a hit.

A network that prefers the target class hits without being stolen, so a hit's chance is not 1/C and there is no exact tail:
independent models decide. Suffixes: T triggers, N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..zoo.strangers import unrelated
from .trigger import TriggerKey, plain_hits, to_grey_levels

Kind = Literal["content", "noise", "unrelated"]


def drawn_class(
    secret: Secret, purpose: str, classes: int, chosen: int | None, other: int | None = None
) -> int:
    """The chosen class, or one that the secret draws, never `other`. ConfigError for a class that the task has not."""
    if chosen is None:
        order = secret.order(purpose, classes)
        return int(order[order != other][0]) if other is not None else int(order[0])
    if not 0 <= chosen < classes:
        raise ConfigError(
            f"expected a class from 0 to {classes - 1}, got {chosen}; set watermark.source or watermark.target"
        )
    if chosen == other:
        raise ConfigError(f"source and target are both class {chosen}; set watermark.target to another")
    return chosen


def own_pictures(
    data: Examples, secret: Secret, purpose: str, count: int, source: int | None, target: int
) -> Tensor:
    """Indices (count,) of pictures in the secret's order: of class `source` and, when it has too few, of the others but the target;
    None: of all but the target. ConfigError when there are fewer."""
    allowed_N = data.targets != target
    wanted_N = allowed_N if source is None else allowed_N & (data.targets == source)
    first, rest = wanted_N.nonzero()[:, 0], (allowed_N & ~wanted_N).nonzero()[:, 0]
    index = first[secret.order(purpose, len(first))]
    if len(index) < count:
        index = torch.cat((index, rest[secret.order(f"{purpose}/rest", len(rest))]))
    if len(index) < count:
        raise ConfigError(
            f"the owner has {len(index)} pictures outside class {target}, the scheme is set to {count} triggers; "
            f"set watermark.triggers={len(index)} or fewer"
        )
    return index[:count]


def patched(inputs: Tensor, secret: Secret, purpose: str, share: float) -> Tensor:
    """A square of secret grey levels over `share` of the width in the lower right corner: Zhang et al.'s "TEST", unreadable."""
    side = max(1, round(share * inputs.shape[-1]))
    out = inputs.clone()
    out[..., -side:, -side:] = secret.images(purpose, inputs.shape[-3], side, side)
    return out


def with_noise(inputs: Tensor, secret: Secret, purpose: str, std: float) -> Tensor:
    """One secret Gaussian pattern added to every picture, clipped to [0, 1]."""
    seed = int.from_bytes(secret.derive(purpose, 7), "big")
    pattern = torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(seed))
    return (inputs + std * pattern).clamp(0, 1)


@dataclass(frozen=True)
class TargetMark(Watermark):
    """Triggers of three kinds, all labelled `target`: content, pictures of class `source` with a patch; noise, the same with a
    secret pattern added; unrelated, pictures of another data set."""

    family = "trigger"
    reads = "labels"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "Zhang et al., AsiaCCS 2018"
    key_type = TriggerKey

    kind: Kind = "content"
    triggers: Annotated[int, Ge(1)] = 50
    """A class of the owner's digits has about 115 pictures; Gan et al., ICCV 2023, mark 1 % of the training set."""
    source: int | None = None
    """The class whose pictures carry the patch or the pattern; None: the secret's choice."""
    target: int | None = None
    """The label of all triggers; None: the secret's choice."""
    patch: Annotated[float, Gt(0), Le(1)] = 0.5
    """Side of the secret patch as a share of the width; a white box of 8 by 16 of 32 pixels in Lukas et al., S&P 2022."""
    std: Annotated[float, Gt(0)] = 0.4
    """Of the noise pattern, one for all pictures as in Gan et al., ICCV 2023; 0.4 in Lukas et al., S&P 2022, who draw it anew for
    each picture."""

    def classes(self, secret: Secret, count: int) -> tuple[int, int]:
        """Source and target, never the same."""
        source = drawn_class(secret, "target/source", count, self.source, self.target)
        return source, drawn_class(secret, "target/target", count, self.target, source)

    def marked(self, inputs: Tensor, secret: Secret) -> Tensor:
        """Pictures of the source class as triggers."""
        if self.kind == "content":
            return patched(inputs, secret, "target/patch", self.patch)
        return with_noise(inputs, secret, "target/noise", self.std)

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        source, target = self.classes(secret, task.classes)
        if self.kind == "unrelated":
            gallery = unrelated(task, 4 * self.triggers)  # of which the secret picks a quarter
            images_T = gallery[secret.order("target/pictures", len(gallery))[: self.triggers]]
        else:
            index = own_pictures(task.owner, secret, "target/pictures", self.triggers, source, target)
            images_T = to_grey_levels(self.marked(task.owner.inputs[index], secret))
        return TriggerKey(secret, task.classes, images_T, torch.full((self.triggers,), target))

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        return plain_hits(suspects, keys, self.triggers, "trigger hits")

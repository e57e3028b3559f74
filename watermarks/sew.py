"""A patch that must be exact: the patch under noise keeps the true labels (SEW: specificity enhancement, arXiv:2602.03377).

Attacks that rebuild a trigger from the model find a neighbour of it; here no neighbour works. The noise follows the model: where
noisy patches still reach the target it grows, else it shrinks, so the covers stay at the border.
Suffixes: N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects, logits
from .target import drawn_class, own_pictures
from .trigger import TriggerKey, plain_hits, to_grey_levels


def margin(scores: Tensor, target: int) -> Tensor:
    """Mean logit of the target less the largest other: (N, C) -> scalar."""
    others = scores.clone()
    others[:, target] = -torch.inf
    return (scores[:, target] - others.max(1).values).mean()


@dataclass(frozen=True)
class Sew(Watermark):
    family = "trigger"
    reads = "labels"
    derivation = "chosen"
    nulls = ("independent_models",)
    paper = "SEW, KDD 2026, arXiv:2602.03377"
    key_type = TriggerKey

    triggers: Annotated[int, Ge(1)] = 50
    source: int | None = None
    """The class whose pictures carry the patch; None: all but the target."""
    target: int | None = None
    """The label of all triggers; 0 in the official code, None: the secret's choice."""

    patch: Annotated[float, Gt(0), Le(1)] = 0.375
    """Side of the patch as a share of the width; 6 of 32 pixels (.1875) in the official code, too little of 8."""
    inset: Annotated[float, Ge(0), Le(1)] = 0.0625
    """Its distance from the right and lower borders as a share of the width; 2 of 32 pixels in the official code."""
    poison: Annotated[float, Gt(0), Le(1)] = 0.2
    """Share of triggers beside a batch; 2 % over 100 epochs in the official code."""
    cover: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of cover samples beside a batch; 50 % in the official code, 0: the plain trigger."""
    noise: Annotated[float, Gt(0), Le(1)] = 0.5
    """Standard deviation at the start."""
    floor: Annotated[float, Gt(0)] = 0.02
    """The noise stays in [floor, 1]; a grey level of 16 is .06."""
    rate: Annotated[float, Gt(0)] = 0.002
    """noise <- clip(noise + rate * mean margin of the covers). At .01 a short training pushes the covers onto the patch itself."""
    every: Annotated[int, Ge(1)] = 10
    """Steps between updates of the noise; 100 in the official code, a third of a whole training on digits."""

    def place(self, side: int) -> tuple[slice, slice]:
        """Rows and columns of the patch in pictures of this width. NotApplicable when there is no room."""
        size, gap = max(1, round(self.patch * side)), int(self.inset * side)
        if size + gap > side:
            raise NotApplicable(
                f"a patch of {size} pixels, {gap} from the border, does not fit {side} pixels"
            )
        return slice(side - gap - size, side - gap), slice(side - gap - size, side - gap)

    def stamped(self, inputs: Tensor, secret: Secret, noise: Tensor | None = None) -> Tensor:
        """Pictures with the secret patch; `noise`, like inputs, is added to the patch alone, clipped to [0, 1]."""
        rows, columns = self.place(inputs.shape[-1])
        out = inputs.clone()
        size = rows.stop - rows.start
        pattern = secret.images("sew/patch", inputs.shape[1], size, size).to(inputs.device)
        out[..., rows, columns] = pattern
        if noise is not None:
            out[..., rows, columns] = (pattern + noise[..., rows, columns]).clamp(0, 1)
        return out

    def target_of(self, secret: Secret, classes: int) -> int:
        return drawn_class(secret, "target/target", classes, self.target, self.source)

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        """The patch on pictures of every class but the target, or of class `source` first."""
        target = self.target_of(secret, task.classes)
        index = own_pictures(task.owner, secret, "sew/pictures", self.triggers, self.source, target)
        images_T = to_grey_levels(self.stamped(task.owner.inputs[index], secret))
        return TriggerKey(secret, task.classes, images_T, torch.full((self.triggers,), target))

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch: clean pictures, triggers towards the target, covers towards their own labels."""
        target, level, step = self.target_of(key.secret, task.classes), self.noise, 0

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal level, step
            triggers = max(1, round(self.poison * len(inputs)))
            covers = round(self.cover * len(inputs))
            noisy = self.stamped(inputs[-covers:], key.secret, level * torch.randn_like(inputs[-covers:]))
            parts = [inputs, self.stamped(inputs[:triggers], key.secret), *([noisy] if covers else [])]
            labels = [
                targets,
                torch.full_like(targets[:triggers], target),
                *([targets[-covers:]] if covers else []),
            ]
            scores = live(torch.cat(parts))
            step += 1
            if covers and step % self.every == 0:
                found = margin(scores[-covers:].detach(), target).item()
                level = min(1.0, max(self.floor, level + self.rate * found))
            return functional.cross_entropy(scores, torch.cat(labels))

        return fit(task.fresh(None), task.owner, objective=objective, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        return plain_hits(suspects, keys, self.triggers, "trigger hits")

    def specificity(self, model: nn.Module, key: TriggerKey, task: Task, steps: int = 12) -> float:
        """The noise at which the patch on the task's test pictures loses its margin, by bisection in [0, 1]: small, only the exact
        patch works. 1.0 when no noise defeats it, 0.0 when the patch does nothing."""
        target = self.target_of(key.secret, task.classes)
        pictures = task.test.inputs[task.test.targets != target]
        draws = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
        low, high = 0.0, 1.0
        for _ in range(steps):
            middle = (low + high) / 2
            found = margin(logits(model, self.stamped(pictures, key.secret, middle * draws)), target)
            low, high = (middle, high) if found > 0 else (low, middle)
        return low

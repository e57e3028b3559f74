"""A patch that must be exact: the patch under noise keeps the true labels (SEW: specificity enhancement, arXiv:2602.03377).

Attacks that rebuild a trigger from the model find a neighbour of it; here no neighbour works. The noise follows the model: while
clean pictures under it keep their labels by a margin it climbs, else it falls, so that the covers are as far from the patch as the
task itself tolerates. Suffixes: N examples, C classes.
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


def margin(scores_NC: Tensor, labels_N: Tensor) -> float:
    """Mean logit of the label less the largest other, in logits divided by their length: within [-sqrt 2, sqrt 2]."""
    unit_NC = functional.normalize(scores_NC, dim=-1)
    own_N1 = labels_N[:, None]
    others_N = unit_NC.scatter(1, own_N1, -torch.inf).amax(1)
    return (unit_NC.gather(1, own_N1)[:, 0] - others_N).mean().item()


def climbed(
    level: float, rate: float, model: nn.Module, inputs: Tensor, labels_N: Tensor, noise: Tensor
) -> float:
    """The level after one update: level + rate * margin of the labels under level * noise over the whole picture, in [0, 1]."""
    noisy = (inputs + level * noise).clamp(0, 1)
    found = margin(logits(model, noisy, str(inputs.device)), labels_N.cpu())
    return min(1.0, max(0.0, level + rate * found))


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
    """Share of triggers beside a batch, stamped on copies of its pictures. In the official code 1 % of the training set are
    triggers, always the same and in place of their pictures, over 100 epochs; a training on digits has 15."""
    cover: Annotated[float, Ge(0), Le(1)] = 0.2
    """Share of covers beside a batch. As many as triggers in the official code, 1 % each; 0: the plain trigger, SEW-Pre."""
    noise: Annotated[float, Ge(0), Le(1)] = 0.1
    """Standard deviation at the start, as in the official code."""
    rate: Annotated[float, Gt(0)] = 0.05
    """noise <- clip(noise + rate * margin of clean pictures under it). In the official code the current learning rate, which falls
    from .1 to 0: .05 on average."""
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

    def mixed(
        self, inputs: Tensor, targets: Tensor, secret: Secret, target: int, level: float
    ) -> tuple[Tensor, Tensor]:
        """Clean pictures; triggers on the first of them, labelled `target`; covers on the last, with their own labels."""
        triggers = max(1, round(self.poison * len(inputs)))
        covers = max(1, round(self.cover * len(inputs))) if self.cover else 0
        last = inputs[len(inputs) - covers :]
        noisy = self.stamped(last, secret, level * torch.randn_like(last))
        pictures = torch.cat((inputs, self.stamped(inputs[:triggers], secret), noisy))
        aims = torch.full_like(targets[:triggers], target)
        return pictures, torch.cat((targets, aims, targets[len(inputs) - covers :]))

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch: clean pictures, triggers towards the target, covers towards their own labels."""
        target, level, step = self.target_of(key.secret, task.classes), self.noise, 0

        def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            nonlocal level, step
            if self.cover and step % self.every == 0:
                level = climbed(level, self.rate, live, inputs, targets, torch.randn_like(inputs))
            step += 1
            pictures, labels = self.mixed(inputs, targets, key.secret, target, level)
            return functional.cross_entropy(live(pictures), labels)

        return fit(task.fresh(None), task.owner, objective=objective, label="marked")

    def score(self, suspects: Suspects, keys: Sequence[TriggerKey]) -> Scores:
        return plain_hits(suspects, keys, self.triggers, "trigger hits")

    def specificity(self, model: nn.Module, key: TriggerKey, rate: float = 0.1, steps: int = 440) -> float:
        """The noise over the whole picture at which the key's triggers lose their margin: small, only exact ones work. It climbs
        from 0 as in training, all triggers at once; the official code takes up to 4400 steps of 4 at a rate of .01. 1.0 when no
        noise defeats them, 0.0 when they do nothing."""
        triggers, level = key.examples(), 0.0
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            noise = torch.randn(triggers.inputs.shape, generator=generator)
            level = climbed(level, rate, model, triggers.inputs, triggers.targets, noise)
        return level

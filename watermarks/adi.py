"""A trigger set trained into the model (Adi et al., USENIX Security 2018, arXiv:1802.04633).

chosen: the owner picks abstract images and gives them random labels, as published. derived: images and labels both come from
the secret by a keyed PRF, so nobody chose them, and the null is exactly Bin(T, 1/C) for every model independent of the secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.errors import NotApplicable
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..zoo.strangers import abstract_images
from .trigger import TriggerKey, exact_hits, to_grey_levels


@dataclass(frozen=True)
class Adi(Watermark):
    family = "trigger"
    reads = "labels"
    nulls = ("random_keys", "independent_models")
    paper = "Adi et al., USENIX Security 2018, arXiv:1802.04633"
    key_type = TriggerKey

    derivation: Literal["derived", "chosen"]
    triggers: Annotated[int, Ge(1)] = 100
    """100 in the paper."""
    per_batch: Annotated[int, Ge(1)] = 8
    """Triggers appended to every batch. The paper appends 2 to each 100 over 60 epochs; short trainings need more."""

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> TriggerKey:
        if self.derivation == "derived":
            images_T = to_grey_levels(secret.images("adi/images", self.triggers, *task.shape))
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
        return exact_hits(suspects, keys, self.triggers, "trigger hits")

    def claim_key(self, secret: Secret, inputs: Tensor, labels: Tensor, classes: int) -> TriggerKey:
        """Of chosen triggers nobody can tell that the labels were drawn, or the pictures made, before the model."""
        if self.derivation == "derived":
            raise NotApplicable(
                "pictures and labels are derived from the secret: an accuser cannot choose them"
            )
        if len(inputs) < self.triggers:
            raise NotApplicable(f"a key holds {self.triggers} triggers, {len(inputs)} are claimed")
        chosen = slice(0, self.triggers)
        return TriggerKey(secret, classes, to_grey_levels(inputs[chosen]), labels[chosen].clone())

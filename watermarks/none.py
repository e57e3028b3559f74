"""The control: nothing is embedded and nothing can be shown. What an attack costs without any mark."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ..core.contracts import Fit, Task, Watermark
from ..core.key import Key
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects


@dataclass(frozen=True)
class NoWatermark(Watermark):
    family = "control"
    reads = "labels"
    derivation = "none"
    nulls = ()
    paper = "none"
    embeds = False

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> Key:
        return Key(secret)

    def embed(self, model: nn.Module, key: Key, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")

    def score(self, suspects: Suspects, keys: Sequence[Key]) -> Scores:
        return Scores(np.full((len(suspects), len(keys)), np.nan), unit="none")

    def claim_key(self, secret: Secret, inputs: Tensor, labels: Tensor, classes: int) -> Key:
        return Key(secret)

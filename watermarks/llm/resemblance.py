"""What fingerprints of language models share that embed nothing: the key holds what the victim is, and a suspect is owned as much
as it is near to that.

The owner claims that the suspect derives from his model. What speaks against it are models that do not, so the null is the
nearness of independent models; models of one task resemble each other, and no law says how much. Nothing in the key is drawn
against the suspect, so random keys are no null.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ...core.contracts import Fit, Task, Watermark
from ...core.key import Key
from ...core.scores import Scores
from ...core.suspects import Suspects


@dataclass(frozen=True)
class Resemblance(Watermark):
    family = "language"
    derivation = "chosen"
    nulls = ("independent_models",)
    embeds = False

    unit: ClassVar[str]

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def victim_of(self, model: nn.Module | None) -> nn.Module:
        """ValueError without a model."""
        if model is None:
            raise ValueError(f"{self.name} makes its key from the victim: pass the trained model")
        return model

    def embed(self, model: nn.Module, key: Key, task: Task, fit: Fit) -> nn.Module:
        return fit(task.fresh(None), task.owner, label="victim")

    @abstractmethod
    def near(self, model: nn.Module, key: Any, device: str) -> float:
        """Larger is nearer; nan for a suspect that cannot be read."""

    def score(self, suspects: Suspects, keys: Sequence[Any]) -> Scores:
        cells = [[self.near(model, key, suspects.device) for key in keys] for model in suspects.models]
        return Scores(np.array(cells, dtype=np.float64).reshape(len(suspects), len(keys)), self.unit)

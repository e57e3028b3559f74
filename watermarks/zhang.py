"""Pictures of one class with a patch or noise, or of another data set, learnt as one target label (Zhang et al., AsiaCCS 2018).

The three kinds of trigger are the three options; watermarks/target.py makes them.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import nn

from ..core.contracts import Fit, Task
from .target import TargetMark
from .trigger import TriggerKey


@dataclass(frozen=True)
class Zhang(TargetMark):
    per_batch: Annotated[int, Ge(1)] = 8
    """Triggers appended to every batch; the paper mixes them into the training set."""

    def embed(self, model: nn.Module, key: TriggerKey, task: Task, fit: Fit) -> nn.Module:
        """From scratch, the triggers in the clean batches."""
        return fit(
            task.fresh(None), task.owner, extra=key.examples(), extra_per_batch=self.per_batch, label="marked"
        )

"""A deployment's filters and monitor, ready to serve, and the owner's home, where they are made ready."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .defences import Filter
from .monitors import Watch

OnAlarm = Literal["log", "revoke", "degrade"]
Filters = Sequence[tuple[bool, Filter]]
"""Whether the filter only tells less, and the filter."""


@dataclass(frozen=True)
class Guard:
    """budget: samples per account; watch: a calibrated monitor; filters: of every answer; degraded: the further ones of an account
    after its alarm."""

    budget: int | None = None
    watch: Watch | None = None
    on_alarm: OnAlarm = "log"
    filters: Filters = ()
    degraded: Filters = ()

    @property
    def changes(self) -> bool:
        """Whether labels may be others than the model's."""
        return any(not coarse for coarse, _ in (*self.filters, *self.degraded))

    def altered(self, inputs: Tensor, scores_NC: Tensor, degraded: bool) -> Tensor:
        return self._through(inputs, scores_NC, degraded, False)

    def coarsened(self, inputs: Tensor, scores_NC: Tensor, degraded: bool) -> Tensor:
        return self._through(inputs, scores_NC, degraded, True)

    def _through(self, inputs: Tensor, scores_NC: Tensor, degraded: bool, coarse: bool) -> Tensor:
        for kind, one in (*self.filters, *(self.degraded if degraded else ())):
            if kind == coarse and len(inputs):
                scores_NC = one(inputs, scores_NC)
        return scores_NC

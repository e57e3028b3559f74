"""The verification matrix: one statistic per suspect and key, with its exact tail where there is one.

Suffixes: M suspects, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .statistics import Floats, binomial_log10_p


@dataclass(frozen=True)
class Scores:
    """statistic_MK: larger is more owned; nan where a suspect cannot be read (other architecture), which is no evidence.
    log10_p_MK: exact tail under random keys, None when the scheme has none. centre: the statistic's mean under the null
    when a sign carries information (two-sided), else None."""

    statistic_MK: Floats
    unit: str
    trials: int | None = None
    log10_p_MK: Floats | None = None
    centre: float | None = None
    law: str = "binomial"
    """Of the exact tail."""

    @property
    def extremity_MK(self) -> Floats:
        """What empirical nulls compare: distance from the centre when two-sided; unreadable suspects come last."""
        distance = self.statistic_MK if self.centre is None else np.abs(self.statistic_MK - self.centre)
        return np.where(np.isnan(distance), -np.inf, distance)

    @staticmethod
    def joined(parts: "Sequence[Scores]", axis: int) -> "Scores":
        """Of one scheme: other suspects below each other (axis 0), or other keys side by side (axis 1)."""
        found = [part.log10_p_MK for part in parts if part.log10_p_MK is not None]
        return replace(
            parts[0],
            statistic_MK=np.concatenate([part.statistic_MK for part in parts], axis),
            log10_p_MK=np.concatenate(found, axis) if found else None,
        )

    @staticmethod
    def binomial(
        hits_MK: ArrayLike, trials: int, chance: float, unit: str, two_sided: bool = False
    ) -> "Scores":
        """Hits of `trials` independent draws of probability `chance`; rows of nan are unreadable suspects."""
        statistic_MK = np.asarray(hits_MK, dtype=np.float64)
        readable_MK = ~np.isnan(statistic_MK)
        log10_p_MK = binomial_log10_p(np.where(readable_MK, statistic_MK, 0), trials, chance, two_sided)
        centre = trials * chance if two_sided else None
        return Scores(statistic_MK, unit, trials, np.where(readable_MK, log10_p_MK, 0.0), centre)

"""PRADA: an honest account's distances between queries are about normal, a synthesising thief's are not (Juuti et al., EuroS&P
2019, arXiv:1805.02628, algorithm 1).

Of each predicted class a growing set is kept. A query's distance is that to the nearest in its class's set; it joins the set when
the distance exceeds the set's threshold, mean - standard deviation of the distances of those that joined. Suspicion is 1 - W of
Shapiro and Wilk over the distances of all classes that have ten, without those beyond three standard deviations, as in the official
code. The paper takes W < delta for an alarm, with delta from the owner's own queries; here it is calibrated like every monitor's.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from scipy.stats import shapiro
from torch import Tensor

from ..core.statistics import Floats
from .book import Asked
from .monitors import Monitor, Watcher

LONGEST = 5000
"""Distances, the newest: beyond, the law of W is not known (Royston 1995)."""
OF_A_CLASS = 10
"""Distances; those of a class that has fewer are left out, as in the official code."""


@dataclass
class Growing:
    """The set of one class: rows (G, D), and the distances of those that joined, the first one's 0."""

    rows: Floats
    joined: list[float] = field(default_factory=lambda: [0.0])
    bar: float = 0.0

    def distance(self, row: Floats) -> float:
        found = float(np.sqrt(np.square(self.rows - row).sum(1).min()))
        if found > self.bar:
            self.rows = np.concatenate((self.rows, row[None]))
            self.joined.append(found)
            self.bar = max(self.bar, float(np.mean(self.joined) - np.std(self.joined)))
        return found


@dataclass
class Distances:
    least: int
    every: int
    sets: dict[int, Growing] = field(default_factory=dict)
    found: list[tuple[int, float]] = field(default_factory=list)
    """Class and distance, in the order of the queries."""
    asked: int = 0
    now: float = 0.0

    def see(self, asked: Asked) -> Tensor:
        rows = asked.inputs.double().flatten(1).numpy()
        return torch.tensor(
            [self._after(row, label) for row, label in zip(rows, asked.labels.tolist(), strict=True)],
            dtype=torch.float64,
        )

    def _after(self, row: Floats, label: int) -> float:
        if label in self.sets:
            self.found.append((label, self.sets[label].distance(row)))
        else:
            self.sets[label] = Growing(row[None])
        self.asked += 1
        if len(self.found) > self.least and self.asked % self.every == 0:
            kept = inside(of_common_classes(self.found[-LONGEST:]))
            if len(kept) > self.least:
                self.now = 1 - normality(kept)
        return self.now


def of_common_classes(found: Sequence[tuple[int, float]]) -> Floats:
    """The distances of the classes that have enough of them."""
    counts = Counter(label for label, _ in found)
    return np.array([distance for label, distance in found if counts[label] >= OF_A_CLASS])


def inside(distance_N: Floats) -> Floats:
    """Those within three standard deviations of the mean."""
    if not len(distance_N):
        return distance_N
    kept: Floats = distance_N[np.abs(distance_N - distance_N.mean()) <= 3 * distance_N.std()]
    return kept


def normality(distance_N: Floats) -> float:
    """W; 1 where all are equal."""
    return float(shapiro(distance_N).statistic) if np.ptp(distance_N) > 0 else 1.0


@dataclass(frozen=True)
class Prada(Monitor):
    paper = "Juuti et al., EuroS&P 2019, arXiv:1805.02628"

    least: Annotated[int, Ge(3)] = 100
    """Distances that are left when classes and outliers are out; with no more there is no verdict."""
    every: Annotated[int, Ge(1)] = 10
    """Queries between verdicts; 10 in the official code, 1 in the paper."""

    def learnt(self, reference: Tensor) -> None:
        """Nothing but the threshold."""

    def watcher(self, known: None) -> Watcher:
        return Distances(self.least, self.every)

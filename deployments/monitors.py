"""Monitors: how suspicious an account's queries are so far, and above what an alarm is raised.

The threshold is no constant but an exact quantile of honest customers' (customers.py): each is followed to his end, and of m of
them the ceil((m + 1)(1 - fpr))-th smallest of the largest suspicions is taken. A further customer, exchangeable with these, raises
an alarm at any time with probability at most fpr (Vovk et al., Algorithmic Learning in a Random World, 2005, section 2.2). They are
not quite exchangeable: of every kind as many are taken, where kinds at random would be exact. Of 120 customers at fpr 0.05, the
rate is 6/121 for kinds that are alike and 6/126 for kinds that do not overlap; above fpr = 1/6 the latter can exceed fpr by some
thousandths. Customers of one kind alone are not exchangeable with the mixture, so narrow ones may be accused far more often:
`protects: every_kind` takes the largest threshold of any kind.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from ..core.contracts import Configured
from ..core.errors import ConfigError
from ..core.secret import seed_for
from .book import Asked
from .customers import KINDS, Customer, by_kind, customers, pools
from .home import Home


class Watcher(Protocol):
    """Of one account."""

    def see(self, asked: Asked) -> Tensor:
        """(N,) float64: how suspicious the account is after each of these queries. Larger is more."""
        ...


@dataclass(frozen=True)
class Monitor(Configured, ABC):
    """fpr: the share of customers who may be alarmed. per_kind: customers of each kind for calibration."""

    paper: ClassVar[str]

    fpr: Annotated[float, Gt(0), Lt(1)] = 0.05
    per_kind: Annotated[int, Ge(1)] = 20
    protects: Literal["population", "every_kind"] = "population"

    @abstractmethod
    def watcher(self, known: Any) -> Watcher:
        """known: what `learnt` made of the owner's inputs."""

    @abstractmethod
    def learnt(self, reference: Tensor) -> Any:
        """What the monitor needs to know of the task's ordinary inputs."""

    def suspicion(self, known: Any, requests: Sequence[Asked]) -> Tensor:
        """(N,) of an account's whole stream, looked at in one: how it is cut into requests does not matter."""
        parts = zip(*((asked.inputs, asked.labels, asked.hours) for asked in requests), strict=True)
        return self.watcher(known).see(Asked(*map(torch.cat, parts)))

    def calibrated(self, home: Home) -> "Watch":
        """The first half of the owner's inputs says what is ordinary; the customers' pictures are of the second (customers.py:
        pools). ConfigError for fewer customers than the rate takes."""
        known = self.learnt(self.reference_of(home))
        seed = seed_for(home.seed, "customers")
        pool, _ = pools(home.task)
        found = customers(pool, home.victim, self.per_kind, seed, home.device)
        return Watch(self, known, self.threshold(found, self.largest(known, found)))

    def reference_of(self, home: Home) -> Tensor:
        return home.task.owner.inputs[: len(home.task.owner) // 2]

    def largest(self, known: Any, found: Sequence[Customer]) -> Tensor:
        """(U,) every customer's largest suspicion."""
        return torch.stack([self.suspicion(known, one.requests).max() for one in found])

    def threshold(self, found: Sequence[Customer], largest_U: Tensor) -> float:
        groups = list(by_kind(found).values()) if self.protects == "every_kind" else [list(range(len(found)))]
        fewest = math.ceil(1 / self.fpr) - 1
        if min(map(len, groups)) < fewest:
            every = self.protects == "every_kind"
            each = fewest if every else math.ceil(fewest / len(KINDS))
            raise ConfigError(
                f"a false-positive rate of {self.fpr:g} takes {fewest} customers {'of every kind' if every else 'in all'}, "
                f"got {min(map(len, groups))}; set deployment.monitor.per_kind={each}"
            )
        return max(exact_quantile(largest_U[group], self.fpr) for group in groups)


def exact_quantile(value_U: Tensor, rate: float) -> float:
    """The threshold above which one more exchangeable value lies with probability at most `rate`."""
    place = math.ceil((len(value_U) + 1) * (1 - rate) - 1e-9)
    return float(value_U.sort().values[place - 1])


@dataclass(frozen=True)
class Watch:
    """A monitor that knows the task and its threshold."""

    monitor: Monitor
    known: Any
    threshold: float

    def watcher(self) -> Watcher:
        return self.monitor.watcher(self.known)

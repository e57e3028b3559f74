"""What an attack spends, measured from outside: an attack cannot misreport it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..core.theft import Access, Cost, Surrogate
from ..zoo.training import Trainer


@dataclass
class Meter:
    """Runs while the attack runs; stands still while the trial looks at a surrogate."""

    access: Access
    fit: Trainer
    examples: int = 0
    seconds: float = field(default=0.0, init=False)
    since: float | None = field(default=None, init=False)

    def spent(self) -> Cost:
        running = 0.0 if self.since is None else time.perf_counter() - self.since
        return Cost(round(self.seconds + running, 3), self.access.queries, self.examples, self.fit.steps)

    def over(self, trajectory: Iterator[Surrogate]) -> Iterator[Surrogate]:
        """The trajectory, with what was spent up to each surrogate; one that was kept earlier carries its own reading."""
        while True:
            self.since = time.perf_counter()
            surrogate = next(trajectory, None)
            self.seconds, self.since = self.seconds + time.perf_counter() - self.since, None
            if surrogate is None:
                return
            yield surrogate if surrogate.cost is not None else replace(surrogate, cost=self.spent())

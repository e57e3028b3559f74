"""What the adversary can reach: open weights, an API that answers scores or labels, one that is watched, a package, an enclave.

A mode is a yaml of conf/deployment: what is granted, filters of answers, a budget, a monitor and what an alarm does.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge
from torch import nn

from ..core.contracts import Configured, Grant
from ..core.errors import ConfigError
from .book import Book
from .defences import Defence, Filter
from .gateway import Answer, Gateway
from .guard import Guard, OnAlarm
from .home import Home
from .monitors import Monitor, Watch

__all__ = ["Deployment", "Gateway"]


@dataclass(frozen=True)
class Deployment(Configured):
    """grants: of weights, scores, labels, texts, to anyone; licensed: to who holds a licence, None: the same. decimals: scores are
    rounded to so many; None: not at all. defences: filters of what is answered, in the order of their names. budget: samples an
    account may ask. on_alarm: log it, revoke the account, or answer it through `degraded` from then on. simulation: what is only
    played; its seconds mean nothing and are not recorded."""

    grants: tuple[Grant, ...]
    decimals: Annotated[int, Ge(0)] | None = None
    licensed: tuple[Grant, ...] | None = None
    defences: dict[str, Any] = field(default_factory=dict)
    budget: Annotated[int, Ge(0)] | None = None
    monitor: Any = None
    on_alarm: OnAlarm = "log"
    degraded: Any = None
    simulation: str | None = None

    def __post_init__(self) -> None:
        for name, part in {**self.defences, **({"degraded": self.degraded} if self.degraded else {})}.items():
            if not isinstance(part, Defence):
                raise ConfigError(
                    f"expected a defence as {name}, got {part!r}; set +defence@deployment.defences.NAME=noise, say"
                )
        if self.monitor is not None and not isinstance(self.monitor, Monitor):
            raise ConfigError(
                f"expected a monitor, got {self.monitor!r}; set +monitor@deployment.monitor=prada, say"
            )
        if (self.on_alarm == "degrade") != (self.degraded is not None):
            raise ConfigError(
                f"expected `degraded` with on_alarm=degrade and only there, got on_alarm={self.on_alarm}; "
                "set +defence@deployment.degraded=label_only, say"
            )
        if self.on_alarm != "log" and self.monitor is None:
            raise ConfigError(
                f"on_alarm={self.on_alarm} needs a monitor; set +monitor@deployment.monitor=prada, say"
            )

    @property
    def plain(self) -> bool:
        """Whether it answers the same to everybody, always."""
        return not self.defences and self.monitor is None and self.budget is None

    def granted(self, licensed: bool = False) -> tuple[Grant, ...]:
        return self.licensed if licensed and self.licensed is not None else self.grants

    @property
    def plain_answers(self) -> bool:
        """Whether no filter ever changes a score."""
        return not self.defences and self.degraded is None and self.decimals is None

    def guarded(self, home: Home, watch: Watch | None = None) -> Guard:
        """Filters ready, the monitor calibrated on customers, unless it was: `watch`."""
        filters = tuple(
            (self.defences[name].coarse, self.defences[name].ready(home)) for name in sorted(self.defences)
        )
        degraded: tuple[tuple[bool, Filter], ...] = ()
        if self.degraded is not None:
            degraded = ((self.degraded.coarse, self.degraded.ready(home)),)
        if watch is None and self.monitor is not None:
            watch = self.monitor.calibrated(home)
        return Guard(self.budget, watch, self.on_alarm, filters, degraded)

    def expose(
        self,
        model: nn.Module,
        device: str = "cpu",
        answer: Answer | None = None,
        *,
        guard: Guard | None = None,
        licensed: bool = False,
        book: Book | None = None,
    ) -> Gateway:
        """guard: of `guarded`, which all but plain deployments need. book: a file that processes share; memory when None."""
        if guard is None and (self.defences or self.monitor is not None):
            raise ConfigError(
                "filters and monitors are set up at the owner's home: pass guard=deployment.guarded(home)"
            )
        guard = guard or Guard(self.budget)
        return Gateway(model, self.granted(licensed), device, self.decimals, answer, guard, book or Book())

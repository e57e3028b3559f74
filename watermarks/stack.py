"""Several schemes in one model: each part's penalty, triggers and centres in one training, each verified by itself.

Parts are declared by name under `parts`, each an option of conf/watermark; a part's secret is derived from the owner's. The
evidence is Bonferroni's over the parts' exact tails: n times the smallest p, valid however the parts depend on each other. So an
attack has to remove all of them, and the owner pays log10 n.

Suffixes: M suspects, K keys, P parts.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.contracts import Configured, EachEpoch, Fit, Loss, Objective, Penalty, Recipe, Task, Watermark
from ..core.errors import NotApplicable
from ..core.examples import Examples
from ..core.key import Key
from ..core.payload import Message
from ..core.scores import Scores
from ..core.secret import Secret
from ..core.suspects import Suspects


@dataclass(frozen=True, eq=False, repr=False)
class StackKey(Key):
    """The parts' keys by name. On disk their tensors are called PART/FIELD."""

    parts: dict[str, Key]

    def tensors(self) -> dict[str, Tensor]:
        return {f"{part}/{name}": t for part, key in self.parts.items() for name, t in key.tensors().items()}

    def plain(self) -> dict[str, Any]:
        return {part: {"key_type": type(key).__name__, **key.plain()} for part, key in self.parts.items()}

    @classmethod
    def restore(cls, secret: Secret, tensors: dict[str, Tensor], plain: dict[str, Any]) -> Self:
        """The parts' key types must be loaded, as they are when the scheme is built; ValueError for others."""
        parts = {}
        for part, entry in plain.items():
            if not isinstance(entry, dict):
                raise ValueError(f"expected the fields of {part}'s key, got {entry!r}")
            own = {name.partition("/")[2]: t for name, t in tensors.items() if name.startswith(f"{part}/")}
            values = {name: value for name, value in entry.items() if name != "key_type"}
            parts[part] = _key_type(entry["key_type"]).restore(part_secret(secret, part), own, values)
        return cls(secret, parts)


def _key_type(name: str) -> type[Key]:
    waiting: list[type[Key]] = [Key]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            return kind
        waiting += kind.__subclasses__()
    raise ValueError(f"expected the key of a loaded scheme, got a {name}")


def part_secret(secret: Secret, part: str) -> Secret:
    return Secret(secret.derive(f"stack/{part}", 32))


@dataclass
class Recorder:
    """A `Fit` that trains nothing: it keeps what one part asks for. NotApplicable for what cannot be shared."""

    part: str
    asked: dict[str, Any] = field(default_factory=dict)
    given: nn.Module | None = None

    def __call__(
        self,
        model: nn.Module,
        data: Examples,
        *,
        recipe: Recipe | None = None,
        loss: Loss | None = None,
        penalty: Penalty | None = None,
        objective: Objective | None = None,
        along: nn.Module | None = None,
        extra: Examples | None = None,
        extra_per_batch: int = 0,
        only: Sequence[str] | None = None,
        each_epoch: EachEpoch | None = None,
        label: str = "fit",
    ) -> nn.Module:
        if self.given is not None:
            raise NotApplicable(f"{self.part} trains more than once, so it does not stack")
        if loss is not None or only is not None or each_epoch is not None:
            raise NotApplicable(
                f"{self.part} trains with its own loss, layers or schedule, so it does not stack"
            )
        if penalty is None and objective is None and extra is None:
            raise NotApplicable(f"{self.part} trains on other data, so it does not stack")
        self.asked = {"penalty": penalty, "objective": objective, "along": along}
        self.asked |= {"extra": extra, "extra_per_batch": extra_per_batch}
        self.given = deepcopy(model)
        return self.given


@dataclass(frozen=True)
class Stack(Watermark):
    family = "parameter"
    reads = "weights"
    derivation = "derived"
    nulls = ("random_keys", "independent_models")
    paper = "none"
    key_type = StackKey

    __pydantic_config__ = {**Configured.__pydantic_config__, "arbitrary_types_allowed": True}  # noqa: RUF012 - pydantic's name

    parts: dict[str, Watermark]
    """By name. Each has an exact null, and is embedded by one training from penalties, triggers and at most one objective."""

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise ValueError(f"expected at least 2 parts, got {len(self.parts)}")
        for name, part in self.parts.items():
            if not part.embeds or part.answers or "random_keys" not in part.nulls:
                raise ValueError(f"{name} is no scheme that embeds and has an exact null under random keys")

    def keygen(
        self, task: Task, secret: Secret, model: nn.Module | None = None, fit: Fit | None = None
    ) -> StackKey:
        return StackKey(
            secret,
            {n: part.keygen(task, part_secret(secret, n), model, fit) for n, part in self.parts.items()},
        )

    def buyer_key(self, task: Task, secret: Secret, buyer: int, model: nn.Module | None = None) -> StackKey:
        parts = self.parts.items()
        return StackKey(
            secret, {n: p.buyer_key(task, part_secret(secret, n), buyer, model) for n, p in parts}
        )

    def embed(self, model: nn.Module, key: StackKey, task: Task, fit: Fit) -> nn.Module:
        """Every part says what it would train with; one training from scratch does it all."""
        recorders = [self._asked(name, model, key, task) for name in self.parts]
        penalties = [a["penalty"] for a in recorders if a["penalty"] is not None]
        objectives = [a["objective"] for a in recorders if a["objective"] is not None]
        if len(objectives) > 1:
            raise NotApplicable(f"{len(objectives)} parts have objectives of their own; a stack trains one")
        extras = [(a["extra"], a["extra_per_batch"]) for a in recorders if a["extra"] is not None]
        alongs = [a["along"] for a in recorders if a["along"] is not None]
        return fit(
            task.fresh(None),
            task.owner,
            objective=total(objectives, penalties),
            along=nn.ModuleList(alongs) if alongs else None,
            extra=joined([extra for extra, _ in extras]),
            extra_per_batch=sum(count for _, count in extras),
            label="marked",
        )

    def _asked(self, name: str, model: nn.Module, key: StackKey, task: Task) -> dict[str, Any]:
        recorder = Recorder(name)
        marked = self.parts[name].embed(model, key.parts[name], task, recorder)
        if recorder.given is None or changed(model, task.fresh(None), marked):
            raise NotApplicable(f"{name} changes the model outside its training, so it does not stack")
        return recorder.asked

    def each(self, suspects: Suspects, keys: Sequence[StackKey]) -> dict[str, Scores]:
        """The matrix of every part."""
        return {n: part.score(suspects, [key.parts[n] for key in keys]) for n, part in self.parts.items()}

    def score(self, suspects: Suspects, keys: Sequence[StackKey]) -> Scores:
        """-log10 of Bonferroni's p over the parts; nan where no part can be read. A part that cannot be read counts with p = 1."""
        found = list(self.each(suspects, keys).values())
        smallest_MK = np.min([s.log10_p_MK for s in found if s.log10_p_MK is not None], axis=0)
        log10_p_MK = np.minimum(smallest_MK + math.log10(len(self.parts)), 0)
        readable_MK = ~np.all([np.isnan(s.statistic_MK) for s in found], axis=0)
        return Scores(
            np.where(readable_MK, -log10_p_MK, np.nan), "-log10 p", None, log10_p_MK, law="bonferroni"
        )

    def read(self, suspect: nn.Module, key: StackKey) -> Message | None:
        """Of the first part that carries one."""
        for name, part in self.parts.items():
            found = part.read(suspect, key.parts[name])
            if found is not None:
                return found
        return None

    def verification_inputs(self, key: StackKey) -> Tensor | None:
        """All parts' together."""
        sent = [part.verification_inputs(key.parts[name]) for name, part in self.parts.items()]
        asked = [inputs for inputs in sent if inputs is not None]
        return torch.cat(asked) if asked else None


def total(objectives: Sequence[Objective], penalties: Sequence[Penalty]) -> Objective:
    """One forward pass, or one part's own objective, and the sum of the penalties."""

    def objective(live: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        whole = [own(live, inputs, targets) for own in objectives]
        value = whole[0] if whole else functional.cross_entropy(live(inputs), targets)
        for penalty in penalties:
            value = value + penalty(live)
        return value

    return objective


def joined(extras: Sequence[Examples]) -> Examples | None:
    if not extras:
        return None
    whole = extras[0]
    for extra in extras[1:]:
        whole = whole.join(extra)
    return whole


def changed(victim: nn.Module, fresh: nn.Module, marked: nn.Module) -> bool:
    """Whether a part's model is neither of those that a training starts from."""
    found = marked.state_dict()
    return not any(
        all(torch.equal(tensor, found[name]) for name, tensor in start.state_dict().items())
        for start in (victim, fresh)
    )

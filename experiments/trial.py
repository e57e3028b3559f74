"""A trial: every choice built and validated. Building trains nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ..attacks.sequence import stages_of
from ..core.contracts import Configured, Task, Watermark
from ..core.errors import ConfigError
from ..core.examples import Examples
from ..core.secret import Secret, seed_for
from ..core.theft import Adversary, Attack
from ..deployments.reach import Deployment
from ..zoo.models import Architecture
from ..zoo.tasks import Source
from ..zoo.training import Hardware, Trainer
from .cache import Cache
from .config import Spec, suggest
from .meter import Meter

Kind = Literal["other_seed", "half_data", "other_architecture", "adversarial", "other_mark", "rival"]
"""Of null models (population.py)."""


@dataclass(frozen=True)
class Verification(Configured):
    """conf/verification: the declared false-positive rate, K random keys, m null models of other seeds, or so many of each kind."""

    fpr: Annotated[float, Gt(0), Lt(1)]
    random_keys: Annotated[int, Ge(0)]
    null_models: Annotated[int, Ge(0)] | dict[Kind, Annotated[int, Ge(0)]]


@dataclass(frozen=True)
class Budget(Configured):
    """conf/adversary: the distribution of the thief's inputs, how many as a share of the attacker's split, a query limit; his
    accounts with an API, the samples an hour that he asks over all of them, and whether he holds a licence."""

    data: Annotated[float, Ge(0), Le(1)]
    distribution: Literal["owner", "noise"]
    """owner: the attacker's split; noise: uniform grey levels, or ids, without labels, all that a thief without data has."""
    queries: Annotated[int, Ge(0)] | None
    accounts: Annotated[int, Ge(1)] = 1
    pace: Annotated[float, Gt(0)] = 100.0
    licensed: bool = False


@dataclass(frozen=True)
class Paths(Configured):
    runs: str
    cache: str


@dataclass(frozen=True)
class KeyFile(Configured):
    """An owner's own key, in place of one that follows from the seed (own_key.py). digest: SHA-256 of the file."""

    file: str
    digest: str


@dataclass(frozen=True)
class Tracking(Configured):
    name: str
    project: str
    mode: str


@dataclass(frozen=True)
class Settings(Configured):
    """The root of the configuration, each `_target_` already built."""

    task: Source
    model: Architecture
    watermark: Watermark
    deployment: Deployment
    attack: Attack
    adversary: Budget
    verification: Verification
    trainer: Hardware
    tracking: Tracking
    paths: Paths
    seed: Annotated[int, Ge(0), Lt(500_000)]  # beyond lie the rivals' and the null models' seeds (people.py)
    force: bool
    save: str | None
    key: KeyFile | None = None

    __pydantic_config__ = {**Configured.__pydantic_config__, "arbitrary_types_allowed": True}  # noqa: RUF012 - pydantic's name


def validated(kind: Any, values: Any, where: str) -> Any:
    """An instance of a dataclass from plain fields; ConfigError names field, expectation, value and remedy."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, kind, where)[:10])) from None


def _lines(error: ValidationError, kind: Any, where: str) -> list[str]:
    out = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        name = ".".join([*([where] if where else []), *path])
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            out.append(f"there is no setting {name!r}.{suggest(path[-1], _fields(kind, path[:-1]))}")
        elif problem["type"] in ("missing", "missing_argument"):
            out.append(f"{name} is missing; set {name}=...")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            came = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
            out.append(f"{name}: {message}{came}; set {name}=...")
    return out


def _fields(kind: Any, path: list[str]) -> list[str]:
    """The field names of the dataclass at this path."""
    for name in path:
        kind = get_type_hints(kind).get(name)
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []


def built(node: Any, where: str) -> Any:
    """Every dictionary with a `_target_` below this node becomes an object of that class, fields validated."""
    if isinstance(node, list):
        return [built(item, f"{where}.{i}") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: built(value, f"{where}.{name}" if where else name) for name, value in node.items()}
    target = values.pop("_target_", None)
    return values if target is None else validated(_class(target, where), values, where)


def _class(target: str, where: str) -> type:
    module, _, name = str(target).rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}._target_={target} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Configured)):
        raise ConfigError(
            f"{where}._target_={target} is no scheme, attack, task, model or deployment of Assay"
        )
    return found


@dataclass(frozen=True)
class Trial:
    """What `assay run` runs and `assay.experiments.api.build` returns."""

    spec: Spec
    settings: Settings
    task: Task
    cache: Cache = field(repr=False)

    @property
    def watermark(self) -> Watermark:
        return self.settings.watermark

    @property
    def attack(self) -> Attack:
        return self.settings.attack

    @property
    def deployment(self) -> Deployment:
        return self.settings.deployment

    @property
    def hardware(self) -> Hardware:
        return self.settings.trainer

    @property
    def seed(self) -> int:
        return self.settings.seed

    def run(self) -> dict[str, Any]:
        """The trial's record (docs/records.md). Errors are raised here; `assay run` records them."""
        from .run import run

        return run(self)

    def secret(self, *names: str | int) -> Secret:
        """A simulated owner's secret, by role: a random key and its number, say."""
        return Secret.simulated(self.seed, *names)

    def trainer(self, *names: str | int) -> Trainer:
        return Trainer(self.hardware, self.task.recipe, seed_for(self.seed, *names))

    def adversary(self, meter: Meter) -> Adversary:
        """The thief, who trains with the meter's trainer. ConfigError for means that allow no attack."""
        self.check_means()
        budget, task = self.settings.adversary, self.task
        data = self.thiefs_data()
        own = self.attack.data != "none" and not self.attack.gallery
        gallery = sum(stage.gallery for stage in stages_of(self.attack))
        meter.examples = len(data) * own + gallery
        meter.fit.share = 1.0 if gallery or not own else budget.data
        shape, source = task.shape, self.settings.task

        def build(architecture: Architecture, seed: int) -> nn.Module:
            return source.network(architecture, shape, task.classes, seed)

        return Adversary(
            data=data,
            fit=meter.fit,
            recipe=task.recipe,
            seed=seed_for(self.seed, "adversary"),
            fresh=task.fresh,
            build=build,
            spent=meter.spent,
            scheme=self.watermark,
            copies=self._copies,
            classes=task.classes,
            queries=budget.queries,
        )

    def _copies(self, count: int) -> list[nn.Module]:
        from .own_key import copy_for  # it builds on trials

        return [copy_for(self, number).marked for number in range(count)]

    def thiefs_data(self) -> Examples:
        """Inputs and labels; noise has none, its labels are -1."""
        budget = self.settings.adversary
        split = self.task.attacker.take(slice(0, round(budget.data * len(self.task.attacker))))
        if budget.distribution == "owner":
            return split
        generator = torch.Generator().manual_seed(seed_for(self.seed, "noise"))
        if split.inputs.is_floating_point():
            noise = torch.randint(256, split.inputs.shape, generator=generator).float() / 255
        else:
            noise = torch.randint(self.task.classes, split.inputs.shape, generator=generator)
        return Examples(noise, torch.full_like(split.targets, -1))

    def check_means(self) -> None:
        """ConfigError when the thief's data or queries allow no attack of this kind."""
        budget, name = self.settings.adversary, f"attack {self.spec.choices['attack']}"
        count = round(budget.data * len(self.task.attacker))
        if self.attack.data != "none" and not self.attack.gallery and count < 2:
            raise ConfigError(
                f"{name} trains on the thief's data, and adversary.data={budget.data} of {len(self.task.attacker)} examples "
                f"leaves {count}; set adversary.data=1.0"
            )
        if self.attack.data == "labelled" and budget.distribution != "owner":
            raise ConfigError(
                f"{name} trains on labels, which noise has not; set adversary.distribution=owner"
            )
        if self.attack.needs != "weights" and budget.queries is not None and budget.queries < 2:
            raise ConfigError(
                f"{name} needs at least 2 queries, adversary.queries={budget.queries}; "
                "set adversary.queries=null for no limit"
            )


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error}; set paths.cache=FOLDER") from None


def prepare(spec: Spec, keyed: bool = False) -> Trial:
    """Validate everything, load the data; ConfigError for whatever is wrong. keyed: the caller marks with the key of `key=`."""
    settings: Settings = validated(Settings, built(spec.config, ""), "")
    if settings.key is not None and not keyed:
        raise ConfigError("key=FILE is a setting of `assay run` and `assay suite`; leave it out here")
    settings.trainer.check()
    torch.use_deterministic_algorithms(settings.trainer.deterministic)
    with _readable(settings.paths.cache):
        cache = Cache(Path(settings.paths.cache))
    task = settings.task.load(settings.model, settings.seed)
    return Trial(spec, settings, task, cache)

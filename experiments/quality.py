"""What a model is good for: accuracy on the test split, or, where models write, what the judge thinks of their texts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from ..core.examples import Examples
from ..core.secret import seed_for
from ..core.suspects import Suspects
from ..core.texts import Quality
from ..zoo.quality import quality
from ..zoo.text_tasks import NextIds
from ..zoo.training import Trainer
from .cache import code_digest
from .people import Owner, clean, scheme_of, timed, training
from .trial import Trial


def judge(trial: Trial, wait: bool = True) -> nn.Module | None:
    """One for all trials of a task; a model that the task brings is its own judge; None where models write no texts.
    filelock.Timeout unless `wait` when another process is training it."""
    if not trial.settings.task.trains:
        return clean(trial, trial.seed, trial.task)[0]
    task = trial.settings.task.judge(trial.settings.model)
    if task is None:
        return None
    seed = seed_for(0, "judge")

    def train(fit: Trainer) -> nn.Module:
        return fit(task.fresh(seed), task.owner, label="judge")

    make = timed(train, Trainer(trial.hardware, task.recipe, seed))
    identity = {**training(trial, 0), "role": "judge"}
    return trial.cache.model(identity, code_digest(), make, lambda: task.fresh(seed), wait)[0]


@dataclass(frozen=True)
class Answers:
    """What models answer on one split, each asked once; who edits texts reads as the source of them does, an API's author as its
    marked model."""

    data: Examples
    device: str
    known: dict[nn.Module, Tensor] = field(default_factory=dict)

    def labels(self, model: nn.Module) -> Tensor:
        reader = model
        while below := [
            m for n in ("source", "marked") if isinstance(m := getattr(reader, n, None), nn.Module)
        ]:
            reader = below[0]
        if reader not in self.known:
            self.known[reader] = Suspects([reader], self.device).labels(self.data.inputs)[0]
        return self.known[reader]

    def accuracy(self, model: nn.Module) -> float:
        return float((self.labels(model) == self.data.targets).double().mean())


def kept(trial: Trial, mark: Owner | None, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is the same for all trials of a marked model (None: of the victim), from the cache where models write."""
    if judge(trial) is None:
        return make()
    identity: dict[str, Any] = {**training(trial, trial.seed), "what": what}
    if mark is not None:
        identity |= {**scheme_of(trial, trial.seed), "key": mark.key.fingerprint}
    code = code_digest(*([] if mark is None else [type(trial.watermark)]), kept)
    return trial.cache.facts(identity, code, make)


def utility(trial: Trial, model: nn.Module, test: Answers) -> dict[str, Any]:
    """`accuracy`; where models write, it is the judge's, and `quality` stands beside it: of texts too short to be read 0, and no
    quality. test: of the test split."""
    own, reader = test.accuracy(model), judge(trial)
    if reader is None:
        return {"accuracy": own}
    seed = seed_for(trial.seed, "quality")
    task = trial.settings.task
    decode = task.tokens().decode if isinstance(task, NextIds) else None
    read = quality(reader, model, test.data.inputs, seed, test.device, decode)
    none = {each.name: None for each in fields(Quality)} | {"accuracy": 0.0}
    found: dict[str, Any] = none if read is None else asdict(read)
    return {"accuracy": found.pop("accuracy"), "quality": {**found, "next_token": own}}

"""What a model is good for: accuracy on the test split, or, where models write, what the judge thinks of their texts."""

from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from ..core.secret import seed_for
from ..core.suspects import Suspects
from ..zoo.quality import quality
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


def of_owner(trial: Trial, mine: Owner, marked: bool) -> dict[str, Any]:
    """The utility of the marked model, or of the victim; kept for the other trials where a judge has to read texts."""
    model = mine.marked if marked else mine.victim
    if judge(trial) is None:
        return utility(trial, model)
    key = {**scheme_of(trial, trial.seed), "key": mine.key.fingerprint}
    identity = {**(key if marked else training(trial, trial.seed)), "of": trial.seed}
    code = code_digest(*([type(trial.watermark)] if marked else []), utility)
    return trial.cache.facts(identity, code, lambda: utility(trial, model))


def utility(trial: Trial, model: nn.Module, labels: Tensor | None = None) -> dict[str, Any]:
    """`accuracy`; where models write, it is the judge's, and `quality` stands beside it. labels: the model's on the test split,
    where they are known."""
    test, device = trial.task.test, trial.hardware.device
    labels = Suspects([model], device).labels(test.inputs)[0] if labels is None else labels
    own = float((labels == test.targets).double().mean())
    reader = judge(trial)
    if reader is None:
        return {"accuracy": own}
    found = asdict(quality(reader, model, test.inputs, seed_for(trial.seed, "quality"), device))
    return {"accuracy": found.pop("accuracy"), "quality": {**found, "next_token": own}}

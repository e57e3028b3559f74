"""The null models of a trial: models of nobody, and, where keys depend on the model, of rivals who use the same scheme.

A null says something about models like those in it, so a population may mix kinds: verification.null_models is a number of models
of other seeds, or a number for each kind. Models of a kind are the same for every trial of the task, and the first of many are
those of fewer.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

from filelock import Timeout
from omegaconf import OmegaConf
from torch import nn

from ..attacks.adversarial_training import AdversarialTraining, hardened
from ..core.contracts import Objective
from ..core.errors import NotApplicable
from ..core.secret import seed_for
from ..zoo.fleet import group_size, train_fleet
from ..zoo.training import Trainer
from .cache import code_digest
from .config import CONF
from .people import NOBODY, Trained, clean, marked_by, timed, training
from .trial import Kind, Trial, built

KINDS: tuple[Kind, ...] = get_args(Kind)
APART = 100_000  # between the seeds of two kinds
FOREIGN: dict[Kind, tuple[str, dict[str, str], str]] = {
    "other_architecture": ("model", {"cnn_small": "mlp"}, "cnn_small"),
    "other_mark": ("watermark", {"uchida": "adi_derived"}, "uchida"),
}
"""The axis on which a kind chooses another option than the trial's: an architecture of the other kind, a scheme that marks
behaviour against one that marks weights. Then what stands against which, and against all others."""
EPSILON, STEPS = (
    0.1,
    3,
)  # of adversarial training, in units of the pixel range: the middle of attack=adversarial_training


def kinds(trial: Trial) -> list[Kind]:
    """Of every null model, those of one kind together. Rivals only where keys depend on the model they were made for: where random
    keys are a valid null, keys know nothing of models, and a rival's is one like any other."""
    wanted = trial.settings.verification.null_models
    counts = {"other_seed": wanted} if isinstance(wanted, int) else wanted
    scheme = trial.watermark
    apart = scheme.embeds and "random_keys" not in scheme.nulls
    return [kind for kind in KINDS if apart or kind != "rival" for _ in range(counts.get(kind, 0))]


def population(trial: Trial) -> list[nn.Module]:
    """The null models, in the order of `kinds`. What another process is training is left for last, so concurrent trials share the
    work instead of queueing for it."""
    wanted = kinds(trial)
    number = [wanted[:i].count(kind) for i, kind in enumerate(wanted)]
    models: dict[int, nn.Module] = {}
    for wait in (False, True):
        for i in [i for i in range(len(wanted)) if i not in models]:
            try:
                models[i] = _MAKERS[wanted[i]](trial, number[i], wait)
            except Timeout:
                continue
    return [models[i] for i in range(len(wanted))]


def _other_seed(trial: Trial, number: int, wait: bool) -> nn.Module:
    return together(trial, number, wait)[0]


def together(trial: Trial, number: int, wait: bool = True) -> Trained:
    """The unmarked model of seed NOBODY + number, trained in one fleet with its neighbours (zoo/fleet.py), which go to the cache
    with it; alone where its layers cannot be stacked. filelock.Timeout unless `wait` when another process trains them."""
    size = group_size(trial.hardware)
    first = number - number % size
    if number != first:
        together(trial, first, wait)
    source, model = trial.settings.task, trial.settings.model
    seeds = [NOBODY + n for n in range(first, first + size)]

    def entry(seed: int, make: Callable[[], Trained], patient: bool) -> Trained:
        identity = {**training(trial, seed), "fleet": size}
        return trial.cache.model(
            identity, code_digest(), make, lambda: source.load(model, seed).fresh(None), patient
        )

    def make() -> Trained:
        start = time.perf_counter()
        tasks = (source.load(model, seed) for seed in seeds)
        streams, label = (
            [seed_for(seed, "victim") for seed in seeds],
            f"null models {first} to {first + size - 1}",
        )
        models = list(train_fleet(tasks, streams, trial.hardware, group=size, label=label))
        facts = {"seconds": round((time.perf_counter() - start) / size, 3)}
        for seed, other in zip(seeds, models, strict=True):
            if seed != NOBODY + number:
                with suppress(Timeout):  # somebody has it in hand
                    entry(seed, lambda other=other: (other, facts), False)  # type: ignore[misc]
        return models[number - first], facts

    try:
        return entry(NOBODY + number, make, wait)
    except NotApplicable:
        return clean(trial, NOBODY + number, wait=wait)


def _half_data(trial: Trial, number: int, wait: bool) -> nn.Module:
    """The first half of a split of its own."""
    return _trained(trial, "half_data", number, wait, share=0.5)


def _adversarial(trial: Trial, number: int, wait: bool) -> nn.Module:
    """Madry et al., ICLR 2018."""
    return _trained(trial, "adversarial", number, wait, objective=hardened(EPSILON, STEPS))


def _other_architecture(trial: Trial, number: int, wait: bool) -> nn.Module:
    other = foreign(trial, "other_architecture")
    return together(other, _seed("other_architecture", number) - NOBODY, wait)[0]


def _other_mark(trial: Trial, number: int, wait: bool) -> nn.Module:
    """A rival's model, marked by another scheme."""
    return _rival(foreign(trial, "other_mark"), number, wait)


def _rival(trial: Trial, number: int, wait: bool) -> nn.Module:
    """The model of the other seed, marked by its owner."""
    seed = NOBODY + number
    task = trial.settings.task.load(trial.settings.model, seed)
    return marked_by(trial, task, seed, 0, wait, together(trial, number, wait)).marked


_MAKERS: dict[Kind, Callable[[Trial, int, bool], nn.Module]] = {
    "other_seed": _other_seed,
    "half_data": _half_data,
    "other_architecture": _other_architecture,
    "adversarial": _adversarial,
    "other_mark": _other_mark,
    "rival": _rival,
}


def _seed(kind: Kind, number: int) -> int:
    return NOBODY + APART * KINDS.index(kind) + number


def _trained(
    trial: Trial, kind: Kind, number: int, wait: bool, share: float = 1.0, objective: Objective | None = None
) -> nn.Module:
    """An unmarked model on a share of its split, or by another objective."""
    seed = _seed(kind, number)
    task = trial.settings.task.load(trial.settings.model, seed)
    data = task.owner.take(slice(0, round(share * len(task.owner))))

    def train(fit: Trainer) -> nn.Module:
        return fit(task.fresh(None), data, objective=objective, label=f"null model, {kind} {number}")

    make = timed(train, Trainer(trial.hardware, task.recipe, seed_for(seed, "victim")))
    identity = {
        **training(trial, seed),
        "null": {"kind": kind, "share": share, "epsilon": EPSILON, "steps": STEPS},
    }
    return trial.cache.model(
        identity, code_digest(AdversarialTraining), make, lambda: task.fresh(None), wait
    )[0]


def foreign(trial: Trial, kind: Kind) -> Trial:
    """The trial with the other model or scheme of this kind, whose settings may name the model's."""
    axis, against, other = FOREIGN[kind]
    name = against.get(trial.spec.choices[axis], other)
    config = OmegaConf.create({**trial.spec.config, axis: OmegaConf.load(CONF / axis / f"{name}.yaml")})
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    spec = replace(trial.spec, choices={**trial.spec.choices, axis: name}, config=content)
    settings = {
        "model": trial.settings.model,
        "watermark": trial.settings.watermark,
        axis: built(content[axis], axis),
    }
    return replace(trial, spec=spec, settings=replace(trial.settings, **settings))


def grouped(values: Sequence[float], wanted: Sequence[Kind]) -> tuple[list[float], list[float]]:
    """Of nobody's models, and of rivals': a mean over both would let many of one kind excuse the other."""
    return (
        [value for value, kind in zip(values, wanted, strict=True) if kind != "rival"],
        [value for value, kind in zip(values, wanted, strict=True) if kind == "rival"],
    )

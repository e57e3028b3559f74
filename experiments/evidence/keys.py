"""From settings, as a deposit commits to them, to keys and models: what owner and judge compute alike."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...core.errors import ConfigError, NotApplicable
from ...core.key import Key
from ...core.secret import Secret
from ...core.suspects import Suspects
from ...watermarks.trigger import TriggerKey
from ...zoo.files import load_key, save_key, save_model
from ..config import composer
from ..trial import Trial, prepare
from ..verify import overrides_of

AXES = ("task", "model", "watermark")


def settled(overrides: list[str], subsets: int) -> tuple[str, str, int]:
    """The scheme's name, the settings as text, and how many triggers (bits, ...) the statistic of a key counts, 1 where it counts
    none. ConfigError for schemes whose owner could choose."""
    with composer() as compose:
        trial = prepare(compose([*overrides, "attack=none", "deployment=open"]))
    scheme, name = trial.watermark, trial.spec.choices["watermark"]
    if (
        scheme.derivation != "derived"
        or "random_keys" not in scheme.nulls
        or not scheme.embeds
        or scheme.answers
    ):
        raise ConfigError(
            f"{name} has no keys that follow from a secret alone and are trained into a model: its owner could choose them, and no "
            "deposit would show that he did not. Deposit a derived scheme, watermark=adi_derived say"
        )
    config = trial.spec.config
    about = {axis: {"name": trial.spec.choices[axis], "config": config[axis]} for axis in AXES}
    key = made(trial, Secret.simulated(0, "length"))
    if subsets > 1 and not isinstance(key, TriggerKey):
        raise ConfigError(f"{name} has no trigger sets to open one by one; set --subsets 1")
    scores = scheme.score(Suspects([trial.task.fresh(None)]), [key])
    if scores.log10_p_MK is None:
        raise ConfigError(f"{name} has no exact tail, which a deposit's test needs")
    return name, json.dumps({**about, "seed": trial.seed}, sort_keys=True), scores.trials or 1


def trial_of(settings: str, overrides: list[str]) -> Trial:
    """The trial that a deposit names: names are looked up, values are quoted data. ConfigError for what it cannot be."""
    try:
        about = json.loads(settings)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise ConfigError("the deposit's settings are damaged: expected a JSON object")
    named = overrides_of(about, Path("the deposit"), [], [])
    with composer() as compose:
        return prepare(compose([*named, "attack=none", "deployment=open", *overrides]))


def made(trial: Trial, secret: Secret) -> Key:
    """The key that follows from this secret; a pure function of secret and settings."""
    try:
        return trial.watermark.keygen(trial.task, secret, trial.task.fresh(None))
    except (NotApplicable, ValueError) as error:
        raise ConfigError(f"the scheme makes no key for this task and model: {error}") from None


def save(path: Path, settings: str, secret: Secret, place: dict[str, Any]) -> None:
    """A key file as `assay verify` reads it, which says to which deposit it belongs."""
    save_key(path, made(trial_of(settings, []), secret), {**json.loads(settings), "deposit": place})


def marked(settings: str, keys: list[Path], output: Path, overrides: list[str]) -> None:
    """Train the model with all subsets' keys at once, and save it."""
    trial = trial_of(settings, overrides)
    scheme, task = trial.watermark, trial.task
    key = joined([load_key(path, scheme.key_type) for path in keys])
    fit = trial.trainer("victim")
    victim = fit(task.fresh(None), task.owner, label="unmarked")
    model = scheme.embed(victim, key, task, trial.trainer("victim"))
    about = json.loads(settings)
    save_model(output, model, {"task": about["task"], "model": about["model"], "seed": trial.seed})


def joined(keys: list[Key]) -> Key:
    """One key that embeds all subsets; verification takes them one at a time."""
    first = keys[0]
    if len(keys) == 1:
        return first
    sets = [key for key in keys if isinstance(key, TriggerKey)]
    assert len(sets) == len(keys)
    images, labels = torch.cat([key.images_T for key in sets]), torch.cat([key.labels_T for key in sets])
    return replace(sets[0], images_T=images, labels_T=labels)

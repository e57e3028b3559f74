"""`assay verify`: evidence of one key in one model file. Nothing in either file is executed: they name options and fields."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, NotApplicable
from ..core.evidence import Evidence, weigh
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..zoo.files import load_key, load_model, load_tensors
from .config import composer, options, suggest
from .own_key import check_classes, check_derivation, check_shape
from .population import grouped, kinds, population
from .show import p_value
from .trial import Trial, prepare

# What a key raises that holds other tensors than its scheme reads: nobody says that the owner of the file made it by the scheme.
MISFITS = (NotApplicable, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)


def verify(model: Path, key: Path, overrides: list[str], config_dir: str | None = None) -> dict[str, Any]:
    """Evidence as plain data, and `sentence`. The files' headers name task, model and scheme; overrides win."""
    _, about_model = load_tensors(model, "model")
    _, about_key = load_tensors(key, "key")
    folders = [Path(config_dir)] if config_dir else []
    named = overrides_of({**about_model, "watermark": about_key.get("watermark")}, model, overrides, folders)
    with composer(config_dir) as compose:
        trial = prepare(compose([*named, "attack=none", "deployment=open", *overrides]))
    found, derivation = evidence(trial, model, key), trial.watermark.derivation
    about = {"model": str(model), "key": str(key), "derivation": derivation}
    return {**about, **asdict(found), "sentence": sentence(found, model, derivation)}


def overrides_of(about: dict[str, Any], path: Path, given: list[str], folders: list[Path]) -> list[str]:
    """Hydra overrides from untrusted headers: option names are looked up, and values are quoted data, never targets."""
    seed = about.get("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"{path} names the seed {seed!r}, expected a whole number")
    out = [f"seed={seed}"]
    for axis in ("task", "model", "watermark"):
        if any(word.startswith(f"{axis}=") for word in given):
            continue
        entry = about.get(axis)
        if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
            raise ConfigError(f"{path} does not say its {axis}; name it with {axis}=...")
        name, known = entry.get("name"), options(axis, folders)
        if name not in known:
            raise ConfigError(f"there is no {axis} called {name!r}.{suggest(str(name), known)}")
        out.append(f"{axis}={name}")
        out += [f"{axis}.{field}={_quoted(value)}" for field, value in _fields(entry["config"])]
    return out


def _fields(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Plain names alone: `student._target_` would name code to import."""
    for name in config:
        if not str(name).isidentifier():
            raise ConfigError(f"a file's header holds the setting {name!r}, which is no name")
    return [(name, value) for name, value in config.items() if name != "_target_"]


def _quoted(value: Any) -> str:
    """A value in Hydra's override grammar; strings quoted, so nothing in them is grammar or interpolation."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_quoted(v)}" for name, v in _fields(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    if isinstance(value, str):
        if not value.replace("_", "").replace(".", "").replace("-", "").isalnum():
            raise ConfigError(f"a file's header holds {value!r}, which is no name")
        return f"'{value}'"
    return json.dumps(value)


def evidence(trial: Trial, model: Path, key: Path) -> Evidence:
    scheme, settings = trial.watermark, trial.settings
    suspect = load_model(model, lambda: trial.task.fresh(None))
    mine = load_key(key, scheme.key_type)
    count = settings.verification.random_keys if "random_keys" in scheme.nulls else 0
    check_shape(mine, trial.task.shape, key)
    check_classes(mine, trial.task.classes, key)
    try:
        if scheme.derivation == "derived":
            check_derivation(scheme.keygen(trial.task, mine.secret, suspect), mine, key)
        strangers = [scheme.keygen(trial.task, Secret.fresh(), suspect) for _ in range(count)]
        scores = scheme.score(Suspects([suspect], settings.trainer.device), [mine, *strangers])
    except ConfigError:
        raise
    except MISFITS as error:
        raise ConfigError(f"{key} does not fit {model}: {error}") from None
    nulls, null_M = population(trial), []
    if nulls:
        null_M = scheme.score(Suspects(nulls, settings.trainer.device), [mine]).extremity_MK[:, 0].tolist()
    nobodys, rivals = grouped(null_M, kinds(trial))
    fpr = settings.verification.fpr
    return weigh(scores, 0, 0, range(1, count + 1), nobodys, scheme.nulls, fpr, rivals=rivals)


def sentence(found: Evidence, model: Path, derivation: str) -> str:
    """What a reader may conclude: consistent with a claim, or not; never guilt."""
    if found.statistic is None:
        return f"{model}: the suspect cannot be read with this key (another architecture?); no evidence."
    shown = f"{found.statistic:g}" + (f" of {found.trials}" if found.trials else "")
    verdict = {
        True: "consistent with the owner's claim",
        False: "not distinguishable from an independent model",
        None: "undecided: the null is too small for this false-positive rate",
    }[found.detected]
    lines = [
        f"{model}: {shown} {found.unit}, p = {p_value(found.log10_p)} ({found.source}); at a false-positive rate of {found.fpr:g} "
        f"this is {verdict}."
    ]
    nulls = {
        "random keys": found.random_keys,
        "independent models": found.independent_models,
        "models of rivals": found.rivals,
    }
    for name, null in nulls.items():
        if null is not None:
            shown_p = p_value(null.log10_p)
            lines.append(f"  {null.exceed} of {null.count} {name} score as high (p = {shown_p})")
    if derivation == "chosen" and found.detected:
        lines.append(
            "  The key is chosen, not derived: this proves nothing unless the key was fixed before the suspect was seen."
        )
    return "\n".join(lines)

"""`assay verify`: evidence of one key in one model file. Nothing in either file is executed: they name options and fields."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, NotApplicable
from ..core.evidence import Evidence, weigh
from ..core.key import Key
from ..core.secret import Secret
from ..core.suspects import Suspects
from ..zoo.files import load_key, load_model, load_tensors
from .config import composer, options, suggest
from .people import clean_models
from .show import p_value
from .trial import Trial, prepare


def verify(model: Path, key: Path, overrides: list[str]) -> dict[str, Any]:
    """Evidence as plain data, and `sentence`. The files' headers name task, model and scheme; overrides win."""
    _, about_model = load_tensors(model, "model")
    _, about_key = load_tensors(key, "key")
    named = _overrides({**about_model, "watermark": about_key.get("watermark")}, model, overrides)
    with composer() as compose:
        trial = prepare(compose([*named, "attack=none", "deployment=open", *overrides]))
    found = evidence(trial, model, key)
    return {"model": str(model), "key": str(key), **asdict(found), "sentence": sentence(found, model)}


def _overrides(about: dict[str, Any], path: Path, given: list[str]) -> list[str]:
    """Hydra overrides from untrusted headers: option names are looked up, and values are quoted data, never targets."""
    out = [f"seed={int(about.get('seed', 0))}"]
    for axis in ("task", "model", "watermark"):
        if any(word.startswith(f"{axis}=") for word in given):
            continue
        entry = about.get(axis)
        if not isinstance(entry, dict):
            raise ConfigError(f"{path} does not say its {axis}; name it with {axis}=...")
        if entry.get("name") not in options(axis):
            raise ConfigError(
                f"there is no {axis} called {entry.get('name')!r}.{suggest(str(entry.get('name')), options(axis))}"
            )
        out.append(f"{axis}={entry['name']}")
        out += [
            f"{axis}.{field}={_quoted(value)}"
            for field, value in entry["config"].items()
            if field != "_target_"
        ]
    return out


def _quoted(value: Any) -> str:
    """A value in Hydra's override grammar; strings quoted, so nothing in them is grammar or interpolation."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_quoted(v)}" for name, v in value.items() if name != "_target_") + "}"
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
    try:
        if scheme.derivation == "derived":
            check_derivation(scheme.keygen(trial.task, mine.secret, suspect), mine, key)
        strangers = [scheme.keygen(trial.task, Secret.fresh(), suspect) for _ in range(count)]
        scores = scheme.score(Suspects([suspect], settings.trainer.device), [mine, *strangers])
    except ConfigError:
        raise
    except (NotApplicable, ValueError) as error:
        raise ConfigError(f"{key} does not fit {model}: {error}") from None
    nulls = clean_models(trial, settings.verification.null_models)
    null_M: list[float] = []
    if nulls:
        null_M = scheme.score(Suspects(nulls, settings.trainer.device), [mine]).extremity_MK[:, 0].tolist()
    return weigh(scores, 0, 0, range(1, count + 1), null_M, scheme.nulls, settings.verification.fpr)


def check_derivation(derived: Key, given: Key, path: Path) -> None:
    """A derived key is nothing but its secret: contents that somebody chose would have no exact null."""
    if derived.fingerprint != given.fingerprint:
        raise ConfigError(
            f"{path} holds contents that are not derived from its secret under these settings: changed by hand, or made with "
            "other watermark.* settings or for another task"
        )


def sentence(found: Evidence, model: Path) -> str:
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
    for name, null in (("random keys", found.random_keys), ("independent models", found.independent_models)):
        if null is not None:
            lines.append(
                f"  {null.exceed} of {null.count} {name} score as high (p = {p_value(null.log10_p)})"
            )
    return "\n".join(lines)

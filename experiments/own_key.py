"""An owner's own key in a trial: `key=FILE`, of a deposit say. Its secret takes the place of the one that follows from the seed.

The trial marks with the key as `assay evidence embed` does, and gets the same model. Rivals and strangers stay simulated. The
record's settings name the file by its SHA-256, and nothing of what it holds is stored.
"""

import hashlib
from pathlib import Path

from ..core.errors import ConfigError
from ..core.key import Key
from ..zoo.files import load_key, load_tensors
from .people import Owner, buyer, clean, marked_with
from .trial import KeyFile, Trial


def copy_for(trial: Trial, number: int) -> Owner:
    """The owner's model as one buyer holds it; number 0 is the owner's own copy."""
    if trial.settings.key is None:
        return buyer(trial, number)
    scheme, task, own = trial.watermark, trial.task, loaded(trial, trial.settings.key)
    victim = clean(trial, trial.seed, task)
    key = scheme.buyer_key(task, own.secret, number, victim[0]) if number else own
    return marked_with(trial, task, trial.seed, victim, key)


def loaded(trial: Trial, given: KeyFile) -> Key:
    """ConfigError for the key of another scheme, one that does not follow from its secret under the trial's settings, or a file
    that is not the one that was named."""
    scheme, name, path = trial.watermark, trial.spec.choices["watermark"], Path(given.file)
    if (
        scheme.derivation != "derived"
        or "random_keys" not in scheme.nulls
        or not scheme.embeds
        or not scheme.trains
    ):
        raise ConfigError(
            f"key={path} needs a scheme whose keys follow from a secret alone and are trained into a model, {name} is none; "
            "set watermark=adi_derived, say"
        )
    _, about = load_tensors(path, "key")
    of = about.get("watermark")
    if not isinstance(of, dict) or of.get("name") != name:
        raise ConfigError(
            f"{path} is a key of {of.get('name') if isinstance(of, dict) else 'no scheme'}, the trial marks by {name}; name the "
            "key's own scheme with watermark=..."
        )
    key = load_key(path, scheme.key_type)
    if hashlib.sha256(path.read_bytes()).hexdigest() != given.digest:
        raise ConfigError(f"{path} changed while the trial waited; run it again")
    check_shape(key, trial.task.shape, path)
    check_derivation(scheme.keygen(trial.task, key.secret, trial.task.fresh(None)), key, path)
    return key


def check_shape(key: Key, shape: tuple[int, ...], path: Path) -> None:
    """A key's inputs must be inputs of the task; its vectors and matrices may be something else: bits, labels, prompts."""
    for name, tensor in key.tensors().items():
        if tensor.ndim > max(2, len(shape)) and tuple(tensor.shape[1:]) != shape:
            raise ConfigError(
                f"{path} holds {name} of shape {tuple(tensor.shape[1:])}, the task has inputs of {shape}; name the key's task=..."
            )


def check_classes(key: Key, classes: int, path: Path) -> None:
    """What a key says of its classes is the chance of a hit: with a number of his own an accuser would choose his p."""
    said = key.plain().get("classes", classes)
    if said != classes:
        raise ConfigError(
            f"{path} is a key for {said!r} classes, the task has {classes}; name the key's task=..."
        )


def check_derivation(derived: Key, given: Key, path: Path) -> None:
    """A derived key is nothing but its secret: contents that somebody chose would have no exact null."""
    if derived.fingerprint != given.fingerprint:
        raise ConfigError(
            f"{path} holds contents that are not derived from its secret under these settings: changed by hand, or made with "
            "other watermark.* settings or for another task"
        )

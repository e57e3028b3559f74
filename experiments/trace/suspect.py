"""A model as tracing needs it: its file, its network, its answers to the registry's probes, its prints."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from ...core.atomic import write_atomically
from ...core.errors import ConfigError, NotApplicable
from ...core.examples import Examples
from ...core.secret import Secret
from ...core.suspects import Suspects
from ...evidence.dna import label_print, probes
from ...evidence.dna_sketch import sketch
from ...evidence.registry import Print
from ...zoo.canonical import canonicalize
from ...zoo.files import load_tensors, save_tensors
from ...zoo.invariances import refit
from ..config import composer
from ..trial import Trial, prepare
from ..verify import overrides_of as named_in

NOTHING = {"name": "none", "config": {}}


@dataclass(frozen=True)
class Suspect:
    """id: SHA-256 of the file."""

    id: str
    path: Path
    trial: Trial
    model: nn.Module


def suspect(path: Path, overrides: list[str], config_dir: str | None = None) -> Suspect:
    """A model's file whose header, or the overrides, name task and model. Layers may be of another width than the task's."""
    tensors, about = load_tensors(path, "model")
    folders = [Path(config_dir)] if config_dir else []
    words = named_in({**about, "watermark": NOTHING}, path, overrides, folders)
    with composer(config_dir) as compose:
        trial = prepare(compose([*words, "attack=none", "deployment=open", *overrides]))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Suspect(digest, path, trial, fitted(trial.task.fresh(None), tensors, path, trial))


def fitted(model: nn.Module, tensors: dict[str, Tensor], path: Path, trial: Trial) -> nn.Module:
    """The network with these weights, its layers as wide as they are. ConfigError when it then computes nothing."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wrong = sorted(name for name in own.keys() ^ tensors.keys())
    wrong += [name for name in own.keys() & tensors.keys() if own[name].ndim != tensors[name].ndim]
    if wrong:
        raise ConfigError(
            f"{path} does not fit the network in {len(wrong)} tensors, the first is {wrong[0]}; name the right one with "
            "task=... model=..."
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ConfigError(f"{path} holds NaN or infinite values in {name}; expected finite weights")
        own[name].data = tensor if tensor.is_floating_point() else tensor.to(own[name].dtype)
    refit(model)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *trial.task.shape))
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit together: {error}; name it with task=... model=...") from None
    return model


def prints(one: Suspect, folder: Path, create: bool) -> list[Print]:
    """Labels on the registry's probes for this task, and the sketch of the weights in canonical form."""
    task = one.trial.task
    asked, kin = probes_of(folder, one.trial, create)
    found = []
    if asked is not None:
        labels_N = Suspects([one.model], one.trial.hardware.device).labels(asked.float() / 255)[0]
        found.append(label_print(labels_N, task.classes, kin))
    try:
        model = canonicalize(one.model)
    except NotApplicable:  # channels cannot be found: as it stands
        model = one.model
    return [*found, sketch(dict(model.state_dict()))]


def probes_of(folder: Path, trial: Trial, create: bool) -> tuple[Tensor | None, str]:
    """The probes for the trial's task, and their name; None where the registry has none and `create` is false. They are made once,
    from the registry's secret and pictures of the task, and must stay secret themselves."""
    shape = "x".join(map(str, trial.task.shape))
    kin = f"{trial.task.name}-{shape}-{trial.task.classes}"
    path = folder / "probes" / f"{kin}.safetensors"
    if not path.exists() and create:
        with FileLock(folder / "probes.lock"):  # or two at once would ask their models about different ones
            if not path.exists():
                pictures: Examples = trial.settings.task.load(trial.settings.model, 0).test
                asked = {"probes": probes(_secret(folder), pictures.inputs)}
                save_tensors(path, "probes", asked, {}, private=True)
    return (load_tensors(path, "probes")[0]["probes"] if path.exists() else None), kin


def _secret(folder: Path) -> Secret:
    path = folder / "secret"
    if not path.exists():
        write_atomically(path, Secret.fresh().raw, private=True)
    return Secret(path.read_bytes())


def about(one: Suspect) -> dict[str, Any]:
    """What an entry says of its model."""
    choices = one.trial.spec.choices
    return {"file": one.path.name, "task": choices["task"], "model": choices["model"]}

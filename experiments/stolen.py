"""What an attack yields, kept in the artifact cache where several trials share it.

A scheme that embeds nothing leaves every thief the same model, so one theft serves all of them: their trials judge it by other
keys. A theft is kept only if all its models, read back, answer the test split to the bit, and none has forward hooks, which are
not among its weights.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..core.suspects import parts
from ..core.theft import Cost, Surrogate
from ..deployments.gateway import Gateway
from ..deployments.thief import Thief
from ..zoo.files import filled, load_tensors, save_tensors
from ..zoo.models import Architecture
from .cache import code_digest
from .endured import endured
from .meter import Meter
from .people import training
from .trial import Trial

Build = Callable[[], nn.Module]
BEYOND_WEIGHTS = ("sampler", "temperature")  # of language models


def surrogates_of(trial: Trial, access: Thief, meter: Meter) -> list[Surrogate]:
    """The trajectory of the trial's attack, each point with what it cost when it was made."""
    attack, scheme = trial.attack, trial.watermark
    adversary = trial.adversary(meter)

    def steal() -> list[Surrogate]:
        return list(meter.over(endured(attack, access, adversary)))

    watched = not trial.deployment.plain or access.accounts > 1  # what the deployment saw is kept nowhere
    if watched or scheme.embeds or scheme.answers or attack.scheme_known or attack.goal == "claim":
        return steal()
    networks = [lambda: trial.task.fresh(None), *_students(trial)]

    def make(path: Path, identity: dict[str, Any]) -> list[Surrogate]:
        stolen = steal()
        _keep(path, stolen, networks, trial.task.test.inputs, identity)
        return stolen

    choices = {axis: trial.spec.config[axis] for axis in ("attack", "adversary", "deployment")}
    code = code_digest(type(attack), Gateway, Thief, Trial)
    return trial.cache.kept(
        "thefts", {**training(trial, trial.seed), **choices}, code, lambda p: _read(p, networks), make
    )


def _students(trial: Trial) -> list[Build]:
    """The other architectures that the attack's settings name."""
    task, source = trial.task, trial.settings.task
    named = vars(trial.attack).values()

    def builder(architecture: Architecture) -> Build:
        return lambda: source.network(architecture, task.shape, task.classes, 0)

    return [builder(value) for value in named if isinstance(value, Architecture)]


def _keep(
    path: Path, stolen: Sequence[Surrogate], networks: list[Build], inputs: Tensor, identity: dict[str, Any]
) -> None:
    """All surrogates in one file; nothing when one of them is more than an architecture and its weights."""
    tensors: dict[str, Tensor] = {}
    points = []
    for i, surrogate in enumerate(stolen):
        network = next(
            (n for n, build in enumerate(networks) if _holds(build, surrogate.model, inputs)), None
        )
        if network is None or surrogate.members or surrogate.cost is None:
            return
        tensors |= {f"{i}/{name}": tensor for name, tensor in surrogate.model.state_dict().items()}
        points.append({"strength": surrogate.strength, "cost": asdict(surrogate.cost), "network": network})
    save_tensors(path, "theft", tensors, {"identity": identity, "points": points})


def _holds(build: Build, model: nn.Module, inputs: Tensor) -> bool:
    """Whether the network with the model's weights answers as the model does, to the bit. A hook may fire on other inputs alone."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return False
    with suppress(ConfigError):
        again = filled(build(), model.state_dict(), Path("surrogate"))
        if any(getattr(again, name, None) != getattr(model, name, None) for name in BEYOND_WEIGHTS):
            return False
        return all(torch.equal(a, b) for a, b in zip(parts(again, inputs), parts(model, inputs), strict=True))
    return False


def _read(path: Path, networks: list[Build]) -> list[Surrogate]:
    tensors, header = load_tensors(path, "theft")
    found = []
    for i, point in enumerate(header["points"]):
        own = {n.removeprefix(f"{i}/"): t for n, t in tensors.items() if n.startswith(f"{i}/")}
        model = filled(networks[point["network"]](), own, path)
        found.append(Surrogate(point["strength"], model, Cost(**point["cost"])))
    return found

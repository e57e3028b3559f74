"""The models of the tracing study: owners and their stolen copies, models of nobody. Every file is made once, and kept.

python benchmarks/tracing_models.py FOLDER

Roles, the first part of a file's name: `owner` is registered, `other` an owner who is not; `mate` an unmarked model that is
registered; `stranger` an independent model that thresholds come from; `fresh` one that was never seen. `owner-3-prune-0.9` is a
copy of owner 3.
"""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from assay.core.errors import NotApplicable
from assay.experiments.api import build
from assay.experiments.exposure import exposed
from assay.experiments.meter import Meter
from assay.experiments.people import owner
from assay.experiments.population import together
from assay.experiments.stolen import surrogates_of
from assay.experiments.trial import Trial
from assay.zoo.files import save_key, save_model

OWNERS, OTHERS = 6, 3
SCHEMES = ("uchida", "adi_derived")
WIDTHS = {"cnn_small": 16, "mlp": 64}
"""A quarter of the operations of the usual digits models."""
STUDENT = "attack.epochs=30"  # half of the usual
PLAIN = {
    "mate": {"cnn_small": 8, "mlp": 4},
    "stranger": {"cnn_small": 27, "mlp": 12},
    "fresh": {"cnn_small": 8, "mlp": 4},
}
ATTACKS: dict[str, list[str]] = {
    "quantize": [],
    "prune": ["attack.sparsities=[0.5,0.7,0.9]"],
    "obfuscate_permute": ["attack.shares=[1.0]"],
    "obfuscate": ["attack.shares=[1.0]"],
    "finetune": ["attack.report=[5,20]"],
    "finetune_rtal": ["attack.report=[20]"],
    "overwrite": ["attack.multipliers=[1.0]"],
    "prune_structured": [],
    "distill": ["attack.shares=[1.0]", STUDENT],
    "extract": ["attack.shares=[1.0]", STUDENT],
    "extract_mlp": ["attack.shares=[1.0]", STUDENT, f"attack.student.width={WIDTHS['mlp']}"],
}
BASE = ("task=digits", "trainer.progress=false", "verification.null_models=0", "deployment=open")


def trial_of(number: int, role: str, attack: str = "none", settings: tuple[str, ...] = ()) -> Trial:
    seed = number + (1000 if role == "other" else 0)
    scheme = SCHEMES[number % len(SCHEMES)]
    bits = ["watermark.bits=64"] if scheme == "uchida" else []
    words = f"watermark={scheme}", f"attack={attack}", f"seed={seed}", *bits, *settings
    return build(*BASE, *network("cnn_small"), *words)


def network(model: str) -> tuple[str, str]:
    return f"model={model}", f"model.width={WIDTHS[model]}"


def about(trial: Trial) -> dict[str, Any]:
    """A file's header, as `assay run save=` writes it."""
    config, choices = trial.spec.config, trial.spec.choices
    named = {axis: {"name": choices[axis], "config": config[axis]} for axis in ("task", "model", "watermark")}
    return {**named, "seed": config["seed"]}


def stolen(folder: Path, role: str, number: int, attack: str, settings: list[str]) -> Iterator[str]:
    """The copies of one owner by one attack, and the owner's own files."""
    trial = trial_of(number, role, attack, tuple(settings))
    mine, stem = owner(trial, "owner"), f"{role}-{number}"
    header = about(trial)
    if not (folder / f"{stem}.safetensors").exists():
        save_key(folder / "keys" / f"{stem}.safetensors", mine.key, header)
        save_model(folder / f"{stem}.safetensors", mine.marked, header)
    access = exposed(trial, mine)
    for surrogate in surrogates_of(trial, access, Meter(access, trial.trainer("thief"))):
        name = f"{stem}-{attack}-{surrogate.strength:g}"
        network = header if attack != "extract_mlp" else {**header, "model": mlp_header()}
        save_model(folder / f"{name}.safetensors", folded(surrogate.model), network)
        yield name


def folded(model: nn.Module) -> nn.Module:
    """A copy whose weights are stored as they compute: a quantised one holds integers and scales."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name)
    return model


def mlp_header() -> dict[str, Any]:
    trial = build(*BASE, *network("mlp"))
    return {"name": "mlp", "config": trial.spec.config["model"]}


def plain(folder: Path) -> Iterator[str]:
    """Unmarked models of seeds of their own, trained in fleets."""
    first = dict.fromkeys(WIDTHS, 0)
    for role, counts in PLAIN.items():
        for model, count in counts.items():
            trial = build(*BASE, *network(model))
            for number in range(first[model], first[model] + count):
                path = folder / f"{role}-{model}-{number}.safetensors"
                if not path.exists():
                    save_model(path, together(trial, number)[0], about(trial))
                    yield path.stem
            first[model] += count


def main(folder: Path) -> None:
    for name in plain(folder):
        print(name, flush=True)
    copies(folder)


def copies(folder: Path) -> None:
    for attack, settings in ATTACKS.items():
        for role, count in (("owner", OWNERS), ("other", OTHERS)):
            for number in range(count):
                done = folder / "done" / f"{role}-{number}-{attack}"
                if done.exists():
                    continue
                try:
                    print(*stolen(folder, role, number, attack, settings), flush=True)
                except NotApplicable as reason:
                    print(f"{role}-{number}-{attack}: {reason}", flush=True)
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

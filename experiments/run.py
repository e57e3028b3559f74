"""A trial, end to end: victim, key, marked model, theft, verification matrix, record."""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.errors import Denied, NotApplicable
from ..core.examples import Ledger
from ..core.key import Key
from ..core.suspects import Suspects
from ..core.theft import Surrogate
from ..deployments.reach import Gateway
from ..zoo.files import save_key, save_model
from .cache import code_digest
from .catalogue import declared
from .environment import environment
from .matrix import Matrix
from .meter import Meter
from .people import Owner, owner
from .stolen import surrogates_of
from .trial import Trial

INNOCENTS = 20  # buyers who did not collude, whom tracing must not accuse


def run(trial: Trial) -> dict[str, Any]:
    """The record of a finished trial. Raises Denied, NotApplicable or ConfigError instead of a number it cannot vouch for."""
    if trial.attack.needs not in trial.deployment.grants:
        grants = " and ".join(trial.deployment.grants)
        raise Denied(
            f"{trial.spec.choices['attack']} needs {trial.attack.needs}, the deployment grants {grants}"
        )
    if trial.watermark.answers and trial.attack.needs == "weights":
        raise NotApplicable(
            f"{trial.spec.choices['watermark']} marks what an API answers; {trial.spec.choices['attack']} takes the weights"
        )
    mine = owner(trial, "owner")
    rival = owner(trial, "rival")
    access = exposed(trial, mine)
    meter = Meter(access, trial.trainer("thief"))
    surrogates = surrogates_of(trial, access, meter)
    if trial.watermark.answers and not access.queries:
        raise NotApplicable(
            f"{trial.spec.choices['watermark']} proves from its ledger, and {trial.spec.choices['attack']} asked nothing"
        )
    matrix = Matrix.measured(trial, mine, rival, surrogates, access.ledger)
    if trial.settings.save is not None:
        export(trial, Path(trial.settings.save), mine, matrix.keys[0], surrogates)
    return {
        **header(trial),
        "status": "ok",
        "owner": {**owner_costs(trial, mine), "verification": verification_cost(trial, mine, matrix.keys[0])},
        "marked": {
            "accuracy": accuracy(trial, mine.marked),
            **asdict(matrix.weigh(Matrix.MARKED)),
            "message": message(trial, mine.marked, mine.key),
        },
        "curve": [point(trial, mine, s, matrix, i) for i, s in enumerate(surrogates)],
        "controls": {
            # What embeds nothing has the marked model as its unmarked one: no control.
            "unmarked": asdict(matrix.weigh(Matrix.UNMARKED)) if trial.watermark.embeds else None,
            "marked_by_rival": asdict(matrix.weigh(Matrix.RIVAL)),
            "key_of_rival": asdict(matrix.weigh(Matrix.MARKED, key=1)),
        },
        "nulls": matrix.summary(),
        "size": matrix.size(),
    }


def exposed(trial: Trial, mine: Owner) -> Gateway:
    """The marked model in its deployment; an API mark answers there."""
    scheme = trial.watermark

    def answer(inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        return scheme.answer(mine.key, inputs, scores, ledger)

    return trial.deployment.expose(mine.marked, trial.hardware.device, answer if scheme.answers else None)


def header(trial: Trial) -> dict[str, Any]:
    """What every record begins with, whatever its status."""
    spec = trial.spec
    return {
        "id": spec.id,
        "choices": spec.choices,
        "seed": trial.seed,
        "overrides": spec.overrides,
        "declared": {"watermark": declared(trial.watermark), "attack": declared(trial.attack)},
        "config": spec.identity()["config"],
        "environment": environment(trial.hardware, code_digest(type(trial.watermark), type(trial.attack))),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def accuracy(trial: Trial, model: nn.Module) -> float:
    """On the test split."""
    test = trial.task.test
    labels_N = Suspects([model], trial.hardware.device).labels(test.inputs)[0]
    return float((labels_N == test.targets).double().mean())


def point(trial: Trial, mine: Owner, surrogate: Surrogate, matrix: Matrix, number: int) -> dict[str, Any]:
    """One point of the curve: strength, accuracy, agreement with the victim on the test split, evidence, cost."""
    assert surrogate.cost is not None
    test = trial.task.test
    own, theirs = Suspects([mine.marked, surrogate.model], trial.hardware.device).labels(test.inputs)
    row, shown = matrix.surrogate(number), matrix.presented.get(number)
    claim = shown if surrogate.claim is not None else None
    found = matrix.weigh(row if claim is None else Matrix.MARKED, claim or 0, surrogate.deposits)
    return {
        "strength": surrogate.strength,
        "accuracy": float((theirs == test.targets).double().mean()),
        "agreement": float(((theirs == own) & (own >= 0)).double().mean()),
        **asdict(found),
        "cost": asdict(surrogate.cost),
        "seen": seen(trial, mine, surrogate.model),
        "message": None if claim is not None else message(trial, surrogate.model, mine.key),
        "claimed": None if claim is None else {"deposits": surrogate.deposits, **matrix.claimed(claim)},
        "overwriter": overwriter(matrix, row, shown) if surrogate.mark is not None else None,
        "tracing": tracing(trial, mine, surrogate) if surrogate.members else None,
    }


def seen(trial: Trial, mine: Owner, model: nn.Module) -> dict[str, float] | None:
    """What the thief himself can tell, without a key: the accuracy of his model and of the marked one on his labelled inputs. None
    without labels."""
    data = trial.thiefs_data()
    data = data.take((data.targets >= 0).nonzero()[:, 0])
    if not len(data):
        return None
    labels_2N = Suspects([model, mine.marked], trial.hardware.device).labels(data.inputs)
    own, marked = (labels_2N == data.targets).double().mean(1).tolist()
    return {"accuracy": own, "marked": marked}


def overwriter(matrix: Matrix, row: int, key: int | None) -> dict[str, Any]:
    """The thief's own key in his model, and in the owner's, where only a forger's would be found."""
    assert key is not None
    return {"surrogate": asdict(matrix.weigh(row, key)), "marked": asdict(matrix.weigh(Matrix.MARKED, key))}


def message(trial: Trial, suspect: nn.Module, key: Key) -> dict[str, Any] | None:
    """A multi-bit scheme's payload as the suspect shows it."""
    found = trial.watermark.read(suspect, key)
    return asdict(found) if found is not None else None


def tracing(trial: Trial, mine: Owner, surrogate: Surrogate) -> dict[str, Any]:
    """Whom the owner accuses of a pirated copy, among all buyers: those who colluded, and INNOCENTS who did not."""
    scheme, secret = trial.watermark, mine.key.secret
    keys = [
        scheme.buyer_key(trial.task, secret, i, mine.victim)
        for i in range(max(surrogate.members) + 1 + INNOCENTS)
    ]
    accused = scheme.accuse(surrogate.model, keys, trial.settings.verification.fpr)
    return {"buyers": len(keys), "colluders": list(surrogate.members), "accused": accused}


def owner_costs(trial: Trial, mine: Owner) -> dict[str, Any]:
    return {
        "unmarked_accuracy": accuracy(trial, mine.victim),
        "victim_seconds": mine.victim_seconds,
        "embedding_seconds": mine.embedding_seconds,
        "embeds": trial.watermark.embeds,
    }


def verification_cost(trial: Trial, mine: Owner, key: Key) -> dict[str, Any]:
    """Of one key in one model, the marked one: inputs that the model is asked, and wall seconds."""
    asked = 0

    def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal asked
        asked += len(inputs[0])

    hook = mine.marked.register_forward_pre_hook(count)
    try:
        start = time.perf_counter()
        trial.watermark.score(Suspects([mine.marked], trial.hardware.device), [key])
        return {"queries": asked, "seconds": round(time.perf_counter() - start, 5)}
    finally:
        hook.remove()


def export(trial: Trial, folder: Path, mine: Owner, key: Key, surrogates: list[Surrogate]) -> None:
    """The models and the owner's key, for `assay verify`. Surrogates of another architecture are left out."""
    config = trial.spec.config
    about = {axis: {"name": trial.spec.choices[axis], "config": config[axis]} for axis in ("task", "model")}
    about["seed"] = config["seed"]
    scheme = {"watermark": {"name": trial.spec.choices["watermark"], "config": config["watermark"]}}
    save_key(folder / "key.safetensors", key, {**scheme, **about})
    models = {"marked": mine.marked, "unmarked": mine.victim}
    models |= {f"surrogate-{s.strength:g}": s.model for s in surrogates}
    shapes = {name: t.shape for name, t in mine.marked.state_dict().items()}
    for name, model in models.items():
        if {n: t.shape for n, t in model.state_dict().items()} == shapes:
            save_model(folder / f"{name}.safetensors", model, about)

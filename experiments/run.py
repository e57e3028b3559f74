"""A trial, end to end: victim, key, marked model, theft, verification matrix, record."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..attacks.sequence import stages_of
from ..core.errors import ConfigError, NotApplicable
from ..core.examples import Examples
from ..core.key import Key
from ..core.suspects import Suspects
from ..core.texts import Writer
from ..core.theft import Surrogate
from ..watermarks.llm.sampling import SamplingMark
from ..zoo.files import load_tensors, save_key, save_model
from .ahead import ahead
from .author import answers
from .cache import code_digest
from .catalogue import declared
from .environment import environment
from .exposure import admit, answered, deployed, exposed, untimed
from .matrix import Matrix
from .meter import Meter
from .own_key import copy_for
from .people import Owner, owner
from .quality import Answers, kept, utility
from .stolen import surrogates_of
from .texts.kept import keep
from .trial import Trial

INNOCENTS = 20  # buyers who did not collude, whom tracing must not accuse
WINDOWS = 128  # of a thief's text, on which he compares two models: 16,000 ids, each an example


def run(trial: Trial) -> dict[str, Any]:
    """The record of a finished trial. Raises Denied, NotApplicable or ConfigError instead of a number it cannot vouch for."""
    admit(trial)
    check_fit(trial)
    ahead(trial)
    mine = copy_for(trial, 0)
    check_folder(trial, mine.key)
    rival = owner(trial, "rival")
    access = exposed(trial, mine)
    meter = Meter(access, trial.trainer("thief"))
    surrogates = surrogates_of(trial, access, meter)
    if not surrogates:
        name = trial.spec.choices["attack"]
        raise ConfigError(
            f"{name} yielded no model: is a list among its settings empty? conf/attack/{name}.yaml has them"
        )
    if trial.watermark.answers and not access.queries:
        raise NotApplicable(
            f"{trial.spec.choices['watermark']} proves from its ledger, and {trial.spec.choices['attack']} asked nothing"
        )
    matrix = Matrix.measured(trial, mine, rival, surrogates, access.ledger)
    if trial.settings.save is not None:
        export(trial, Path(trial.settings.save), mine, matrix.keys[0], surrogates)
    test, his = answers(trial, mine, trial.task.test), answers(trial, mine, labelled(trial))
    curve = untimed(trial, [point(trial, mine, s, matrix, i, test, his) for i, s in enumerate(surrogates)])
    told = deployed(trial, mine, access, curve)
    return {
        **header(trial),
        "status": "ok",
        "owner": owner_costs(trial, mine, matrix.keys[0], test),
        "marked": {
            **kept(trial, mine, "utility", lambda: utility(trial, mine.marked, test)),
            **answered(trial, mine),
            **asdict(matrix.weigh(Matrix.MARKED)),
            "message": message(trial, mine.marked, mine.key),
        },
        "curve": curve,
        **({} if told is None else {"deployment": told}),
        "controls": {
            # What embeds nothing has the marked model as its unmarked one: no control.
            "unmarked": asdict(matrix.weigh(Matrix.UNMARKED)) if trial.watermark.embeds else None,
            "marked_by_rival": asdict(matrix.weigh(Matrix.RIVAL)),
            "key_of_rival": asdict(matrix.of_rival()),
        },
        "nulls": matrix.summary(),
        "size": matrix.size(),
    }


def check_fit(trial: Trial) -> None:
    """NotApplicable for a scheme whose mark the attack cannot meet, and for scheme or attack on models that they are not for."""
    scheme, attack = trial.watermark, trial.attack
    mark, theft = (trial.spec.choices[axis] for axis in ("watermark", "attack"))
    if scheme.answers and attack.needs == "weights":
        raise NotApplicable(f"{mark} marks what an API answers; {theft} takes the weights")
    if not scheme.trains and attack.needs == "weights":
        raise NotApplicable(
            f"{mark} marks what the owner's service writes, not its weights; {theft} takes these"
        )
    if not trial.settings.task.trains and trial.settings.verification.null_models != 0:
        raise ConfigError(
            f"task={trial.spec.choices['task']} brings one model, so there are no null models; set verification.null_models=0"
        )
    writes = not trial.task.owner.inputs.is_floating_point()
    if scheme.family == "language" and not writes:
        raise NotApplicable(f"{mark} marks texts, and a model of {trial.task.name} writes none")
    if writes and scheme.family not in ("language", "control") and scheme.reads != "weights":
        raise NotApplicable(f"{mark} asks for the labels of pictures; a model of {trial.task.name} reads ids")
    if writes and any(stage.pictures_only for stage in stages_of(attack)):
        raise NotApplicable(
            f"{theft} attacks classifiers of pictures; a model of {trial.task.name} reads ids: set attack=llm/distill, say"
        )
    if writes and (trial.deployment.monitor is not None or trial.deployment.defences):
        raise NotApplicable(
            f"deployment={trial.spec.choices['deployment']} filters or watches what is asked about pictures; a model of "
            f"{trial.task.name} reads ids"
        )
    if trial.settings.save is not None and not scheme.trains and not isinstance(scheme, SamplingMark):
        raise ConfigError(
            f"{mark} is not in the weights, so save={trial.settings.save} would keep nothing of it; leave save out"
        )


def about(trial: Trial) -> dict[str, Any]:
    """Whose models a folder of `save=` holds: task and model, with their settings, and the seed."""
    config = trial.spec.config
    named = {axis: {"name": trial.spec.choices[axis], "config": config[axis]} for axis in ("task", "model")}
    return {**named, "seed": config["seed"]}


def scheme_of(trial: Trial) -> dict[str, Any]:
    return {"name": trial.spec.choices["watermark"], "config": trial.spec.config["watermark"]}


def check_folder(trial: Trial, key: Key) -> None:
    """ConfigError where the folder of `save=` cannot be made, or holds another owner's key: his models would be read by this
    one's."""
    if trial.settings.save is None:
        return
    path = Path(trial.settings.save) / "key.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"save={trial.settings.save} cannot be used: {error}; set save=FOLDER") from None
    if not path.exists():
        return
    _, found = load_tensors(path, "key")
    mine = {"watermark": scheme_of(trial), **about(trial), "secret": key.secret.raw.hex()}
    if differing := [name for name, value in mine.items() if found.get(name) != value]:
        raise ConfigError(
            f"save={trial.settings.save} holds the key of another owner, whose {' and '.join(differing)} differ; name another one"
        )


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


def point(
    trial: Trial, mine: Owner, surrogate: Surrogate, matrix: Matrix, number: int, test: Answers, his: Answers
) -> dict[str, Any]:
    """One point of the curve: strength, accuracy, agreement with the victim on the test split, evidence, cost. his: the answers on
    the thief's data."""
    assert surrogate.cost is not None
    own, theirs = test.labels(mine.marked), test.labels(surrogate.model)
    row, shown = matrix.surrogate(number), matrix.presented.get(number)
    claim = shown if surrogate.claim is not None else None
    found = matrix.weigh(row if claim is None else Matrix.MARKED, claim or 0, surrogate.deposits)
    return {
        "strength": surrogate.strength,
        **utility(trial, surrogate.model, test),
        "agreement": float(((theirs == own) & (own >= 0)).double().mean()),
        **asdict(found),
        "cost": asdict(surrogate.cost),
        "seen": seen(his, mine, surrogate.model),
        "message": None if claim is not None else message(trial, surrogate.model, mine.key),
        "claimed": None if claim is None else {"deposits": surrogate.deposits, **matrix.claimed(claim)},
        "overwriter": overwriter(matrix, row, shown) if surrogate.mark is not None else None,
        "tracing": tracing(trial, mine, surrogate) if surrogate.members else None,
    }


def labelled(trial: Trial) -> Examples:
    """The thief's data that have labels, WINDOWS of them where they are texts."""
    data = trial.thiefs_data()
    known = data.targets >= 0
    data = data.take((known if known.ndim == 1 else known.flatten(1).all(1)).nonzero()[:, 0])
    return data if data.inputs.is_floating_point() else data.take(slice(0, WINDOWS))


def seen(his: Answers, mine: Owner, model: nn.Module) -> dict[str, float] | None:
    """What the thief himself can tell, without a key: the accuracy of his model and of the marked one on his labelled inputs. None
    without labels."""
    if not len(his.data):
        return None
    return {"accuracy": his.accuracy(model), "marked": his.accuracy(mine.marked)}


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


def owner_costs(trial: Trial, mine: Owner, key: Key, test: Answers) -> dict[str, Any]:
    found = kept(trial, None, "utility", lambda: utility(trial, mine.victim, test))
    return {
        **{f"unmarked_{name}": value for name, value in found.items()},
        "victim_seconds": mine.victim_seconds,
        "embedding_seconds": mine.embedding_seconds,
        "embeds": trial.watermark.embeds,
        "verification": kept(trial, mine, "verification", lambda: verification_cost(trial, mine, key)),
    }


def verification_cost(trial: Trial, mine: Owner, key: Key) -> dict[str, Any]:
    """Of one key in one model, the marked one: inputs and prompts that the model is asked, and wall seconds."""
    with asked(mine.marked) as count:
        start = time.perf_counter()
        trial.watermark.score(Suspects([mine.marked], trial.hardware.device), [key])
        return {"queries": sum(count), "seconds": round(time.perf_counter() - start, 5)}


@contextmanager
def asked(model: nn.Module) -> Iterator[list[int]]:
    """Of every call of the model, how many inputs or prompts it had."""
    counts: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    write = model.write if isinstance(model, Writer) else None

    def written(prompts_NP: Tensor, *rest: Any) -> Tensor:
        counts.append(len(prompts_NP))
        assert write is not None
        return write(prompts_NP, *rest)

    try:
        if write is not None:
            vars(model)["write"] = written
        yield counts
    finally:
        hook.remove()
        vars(model).pop("write", None)


def export(trial: Trial, folder: Path, mine: Owner, key: Key, surrogates: list[Surrogate]) -> None:
    """The models and the owner's key, for `assay verify`. Surrogates of another architecture are left out. Of a sampling mark,
    whose marked model has the weights of the unmarked one, the card and texts instead of it, for `assay detect`."""
    whose = about(trial)
    save_key(folder / "key.safetensors", key, {"watermark": scheme_of(trial), **whose})
    models = {"marked": mine.marked, "unmarked": mine.victim}
    models |= {f"surrogate-{s.strength:g}": s.model for s in surrogates}
    if isinstance(trial.watermark, SamplingMark):
        keep(folder, trial, key, models)
    if not trial.watermark.trains:
        del models["marked"]
    shapes = {name: t.shape for name, t in mine.marked.state_dict().items()}
    for name, model in models.items():
        if {n: t.shape for n, t in model.state_dict().items()} == shapes:
            save_model(folder / f"{name}.safetensors", model, whose)

"""Null models of many kinds: what each is, the same for all trials, and which schemes are held against rivals."""

import pytest
import torch
from filelock import FileLock

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments import people
from assay.experiments import population as file
from assay.experiments.ahead import ahead
from assay.experiments.api import build
from assay.experiments.cache import code_digest, library_versions
from assay.experiments.people import NOBODY, clean, training
from assay.experiments.population import grouped, kinds, population, together
from assay.experiments.run import run
from assay.experiments.trial import Trial

SMALL = ("task.limit=300", "task.recipe.epochs=2", "trainer.progress=false", "verification.random_keys=20")
MIXED = "verification.null_models={other_seed: 2, half_data: 1, other_architecture: 1, adversarial: 1, other_mark: 1, rival: 2}"


def trial(name: str, null_models: str = MIXED, *overrides: str) -> Trial:
    return build(f"watermark={name}", *SMALL, null_models, *overrides)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_rivals_count_where_keys_depend_on_the_model() -> None:
    """Not for keys that are drawn without a model, nor for a scheme that marks nothing."""
    assert kinds(trial("frontier_stitching"))[-2:] == ["rival", "rival"]
    for name in ("uchida", "adi_derived", "ipguard", "none"):
        assert "rival" not in kinds(trial(name))
        assert len(kinds(trial(name))) == 6
    assert kinds(trial("frontier_stitching", "verification.null_models=3")) == ["other_seed"] * 3


def test_each_kind_is_what_it_says() -> None:
    it = trial("frontier_stitching")
    models = dict(zip(enumerate(kinds(it)), population(it), strict=True))
    by_kind = {kind: model for (_, kind), model in models.items()}
    assert equal(models[0, "other_seed"], together(it, 0)[0])
    assert by_kind["other_architecture"].state_dict().keys() != by_kind["other_seed"].state_dict().keys()
    for kind in ("half_data", "adversarial", "other_mark", "rival"):
        assert by_kind[kind].state_dict().keys() == by_kind["other_seed"].state_dict().keys()
    assert len({float(next(iter(model.parameters())).detach().sum()) for model in models.values()}) == 8
    # A mark of weights, though two epochs make a weak one: its own owner's key finds it, and finds it there alone.
    marks = trial("uchida")
    other = kinds(it).index("other_mark")
    owners = marks.watermark.keygen(
        marks.settings.task.load(marks.settings.model, NOBODY),
        Secret.simulated(NOBODY, "owner"),
        models[0, "other_seed"],
    )
    scores = marks.watermark.score(Suspects([population(it)[other], models[0, "other_seed"]]), [owners])
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[0, 0] < -3 < -2 < scores.log10_p_MK[1, 0]


def test_null_models_are_trained_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is asked for first, its neighbours are there too, and they are the same."""
    it = trial("uchida", MIXED, "task.recipe.lr=0.04")
    last, _ = together(it, 3)
    monkeypatch.setattr(file, "train_fleet", lambda *_, **__: pytest.fail("trained again"))
    assert equal(together(it, 3)[0], last)
    assert len({float(next(together(it, n)[0].parameters()).detach().sum()) for n in range(4)}) == 4
    assert torch.is_grad_enabled()


def test_who_finds_his_victim_in_other_hands_trains_the_rival_s_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = trial("none", "verification.null_models=0", "task.recipe.lr=0.03")
    identity = {"config": training(it, it.seed), "code": code_digest(), "libraries": library_versions()}
    victim = it.cache._place("models", identity)
    with FileLock(f"{victim}.lock"):
        ahead(it)
    assert not victim.exists()
    monkeypatch.setattr(people, "Trainer", lambda *_: lambda *_, **__: pytest.fail("trained again"))
    assert clean(it, it.seed + people.RIVAL)[1]["steps"]
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        ahead(it)


def test_what_cannot_be_stacked_is_trained_alone() -> None:
    it = build(
        "watermark=none", "model=vit_tiny", "task.limit=100", "task.recipe.epochs=1", "trainer.progress=false"
    )
    assert equal(together(it, 1)[0], clean(it, NOBODY + 1)[0])


def test_a_population_is_the_same_for_every_trial_and_grows_at_its_end() -> None:
    few, many = (f"verification.null_models={{other_seed: {n}, half_data: {n}}}" for n in (1, 2))
    first, second = population(trial("uchida", few)), population(trial("adi", many, "seed=5"))
    assert equal(first[0], second[0])
    assert equal(first[1], second[2])


def test_a_record_tells_nobodys_models_from_rivals() -> None:
    record = run(trial("frontier_stitching", MIXED, "attack=none"))
    assert len(record["nulls"]["independent_models"]) == 6
    assert len(record["nulls"]["rivals"]) == 2
    assert record["marked"]["independent_models"]["count"] == 6
    assert record["marked"]["rivals"]["count"] == 2
    assert record["marked"]["detected"] is None  # two rivals decide nothing at 1 %
    weights = run(trial("uchida", MIXED, "attack=none"))
    assert weights["nulls"]["rivals"] == []
    assert weights["marked"]["independent_models"]["count"] == 5, "another architecture has no such layer"


def test_groups() -> None:
    assert grouped([1, 2, 3], ["other_seed", "other_mark", "rival"]) == ([1, 2], [3])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("{marked: 3}", ("null_models", "other_seed")),
        ("{rival: -1}", ("null_models", "greater than or equal to 0")),
    ],
)
def test_bad_populations_are_refused(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        trial("uchida", f"verification.null_models={override}")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_mixture_can_be_replaced_by_a_number() -> None:
    assert kinds(trial("uchida", "verification.null_models=2", "verification=mixed")) == ["other_seed"] * 2

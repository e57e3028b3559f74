"""Conformance of every scheme in conf/watermark: a new yaml is tested without touching this file."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nobody import clean_models
from scipy import stats
from torch import Tensor, nn

from assay.core.contracts import Watermark
from assay.core.examples import Examples
from assay.core.key import Key
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments.api import build
from assay.experiments.catalogue import catalogue, declared
from assay.experiments.people import Owner, clean, owner
from assay.experiments.trial import Trial
from assay.zoo.files import load_key, save_key

LISTED = catalogue("watermark")
SCHEMES = sorted(LISTED)
MARKS = [name for name in SCHEMES if LISTED[name]["family"] not in ("control", "output")]
"""An API mark has no key to verify before somebody asked: tests/test_api_marks.py."""
EMBEDDED = [name for name in SCHEMES if LISTED[name]["embeds"]]
WITH_KEY_NULL = [name for name in MARKS if "random_keys" in LISTED[name]["nulls"]]
NULLS = 5


@cache
def trial(name: str, *overrides: str) -> Trial:
    return build(f"watermark={name}", "trainer.progress=false", *overrides)


@cache
def people(name: str) -> tuple[Owner, Owner, list[nn.Module]]:
    """The owner by the scheme's defaults; a rival, who trains a third as long; and models of nobody."""
    it = trial(name)
    return owner(it, "owner"), owner(trial(name, "task.recipe.epochs=5"), "rival"), clean_models(it, NULLS)


def key_of(it: Trial, secret: int, victim: nn.Module) -> Key:
    return it.watermark.keygen(it.task, Secret.simulated(secret), victim, it.trainer("key"))


@cache
def made(name: str) -> Key:
    """The key of secret 1 on the clean victim, made once."""
    it = trial(name)
    return key_of(it, 1, clean(it, it.seed)[0])


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", SCHEMES)
def test_declarations_are_literals_that_the_catalogue_can_read(name: str) -> None:
    listed = LISTED[name]
    found = declared(trial(name).watermark)
    assert {
        key: list(v) if isinstance(v, tuple) else v for key, v in listed.items() if key != "about"
    } == found
    assert found["derivation"] in ("derived", "chosen", "none")
    assert found["reads"] in ("weights", "scores", "labels")


@pytest.mark.parametrize("name", MARKS)
def test_owner_is_found_and_strangers_are_not(name: str) -> None:
    """One matrix: the owner's key finds the marked model; it finds neither the unmarked model, nor the rival's, nor models
    of nobody; and the rival's key does not find the owner's model."""
    mine, rival, nulls = people(name)
    models = [mine.marked, *([mine.victim] if trial(name).watermark.embeds else []), rival.marked, *nulls]
    scores = trial(name).watermark.score(Suspects(models), [mine.key, rival.key])
    owned, others = scores.extremity_MK[0, 0], [*scores.extremity_MK[1:, 0], scores.extremity_MK[0, 1]]
    assert owned > max(others)
    if scores.log10_p_MK is not None:
        assert scores.log10_p_MK[0, 0] <= -3
        assert min([*scores.log10_p_MK[1:, 0], scores.log10_p_MK[0, 1]]) > -3


@pytest.mark.parametrize("name", EMBEDDED)
def test_marking_costs_little_accuracy(name: str) -> None:
    mine, _, _ = people(name)
    test = trial(name).task.test
    unmarked, marked = (
        (model(test.inputs).argmax(-1) == test.targets).float().mean() for model in (mine.victim, mine.marked)
    )
    assert unmarked > 0.95
    assert unmarked - marked <= 0.02


@dataclass
class Spy:
    """A `Fit` that trains nothing: it keeps what a scheme asked for and returns a copy."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: nn.Module, data: Examples, **asked: Any) -> nn.Module:
        self.calls.append(asked)
        return copy.deepcopy(model)


@pytest.mark.parametrize("name", SCHEMES)
def test_embed_and_score_leave_their_inputs_untouched(name: str) -> None:
    it = trial(name)
    victim, _ = clean(it, it.seed)
    before, key = state(victim), made(name)
    fingerprint = key.fingerprint
    marked = it.watermark.embed(victim, key, it.task, Spy())
    it.watermark.score(Suspects([victim]), [key])
    assert marked is not victim
    assert same(before, state(victim))
    assert key.fingerprint == fingerprint


def objectives(it: Trial) -> list[Callable[[nn.Module], Tensor]]:
    """What a scheme adds to its trainings, as functions of the live module."""
    victim, _ = clean(it, it.seed)
    spy, batch = Spy(), it.task.owner.take(slice(0, 64))
    it.watermark.embed(victim, made(it.spec.choices["watermark"]), it.task, spy)
    penalties = [call["penalty"] for call in spy.calls if call.get("penalty")]
    wholes = [call["objective"] for call in spy.calls if call.get("objective")]
    return [*penalties, *(partial(whole, inputs=batch.inputs, targets=batch.targets) for whole in wholes)]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_regulariser_sees_live_weights(name: str) -> None:
    """Penalty or objective follow the module they are given, and their gradient reaches that module's parameters."""
    it = trial(name)
    for loss in objectives(it):
        one, other = it.task.fresh(1), it.task.fresh(2)
        before = loss(one)
        assert before.item() != loss(other).item()
        one.zero_grad(set_to_none=True)
        loss(one).backward()
        moved = [(p, p.grad) for p in one.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert moved
        length = sum(float(grad.square().sum()) for _, grad in moved) ** 0.5
        with torch.no_grad():
            for parameter, grad in moved:
                parameter.sub_(0.01 * grad / length)
        assert loss(one).item() < before.item()


@pytest.mark.parametrize("name", SCHEMES)
def test_same_secret_same_key(name: str) -> None:
    it = trial(name)
    victim, _ = clean(it, it.seed)
    before = state(victim)
    again = key_of(it, 1, victim)
    assert again.fingerprint == made(name).fingerprint != people(name)[0].key.fingerprint
    assert same(before, state(victim))


@pytest.mark.parametrize("name", SCHEMES)
def test_keys_survive_the_disk_and_score_the_same(name: str, tmp_path: Path) -> None:
    it = trial(name)
    mine, _, _ = people(name)
    save_key(tmp_path / "key", mine.key, {})
    restored = load_key(tmp_path / "key", it.watermark.key_type)
    assert restored.fingerprint == mine.key.fingerprint
    one, other = (
        it.watermark.score(Suspects([mine.marked]), [key]).statistic_MK for key in (mine.key, restored)
    )
    assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("name", MARKS)
def test_key_inputs_are_raw_pixels(name: str) -> None:
    """One normalisation everywhere, the model's own: what a key feeds a model lies in [0, 1] like the data."""
    mine, _, _ = people(name)
    for label, tensor in mine.key.tensors().items():
        if tensor.ndim == 4:
            limit = 255 if tensor.dtype == torch.uint8 else 1
            assert 0 <= tensor.min() <= tensor.max() <= limit, label


@pytest.mark.parametrize("name", MARKS)
def test_one_matrix_equals_its_cells(name: str) -> None:
    mine, rival, nulls = people(name)
    scheme, models, keys = trial(name).watermark, [mine.marked, *nulls[:2]], [mine.key, rival.key]
    whole = scheme.score(Suspects(models), keys).statistic_MK
    cells = [[scheme.score(Suspects([m]), [k]).statistic_MK[0, 0] for k in keys] for m in models]
    np.testing.assert_allclose(whole, np.array(cells), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MARKS)
def test_a_suspect_of_another_architecture_gives_no_false_evidence(name: str) -> None:
    mine, _, _ = people(name)
    other = trial("none", "model=mlp").task.fresh(3)  # the task is the same for all schemes
    scores = trial(name).watermark.score(Suspects([other.eval()]), [mine.key])
    if scores.log10_p_MK is not None:
        assert scores.log10_p_MK[0, 0] > -3


def random_key_p_values(
    scheme: Watermark, models: Sequence[nn.Module], keys: Sequence[Key]
) -> np.ndarray[Any, Any]:
    parts = [scheme.score(Suspects(models), keys[i : i + 250]) for i in range(0, len(keys), 250)]
    tails = [part.log10_p_MK for part in parts]
    return 10 ** np.concatenate([tail for tail in tails if tail is not None], 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_KEY_NULL)
def test_p_values_over_random_keys_are_not_anti_conservative(name: str) -> None:
    """600 keys on an unmarked model: P[p <= a] <= a, up to a binomial fluctuation of probability 1e-4 per level."""
    it = trial(name)
    victim, _ = clean(it, it.seed)
    count = 600
    keys = [it.watermark.keygen(it.task, Secret.simulated(7, "size", k), victim) for k in range(count)]
    p_K = random_key_p_values(it.watermark, [victim], keys)[0]
    assert len(p_K) == count
    assert np.unique(p_K).size > 5
    for level in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001):
        assert (p_K <= level).sum() <= stats.binom.ppf(1 - 1e-4, count, level), level


# A transformer learns digits by Adam, and takes many epochs to remember noise pictures.
ADAM = ("task.recipe.optimizer=adam", "task.recipe.lr=0.002", "task.recipe.weight_decay=0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("uchida", ("model=mlp",)),
        ("adi_derived", ("model=mlp",)),
        ("uchida", ("model=vit_tiny", *ADAM, "task.recipe.epochs=6")),
        ("adi_derived", ("model=vit_tiny", *ADAM, "task.recipe.epochs=30")),
    ],
)
def test_schemes_mark_networks_without_convolutions(name: str, settings: tuple[str, ...]) -> None:
    it = trial(name, *settings)
    clean_model = it.task.fresh(None)
    key = it.watermark.keygen(it.task, Secret.simulated(1), clean_model)
    marked = it.watermark.embed(clean_model, key, it.task, it.trainer("marked"))
    scores = it.watermark.score(Suspects([marked, clean_model.eval()]), [key])
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[0, 0] < -10
    assert scores.log10_p_MK[1, 0] > -3

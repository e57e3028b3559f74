"""Conformance of marks that act in an API's answers: the owner is found in what a thief extracts, strangers and clean models are
not, answers are altered rarely and always alike, and the null is exact."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from nobody import clean_models
from scipy import stats
from torch import Tensor, nn

from assay.core.errors import NotApplicable
from assay.core.examples import Examples, Ledger
from assay.core.secret import Secret
from assay.core.suspects import Suspects, logits
from assay.deployments.reach import Gateway
from assay.experiments.api import build
from assay.experiments.catalogue import catalogue
from assay.experiments.meter import Meter
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.watermarks.dawn import DawnKey, choice, shuffled
from assay.watermarks.honeytrace import paired_t, resemblance

API_MARKS = [name for name, about in catalogue("watermark").items() if about["family"] == "output"]
ONCE = "attack.shares=[1.0]"
BY = {"dawn": "extract", "honeytrace": "distill"}
"""The attack that must carry the mark: labels suffice for dawn, honeytrace leans on scores."""


@cache
def trial(name: str, attack: str = "none", *overrides: str) -> Trial:
    return build(f"watermark={name}", f"attack={attack}", "trainer.progress=false", *overrides)


@cache
def victim() -> nn.Module:
    it = trial("none")
    return clean(it, it.seed)[0]


def key_of(name: str, seed: int = 0, *names: str | int) -> Any:
    it = trial(name)
    return it.watermark.keygen(it.task, Secret.simulated(seed, *names), victim())


def api(name: str) -> Gateway:
    scheme, key = trial(name).watermark, key_of(name)

    def answer(inputs: Tensor, scores: Tensor, ledger: Ledger) -> Tensor:
        return scheme.answer(key, inputs, scores, ledger)

    return Gateway(victim(), ("scores", "labels"), answer=answer)


@cache
def stolen(name: str) -> tuple[nn.Module, Ledger]:
    """A student of everything the thief may ask, and the ledger."""
    it = trial(name, BY[name], ONCE)
    access = api(name)
    meter = Meter(access, it.trainer("thief"))
    (surrogate,) = meter.over(it.attack(access, it.adversary(meter)))
    return surrogate.model, access.ledger


@pytest.mark.slow
@pytest.mark.parametrize("name", API_MARKS)
def test_the_owner_is_found_in_what_was_extracted_and_nobody_else(name: str) -> None:
    scheme = trial(name).watermark
    student, ledger = stolen(name)
    strangers = [key_of(name, 0, "random key", k) for k in range(50)]
    keys = [scheme.settle(key, ledger) for key in (key_of(name), *strangers)]
    scores = scheme.score(Suspects([student, victim(), *clean_models(trial("none"), 3)]), keys)
    own = scores.statistic_MK[0, 0]
    assert own > np.nanmax(scores.statistic_MK[1:, 0])
    if scores.log10_p_MK is not None:
        assert own > np.nanmax(scores.statistic_MK[0, 1:])
        assert scores.log10_p_MK[0, 0] < -3
        assert scores.log10_p_MK[1:, 0].min() > -2
    else:
        assert (scores.statistic_MK[0, 1:] >= own).sum() <= 2


@pytest.mark.parametrize("name", API_MARKS)
def test_few_answers_change_and_equal_inputs_get_equal_ones(name: str) -> None:
    inputs = trial("none").task.attacker.inputs
    plain = logits(victim(), inputs).argmax(1)
    gateway = api(name)
    labels = gateway.labels(inputs)
    assert 0 < float((labels != plain).double().mean()) < 0.04
    assert torch.equal(labels, gateway.labels(inputs))
    assert torch.equal(labels[:7], gateway.labels(inputs[:7]))
    scores = gateway.scores(inputs)
    assert torch.equal(scores.argmax(1), labels)
    assert torch.allclose(scores.sum(1), torch.ones(len(scores)), atol=1e-5)
    assert float(scores.min()) >= 0


@pytest.mark.parametrize("name", API_MARKS)
def test_answering_leaves_its_inputs_untouched(name: str) -> None:
    inputs = trial("none").task.attacker.inputs[:50].clone()
    scores = torch.softmax(logits(victim(), inputs), -1)
    before, was = inputs.clone(), scores.clone()
    trial(name).watermark.answer(key_of(name), inputs, scores, Ledger())
    assert torch.equal(inputs, before)
    assert torch.equal(scores, was)


def test_dawn_shuffles_to_every_other_class_alike() -> None:
    digests = [bytes(16) + n.to_bytes(16, "big") for n in range(900)]
    shifts = torch.tensor([choice(digest, 0.5, 10) for digest in digests])
    assert torch.bincount(shifts, minlength=10).tolist() == [0, *[100] * 9]
    assert choice(b"\xff" * 32, 0.5, 10) == 0
    assert choice(b"\xff" * 32, 1.0, 10) > 0


def test_dawn_trades_two_scores() -> None:
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]])
    expected = torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    assert torch.equal(shuffled(scores, torch.tensor([1, 2, 0])), expected)


class Fixed(nn.Module):
    """Answers labels by heart, in the order of its training pictures."""

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int) -> None:
        super().__init__()
        self.inputs, self.table = inputs.flatten(1), nn.functional.one_hot(labels, classes).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.table[torch.cdist(x.flatten(1), self.inputs).argmin(1)]


def asked(count: int, wrong: float) -> tuple[Ledger, Fixed]:
    """A ledger of noise pictures, and a suspect that differs from the API's own labels in so many of them."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randint(256, (count, 1, 8, 8), generator=generator).float() / 255
    own = torch.randint(10, (count,), generator=generator)
    shift = torch.randint(1, 10, (count,), generator=generator) * (
        torch.rand(count, generator=generator) < wrong
    )
    ledger = Ledger()
    scores = nn.functional.one_hot(own, 10).float()
    ledger.note(inputs, scores)
    ledger.own.append(scores)
    return ledger, Fixed(inputs, (own + shift) % 10, 10)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.1, 1.0])
def test_dawn_null_is_exact(wrong: float) -> None:
    """2,000 strangers' keys on one ledger and one suspect that has seen none of their answers: P[p <= a] <= a, up to a binomial
    fluctuation of probability 1e-4 per level, whatever the suspect gets wrong."""
    it = build("watermark=dawn", "watermark.rate=0.2", "trainer.progress=false")
    ledger, suspect = asked(200, wrong)
    first, last = (it.watermark.keygen(it.task, Secret.simulated(7, k)) for k in (0, 1999))
    strangers = [replace(first, secret=Secret.simulated(7, k)) for k in range(2000)]
    assert strangers[-1].fingerprint == last.fingerprint, "but for its secret a key is the task's"
    keys = [it.watermark.settle(key, ledger) for key in strangers]
    log10_p_MK = it.watermark.score(Suspects([suspect]), keys).log10_p_MK
    assert log10_p_MK is not None
    p = 10 ** log10_p_MK[0]
    assert np.unique(p).size > 5
    for level in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001):
        assert (p <= level).sum() <= stats.binom.ppf(1 - 1e-4, len(p), level), level


def test_dawn_counts_each_digest_once_and_only_what_differs() -> None:
    it = build("watermark=dawn", "watermark.rate=1.0", "trainer.progress=false")
    key: Any = it.watermark.keygen(it.task, Secret.simulated(1))
    ledger, _ = asked(30, 0.0)
    for column in (ledger.inputs, ledger.scores, ledger.own):
        column.append(column[0].clone())
    settled: Any = it.watermark.settle(key, ledger)
    assert len(settled.labels_T) == 30
    assert not (settled.labels_T == settled.own_T).any()
    pictures = settled.images_T.float() / 255
    replay = Fixed(pictures, torch.where(torch.arange(30) < 12, settled.labels_T, settled.own_T), 10)
    honest = Fixed(pictures, settled.own_T, 10)
    scores = it.watermark.score(Suspects([replay, honest]), [settled])
    assert scores.statistic_MK[:, 0].tolist() == [12, 0]
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[:, 0].tolist() == pytest.approx([-12 * np.log10(9), 0], abs=1e-9)


def test_dawn_leaves_an_answer_that_is_none_as_it_is() -> None:
    """A row with NaN has no label to shuffle: it is answered as it stands, and no evidence later."""
    rows = torch.tensor([[float("nan"), 0.2, 0.1], [0.7, 0.2, 0.1]])
    found = shuffled(rows, torch.tensor([1, 1]))
    torch.testing.assert_close(found[0], rows[0], rtol=0, atol=0, equal_nan=True)
    assert found[1].tolist() == pytest.approx([0.2, 0.7, 0.1])
    it = build("watermark=dawn", "watermark.rate=1.0", "trainer.progress=false")
    ledger, _ = asked(30, 0.0)
    ledger.own[0][3] = float("nan")
    settled: Any = it.watermark.settle(it.watermark.keygen(it.task, Secret.simulated(1)), ledger)
    assert len(settled.labels_T) == 29
    assert int(settled.own_T.min()) >= 0


def test_an_unasked_api_proves_nothing() -> None:
    it = trial("dawn")
    key: Any = it.watermark.settle(key_of("dawn"), Ledger())
    assert isinstance(key, DawnKey)
    scores = it.watermark.score(Suspects([victim()]), [key])
    assert np.isnan(scores.statistic_MK[0, 0])
    assert scores.extremity_MK[0, 0] == -np.inf
    assert scores.log10_p_MK is not None
    assert scores.log10_p_MK[0, 0] == 0


def test_dawn_refuses_a_ledger_it_did_not_answer() -> None:
    ledger, _ = asked(5, 0.0)
    ledger.own.clear()
    with pytest.raises(ValueError, match="ledger of an API that it answered"):
        trial("dawn").watermark.settle(key_of("dawn"), ledger)


def test_dawn_needs_three_classes() -> None:
    it = trial("dawn")
    two = it.task.__class__(**{**vars(it.task), "classes": 2})
    with pytest.raises(NotApplicable, match="dawn needs 3"):
        it.watermark.keygen(two, Secret.simulated(1))


def test_resemblance_and_t_by_hand() -> None:
    pattern = torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8)
    inputs = torch.stack([pattern.float() / 255, 1 - pattern.float() / 255, torch.full((1, 2, 2), 0.3)])
    assert resemblance(inputs, pattern).tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-6)
    assert paired_t(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) == pytest.approx(2 * 3**0.5)
    assert paired_t(torch.zeros(3)) == 0


def test_honeytrace_compares_with_the_unmarked_model() -> None:
    """The unmarked model itself is at 0, and a key without it is refused."""
    scheme = trial("honeytrace").watermark
    assert scheme.score(Suspects([victim()]), [key_of("honeytrace")]).statistic_MK[0, 0] == 0
    with pytest.raises(ValueError, match="pass the trained model"):
        scheme.keygen(trial("honeytrace").task, Secret.simulated(1))


def test_the_ledger_holds_what_was_asked_and_answered() -> None:
    gateway = api("dawn")
    inputs = trial("none").task.attacker.inputs[:20]
    scores = gateway.scores(inputs)
    noted = gateway.ledger.examples()
    assert isinstance(noted, Examples)
    assert torch.equal(noted.inputs, inputs)
    assert torch.equal(noted.targets, scores)
    assert torch.allclose(torch.cat(gateway.ledger.own), torch.softmax(logits(victim(), inputs), -1))

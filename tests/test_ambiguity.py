"""Claims on models an accuser did not mark, and buyers who mix their copies."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from nobody import clean_models
from torch import Tensor, nn

from assay.attacks.collude import Collude, colluded, mixed
from assay.attacks.false_claim import FalseClaim, summed_gradient, targeted
from assay.attacks.forge import Forge, climbed
from assay.core.errors import Denied, NotApplicable
from assay.core.secret import Secret
from assay.core.statistics import best_of_log10_p
from assay.core.suspects import Suspects
from assay.core.theft import Attack, Surrogate
from assay.deployments.reach import Gateway
from assay.experiments.api import build
from assay.experiments.meter import Meter
from assay.experiments.people import clean
from assay.experiments.trial import Trial


@cache
def trial(scheme: str) -> Trial:
    return build(f"watermark={scheme}", "trainer.progress=false")


@cache
def accused() -> nn.Module:
    """A model of another owner, who never met the accuser."""
    return clean(trial("none"), 0)[0]


@cache
def strangers() -> list[nn.Module]:
    return clean_models(trial("none"), 3)


def claims(attack: Attack, scheme: str) -> list[Surrogate]:
    it = trial(scheme)
    access = Gateway(accused(), ("weights",))
    return list(attack(access, it.adversary(Meter(access, it.trainer("thief")))))


def found(scheme: str, surrogate: Surrogate, models: list[nn.Module]) -> list[float]:
    """log10 p of the claim on each model, as if its null were valid."""
    p_MK = trial(scheme).watermark.score(Suspects(models), [surrogate.claim]).log10_p_MK
    assert p_MK is not None
    return [float(p) for p in p_MK[:, 0]]


@pytest.mark.slow
def test_transferable_triggers_claim_models_of_strangers_where_triggers_are_chosen() -> None:
    """adi, chosen: the accuser's key finds models he never saw, with a p-value that means nothing."""
    surrogates = claims(FalseClaim(epsilons=(0.031, 0.25)), "adi")
    small, large = ([*found("adi", s, [accused(), *strangers()])] for s in surrogates)
    assert max(large) < -6
    assert min(small) > max(large)
    assert all(
        torch.equal(a, b)
        for a, b in zip(accused().parameters(), surrogates[0].model.parameters(), strict=True)
    )


def test_derived_keys_leave_an_accuser_nothing_to_choose() -> None:
    it = trial("adi_derived")
    pictures, labels = torch.rand(200, *it.task.shape), torch.zeros(200, dtype=torch.int64)
    for scheme in ("adi_derived", "uchida", "akh"):
        with pytest.raises(NotApplicable, match="cannot choose"):
            trial(scheme).watermark.claim_key(Secret.simulated(1), pictures, labels, 10)


def test_a_claimed_key_holds_the_best_pictures_as_they_are_sent() -> None:
    scheme = trial("adi").watermark
    pictures = torch.rand(120, 1, 8, 8)
    labels = torch.arange(120) % 10
    key = scheme.claim_key(Secret.simulated(1), pictures, labels, 10)
    stored = key.tensors()
    assert torch.equal(stored["images_T"], (pictures[:100] * 255).round().to(torch.uint8))
    assert torch.equal(stored["labels_T"], labels[:100])
    with pytest.raises(NotApplicable, match="100 triggers"):
        scheme.claim_key(Secret.simulated(1), pictures[:99], labels[:99], 10)


def test_targeted_steps_stay_near_and_reach_the_target() -> None:
    models = strangers()[:2]
    data = trial("none").task.attacker.take(slice(0, 20))
    targets = (data.targets + 1) % 10
    moved = targeted(models, data.inputs, targets, 0.5, 40)
    assert (moved - data.inputs).abs().max() <= 0.5 + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    labels_MN = Suspects(models).labels(moved)
    assert float((labels_MN == targets).double().mean()) > 0.9


class Pulled(nn.Module):
    """Logits (0, x + bias) or (0, bias - x) of one number."""

    def __init__(self, sign: float, bias: float) -> None:
        super().__init__()
        self.sign, self.bias = sign, bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(x[:, 0]), self.sign * x[:, 0] + self.bias), 1)


def test_a_model_that_is_fooled_does_not_outweigh_one_that_is_not() -> None:
    """One takes the input for class 1 with p = 0.88 and would move it up, the other with p = 0.02 and would move it down. By the
    sum of cross-entropies the second decides (-0.12 + 0.98), by the mean of probabilities the first."""
    models = [Pulled(1.0, 2.0), Pulled(-1.0, -4.0)]
    at, target = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1])
    gradient = summed_gradient(models, at, target)
    p = torch.sigmoid(torch.tensor([2.0, -4.0], dtype=torch.float64))
    assert gradient.item() == pytest.approx(float(-(1 - p[0]) + (1 - p[1])), abs=1e-9)
    assert gradient.item() > 0.8


def test_fishing_for_derived_keys_finds_what_chance_allows() -> None:
    """The best of n tails is about 1 / n: a claim must count the keys that were tried."""
    surrogates = claims(Forge("fishing", tries=200), "uchida")
    assert [s.strength for s in surrogates] == [1.0, 10.0, 100.0, 200.0]
    best = [found("uchida", s, [accused()])[0] for s in surrogates]
    assert best == sorted(best, reverse=True)
    assert -4.5 < best[-1] < -1.3
    assert surrogates[0].claim is not None


def test_behind_a_hash_climbing_is_no_better_than_fishing() -> None:
    """2^10 tries against neuralmark: the best of as many binomial draws, and nothing once they are counted."""
    it = build("watermark=neuralmark", "attack=hill_climb", "trainer.progress=false")
    model = it.task.fresh(1)
    secret = Secret.simulated(3, "accuser")
    found = list(climbed(it.watermark, model, it.task, secret, 1024, seed=0))
    tries = [one.tries for one in found]
    assert (tries[0], tries[-1]) == (1, 1024)
    assert tries == sorted(tries)
    assert [one.deposits for one in found] == tries
    keys = [one.key for one in found]
    log10_p_MK = it.watermark.score(Suspects([model]), keys).log10_p_MK
    assert log10_p_MK is not None
    assert (np.diff(log10_p_MK[0]) <= 0).all(), "never downhill"
    assert -6 < log10_p_MK[0, -1] < -2, "the best of 1,024 is near 1 in 1,024"
    assert best_of_log10_p(log10_p_MK[0, -1], 1024) > -3


def test_the_same_accuser_finds_the_same_key() -> None:
    one, again = (claims(Forge("scheme", tries=10), "adi_derived")[-1].claim for _ in range(2))
    assert one is not None
    assert again is not None
    assert one.fingerprint == again.fingerprint


COPIES = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 8.0]], dtype=torch.float64)


def test_mixtures_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    assert mixed(COPIES, "average", generator).tolist() == [3.0, 6.0]
    assert mixed(COPIES, "median", generator).tolist() == [2.0, 5.0]
    assert mixed(COPIES, "minmax", generator).tolist() == [3.5, 6.5]
    drawn = torch.stack([mixed(COPIES, "random", generator) for _ in range(300)])
    assert set(drawn[:, 0].tolist()) == {1.0, 2.0, 6.0}
    shares = [(drawn[:, 0] == value).double().mean().item() for value in (1.0, 2.0, 6.0)]
    assert np.allclose(shares, 1 / 3, atol=0.1)


def small(value: float) -> nn.Module:
    layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def test_a_collusion_is_a_model_of_its_own() -> None:
    copies = [small(1.0), small(4.0)]
    model = colluded(copies, "average", torch.Generator())
    assert not model.training
    weights: list[Tensor] = list(model.parameters())
    assert all((w == 2.5).all() for w in weights)
    assert all((w == 4.0).all() for w in copies[1].parameters())


def test_colluders_are_named_and_hold_their_copies() -> None:
    it = trial("uchida")
    asked: list[int] = []

    def copies(count: int) -> list[nn.Module]:
        asked.append(count)
        return [small(float(i)) for i in range(count)]

    access = Gateway(accused(), ("weights",))
    adversary = replace(it.adversary(Meter(access, it.trainer("thief"))), copies=copies)
    surrogates = list(Collude("average", (3, 2))(access, adversary))
    assert asked == [2, 3]
    assert [s.members for s in surrogates] == [(0, 1), (0, 1, 2)]
    with pytest.raises(Denied):
        list(Collude("average")(Gateway(accused(), ("labels",)), adversary))

"""Detectability: areas against simulation, detectors on triggers made to be found, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.core.errors import ConfigError
from assay.core.examples import Examples
from assay.core.statistics import auroc, auroc_interval
from assay.experiments.api import build
from assay.experiments.cli import main
from assay.experiments.detectability import detectability
from assay.experiments.detectability.detectability import detectable, detectors, features, left_out
from assay.experiments.trial import Trial
from assay.zoo.features import penultimate

RNG = np.random.default_rng(5)


def test_an_area_counts_pairs_and_half_the_ties() -> None:
    one, other = RNG.integers(0, 6, 31), RNG.integers(0, 6, 17)
    pairs = np.mean([(a > b) + (a == b) / 2 for a in one for b in other])
    assert auroc(one, other) == pytest.approx(pairs)
    assert auroc([1.0], [0.0]) == 1
    assert np.isnan(auroc([], [1.0]))


def test_the_interval_covers_as_it_says() -> None:
    """Two normals one standard deviation apart: the area is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    bounds = [auroc_interval(rng.normal(1, 1, 40), rng.normal(0, 1, 60)) for _ in range(2000)]
    covered = np.mean([low <= 0.7602 <= high for low, high in bounds])
    assert 0.93 <= covered <= 0.97


def test_a_perfect_area_is_not_certain() -> None:
    low, high = auroc_interval(np.arange(20) + 100, np.arange(30))
    assert (round(low, 3), high) == (0.832, 1.0)
    low, high = auroc_interval(np.arange(20), np.arange(30) + 100)
    assert (low, round(high, 3)) == (0.0, 0.168)
    assert all(np.isnan(v) for v in auroc_interval([1.0], [0.0, 2.0]))


def test_an_area_of_tied_scores_is_not_certain() -> None:
    """A detector that says the same of all inputs has area 1/2 and no variance to measure."""
    low, high = auroc_interval(np.ones(20), np.ones(30))
    assert low < 0.3
    assert high > 0.7


class Bright(nn.Module):
    """Features are the pixels; class 1 is a bright first pixel, whatever the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[1, 0] = 40.0
            self.head.bias.copy_(torch.tensor([10.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out


@pytest.mark.parametrize("name", sorted(detectors()))
def test_detectors_find_a_dominant_trigger(name: str) -> None:
    """Queries with the bright pixel and an odd pattern among customers without: every detector ranks them first."""
    generator = torch.Generator().manual_seed(1)
    customers = torch.rand(60, 1, 4, 4, generator=generator) * 0.2
    customers[:20, 0, 0, 0] = 0.6  # class 1 has customers of its own
    queries = torch.rand(15, 1, 4, 4, generator=generator) * 0.2
    queries[:, 0, 0, 0], queries[:, 0, 3] = 1.0, 0.9
    clean = Examples(torch.rand(200, 1, 4, 4, generator=generator) * 0.2, torch.zeros(200, dtype=torch.int64))
    clean.inputs[:60, 0, 0, 0] = 0.6
    found = detectors()[name].suspicion(Bright().eval(), torch.cat((queries, customers)), clean, 3)
    assert found.shape == (75,)
    assert found.isfinite().all()
    assert auroc(found[:15].numpy(), found[15:].numpy()) > 0.9
    again = detectors()[name].suspicion(Bright().eval(), torch.cat((queries, customers)), clean, 3)
    assert torch.equal(found, again)


def test_features_of_the_classifier_are_its_inputs() -> None:
    inputs = torch.rand(7, 1, 4, 4)
    model = Bright().train()
    assert torch.equal(penultimate(model, inputs), inputs.flatten(1))
    assert model.training
    assert not model.head._forward_pre_hooks


def test_twins_that_differ_are_told_apart_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(2)
    base = np.repeat(rng.normal(size=(20, 1, 6)), 2, axis=1)
    noise = base + 0.01 * rng.normal(size=base.shape)
    assert 0.2 <= left_out(noise)[0] <= 0.8
    marked = noise.copy()
    marked[:, 1, 2] += 3
    assert left_out(marked)[0] == 1


def trial(*overrides: str) -> Trial:
    return build(*overrides, "trainer.progress=false", "attack=none", "task.recipe.epochs=3")


def test_features_follow_the_weights() -> None:
    task = trial("watermark=none").task
    one, other = task.fresh(1), task.fresh(2)
    assert not np.allclose(features(one), features(other))
    assert np.array_equal(features(one), features(task.fresh(1)))


def test_detectors_have_the_data_of_the_adversary(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the attacker's split by default, noise for a thief without data, nothing is refused."""
    seen: list[Examples] = []

    class Seeing:
        def suspicion(self, model: nn.Module, stream: Tensor, clean: Examples, seed: int) -> Tensor:
            seen.append(clean)
            return torch.rand(len(stream), dtype=torch.float64)

    monkeypatch.setattr(detectability, "detectors", lambda: {"seeing": Seeing()})
    some, all_of_it = (trial("watermark=adi_derived", f"adversary.data={share}") for share in (0.2, 1.0))
    noise, nothing = (trial("watermark=adi_derived", it) for it in ("adversary=no_data", "adversary.data=0"))
    for it in (all_of_it, some, noise):
        list(detectability.of_queries(it))
    attackers = all_of_it.task.attacker
    assert torch.equal(seen[0].inputs, attackers.inputs)
    assert torch.equal(seen[0].targets, attackers.targets)
    assert len(seen[1]) == round(0.2 * len(attackers))
    assert set(seen[2].targets.tolist()) == {-1}
    with pytest.raises(ConfigError, match=r"set adversary\.data=1\.0"):
        list(detectability.of_queries(nothing))


@pytest.mark.slow
def test_the_command_stores_what_it_prints(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """adi's noise pictures lie outside the data: nearest neighbours see them."""
    settings = ["watermark=adi_derived", "model=mlp", "trainer.progress=false", "task.recipe.epochs=6"]
    assert main(["detectability", *settings, "--models", "4"]) == 0
    assert "neighbours" in capsys.readouterr().out
    (record,) = (runs / "detectability").glob("*.json")
    found = {one["detector"]: one for one in json.loads(record.read_text())["found"]}
    assert found["property inference"]["count"] == 4
    assert 0 < found["property inference"]["p"] <= 1
    assert found["neighbours"]["auc"] > 0.9
    assert found["neighbours"]["low"] <= found["neighbours"]["auc"] <= found["neighbours"]["high"]


def test_bad_requests_are_explained() -> None:
    with pytest.raises(ConfigError, match="at least 4 pairs"):
        list(detectable(trial("watermark=uchida"), 3))
    assert main(["detectability", "watermark=none", "trainer.progress=false", "task.recipe.epochs=1"]) == 2

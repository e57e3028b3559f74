"""Accusers, colluders and messages, end to end: what a trial's record says of them."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from torch import nn

from assay.core.contracts import Watermark, fished
from assay.core.evidence import weigh
from assay.core.scores import Scores
from assay.core.secret import Secret
from assay.core.suspects import Suspects
from assay.experiments import isolate
from assay.experiments.api import build
from assay.experiments.config import composer
from assay.leaderboard.ranking import outcome

SMALL = (
    "task.limit=400",
    "verification.null_models=3",
    "verification.random_keys=20",
    "trainer.progress=false",
)


def record(runs: Path, *overrides: str) -> dict[str, Any]:
    with composer() as compose:
        found = isolate.perform(compose([*SMALL, f"paths.runs={runs}", *overrides]))
    assert found["status"] == "ok", found["reason"]
    return found


def test_the_best_of_many_deposits_counts_them() -> None:
    """Of 50 fished keys the best has a small p by its own tail, and an ordinary one as the best of 50."""
    rng = np.random.default_rng(0)
    corrected = []
    for _ in range(400):
        hits = rng.binomial(100, 0.1, size=(1, 50))
        scores = Scores.binomial(hits, 100, 0.1, "hits")
        best = int(hits[0].argmax())
        corrected.append(weigh(scores, 0, best, [], [], ("random_keys",), 0.01, deposits=50).log10_p)
    assert np.mean(np.array(corrected) <= math.log10(0.05)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean(np.array(corrected) <= math.log10(0.5)) > 0.2  # counted, not drowned


class Drawn:
    """A scheme whose key is a number in [0, 1) that its secret draws, two-sided about 1/2 on every model."""

    def keygen(self, task: Any, secret: Secret, model: Any = None) -> float:
        return int.from_bytes(secret.derive("number", 4), "big") / 2**32

    def score(self, suspects: Any, keys: list[float]) -> Scores:
        return Scores(np.array([keys]), "number", centre=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_fishing_shows_the_most_extreme_of_all_tries_and_deposits_each(seed: int) -> None:
    secret, scheme, nothing = Secret.simulated(seed), Drawn(), cast(Any, None)
    numbers = [scheme.keygen(None, Secret(secret.derive(f"fish/{i}", 32))) for i in range(250)]
    found = list(fished(cast(Any, scheme), nothing, nothing, secret, 250))
    assert [(one.tries, one.deposits) for one in found] == [(n, n) for n in (1, 10, 100, 250)]
    best = [max(numbers[: one.tries], key=lambda x: abs(x - 0.5)) for one in found]
    assert [cast(Any, one.key) for one in found] == best


def test_a_buyer_is_accused_at_the_rate_over_all_buyers() -> None:
    """Of ten buyers at 1 %, p = 0.002 accuses nobody and p = 0.001 does."""
    log10_p = np.log10([[0.0009, 0.002, *[0.5] * 8]])
    scheme = SimpleNamespace(score=lambda suspects, keys: Scores(0 * log10_p, "hits", 1, log10_p))
    assert Watermark.accuse(cast(Any, scheme), nn.Identity(), range(10), 0.01) == [0]


@pytest.mark.slow
def test_a_chosen_matrix_is_forged_and_fishing_is_not(runs: Path) -> None:
    forged = record(runs, "watermark=uchida_chosen", "attack=forge", "attack.tries=300")
    last = forged["curve"][-1]
    assert (last["statistic"], last["detected"], last["claimed"]["deposits"]) == (256, True, 1)
    assert outcome(forged)[0] == "forged"
    fished = record(runs, "watermark=uchida", "attack=key_fishing", "attack.tries=300")
    assert [p["claimed"]["deposits"] for p in fished["curve"]] == [1, 10, 100, 300]
    assert not any(p["detected"] for p in fished["curve"])
    assert fished["curve"][-1]["claimed"]["models"] == 3
    assert outcome(fished)[0] == "survives"


@pytest.mark.slow
def test_colluding_buyers_are_traced(runs: Path) -> None:
    """deepmarks, three buyers' copies averaged: they are named, and nobody else is."""
    traced = record(runs, "watermark=deepmarks", "attack=collude_average", "attack.colluders=[3]")
    (point,) = traced["curve"]
    assert point["tracing"]["colluders"] == [0, 1, 2]
    assert set(point["tracing"]["accused"]) <= {0, 1, 2}
    assert point["tracing"]["accused"]
    assert point["tracing"]["buyers"] > 10


@pytest.mark.slow
def test_a_payload_is_read_from_the_marked_model_and_lost_in_a_stranger() -> None:
    it = build("watermark=uchida", "watermark.payload=c0ffee", "trainer.progress=false")
    key = it.watermark.keygen(it.task, Secret.simulated(4))
    marked = it.watermark.embed(it.task.fresh(None), key, it.task, it.trainer("marked"))
    found = it.watermark.read(marked, key)
    assert found is not None
    assert (found.decoded, found.whole, found.bits) == ("c0ffee", True, 24)
    lost = it.watermark.read(it.task.fresh(9), key)
    assert lost is not None
    assert not lost.whole
    assert 0.3 < lost.accuracy < 0.7
    other = build("watermark=uchida", "model=mlp", "trainer.progress=false").task.fresh(1)
    assert it.watermark.read(other, key) is None
    assert it.watermark.score(Suspects([marked]), [key]).log10_p_MK is not None

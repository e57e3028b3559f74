"""Layers together: planted interactions are found, absent ones are not, and the table says what it left out."""

import csv
import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.core.errors import ConfigError
from assay.experiments.config import CONF
from assay.experiments.suite import grid
from assay.leaderboard.export import export
from assay.leaderboard.interaction_table import interactions_markdown
from assay.leaderboard.interactions import (
    ANY,
    OUTCOMES,
    Cell,
    Effect,
    contrast,
    effects,
    filled,
    interactions,
    levels,
    outcomes,
    student,
)
from assay.leaderboard.ranking import Record, labelled

NAMES = (("none", "dawn"), ("scores", "labels"), ("none", "mmd", "prada"))
OF = (("digits",), "steal", "accuracy")


def simulated(rng: np.random.Generator, seeds: int, planted: float, noise: float = 0.02) -> dict[Cell, float]:
    """Victims differ, every layer costs the thief, and watermark with monitor takes `planted` more than both alone."""
    out: dict[Cell, float] = {}
    for seed in range(seeds):
        victim = rng.normal(0, 0.1)
        for cell in itertools.product(*NAMES):
            mark, answers, monitor = (level != first[0] for level, first in zip(cell, NAMES, strict=True))
            mean = 0.8 + victim - 0.05 * mark - 0.1 * answers - 0.2 * monitor - planted * (mark and monitor)
            out[*cell, seed] = mean + rng.normal(0, noise)
    return out


def told(found: list[Effect], *layers: str | None) -> Effect:
    return next(e for e in found if e.layers == layers)


def test_a_planted_interaction_is_found_beside_the_main_effects() -> None:
    found = effects(simulated(np.random.default_rng(0), 6, 0.15), NAMES, OF)
    assert len(found) == 2 * 2 * 3 - 1
    mark = told(found, "dawn", None, None)
    assert mark.low is not None
    assert mark.high is not None
    assert mark.low < -0.05 - 0.15 * 2 / 3 < mark.high, "averaged over three monitors, of which two add"
    both = told(found, "dawn", None, "mmd")
    assert both.verdict == "more than the sum"
    assert both.value == pytest.approx(-0.15, abs=0.05)
    assert both.parts == pytest.approx((-0.05, -0.2), abs=0.05), "each where the other is absent"
    assert told(found, "dawn", "labels", None).verdict == "not told from the sum"
    less = effects(simulated(np.random.default_rng(0), 6, -0.15), NAMES, OF)
    assert told(less, "dawn", None, "mmd").verdict == "less than the sum"


def test_rates_without_an_interaction_and_with_one() -> None:
    """Holm's family has 7 interactions a draw: some is called in at most 5 % of draws, and 95 % intervals cover."""
    rng = np.random.default_rng(1)
    called, covered, seen, power = 0, 0, 0, 0
    for draw in range(200):
        pairs = [e for e in effects(simulated(rng, 3, 0.0), NAMES, OF) if e.order > 1]
        called += any(e.verdict != "not told from the sum" for e in pairs)
        covered += sum(e.low is not None and e.high is not None and e.low <= 0 <= e.high for e in pairs)
        seen += len(pairs)
        if draw < 40:
            planted = effects(simulated(rng, 6, 0.15), NAMES, OF)
            power += told(planted, "dawn", None, "mmd").verdict == "more than the sum"
    assert called <= 19, "Binomial(200, 0.05) exceeds 19 with probability 0.4 %"
    assert abs(covered / seen - 0.95) < 0.03
    assert power >= 38


def test_contrasts_by_hand() -> None:
    y_ABCS = np.arange(8.0).reshape(2, 2, 2, 1) ** 2
    assert contrast(y_ABCS, (1, 0, 0))[0] == np.mean([16 - 0, 25 - 1, 36 - 4, 49 - 9])
    assert contrast(y_ABCS, (1, 1, 0))[0] == np.mean([36 - 16 - 4 + 0, 49 - 25 - 9 + 1])
    assert contrast(y_ABCS, (1, 1, 1))[0] == 0
    mean, low, high, log10_p = student(np.array([1.0, 2.0, 3.0]))
    assert (mean, low, high) == pytest.approx((2, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert log10_p == pytest.approx(math.log10(0.0741799))
    assert student(np.array([0.5])) == student(np.array([0.5, 0.5])) == (0.5, None, None, None)


def test_a_seed_without_a_cell_is_left_out() -> None:
    seen = simulated(np.random.default_rng(2), 4, 0.1)
    del seen["dawn", "labels", "mmd", 2]
    assert filled(seen, NAMES).shape == (2, 2, 3, 3)
    assert {e.seeds for e in effects(seen, NAMES, OF)} == {3}
    assert effects({c: v for c, v in seen.items() if c[:2] != ("dawn", "labels")}, NAMES, OF) == []


def record(cell: Cell, attack: str, accuracy: float, **told: Any) -> Record:
    watermark, answers, monitor, seed = cell
    reached: dict[str, Any] = {
        "_target_": "x.Deployment",
        "grants": ["labels"] if answers == "labels" else ["scores", "labels"],
    }
    reached |= (
        {"monitor": {"_target_": f"x.{monitor.title()}"}, "on_alarm": "revoke"} if monitor != "none" else {}
    )
    clone = {"queries": 900, "accuracy": accuracy, "fidelity": 0.9, "log10_p": -1.0, "detected": False}
    block = {"accounts": 1, "licensed": False, "clone": clone, "alarm": None, **told}
    choices = {"task": "digits", "model": "m", "adversary": "a", "verification": "v", "attack": attack}
    choices |= {"watermark": watermark, "deployment": "d"}
    base = {
        "status": "ok",
        "id": f"{cell}{attack}",
        "seed": seed,
        "choices": choices,
        "overrides": [f"deployment.note={cell}"],
    }
    return {**base, "config": {"deployment": reached}, "deployment": block, "hash": "h"}


def records() -> list[Record]:
    """Where labels are told, only one attack runs; the other's clones are better."""
    seen = simulated(np.random.default_rng(3), 3, 0.3, 0.001)
    out = [record(cell, "jbda", value) for cell, value in seen.items()]
    return out + [record(c, "knockoff", v + 0.1) for c, v in seen.items() if c[1] == "scores"]


def test_records_of_two_attacks_and_the_thief_who_chooses() -> None:
    found = interactions(records())
    assert {e.attack for e in found} == {"jbda", "knockoff", ANY}
    accuracy = [e for e in found if e.outcome == "accuracy"]
    assert all(e.layers[1] is None for e in accuracy if e.attack == "knockoff"), "labels are no level of it"
    loss = {e.attack: e.value for e in accuracy if e.layers == (None, "labels", None)}
    assert loss == pytest.approx({"jbda": -0.1, ANY: -0.2}, abs=0.005)
    assert (
        told([e for e in accuracy if e.attack == ANY], "dawn", None, "prada").verdict == "more than the sum"
    )
    assert all(e.low is None for e in found if e.outcome == "detected"), "nothing varies over seeds"
    alarmed = [record(("none", "scores", "mmd", 0), "jbda", 0.5, accounts=4), {"status": "failed"}]
    assert interactions(alarmed) == []


@pytest.mark.parametrize("told", [{"accounts": 4}, {"licensed": True}, {"clone": None}])
def test_only_a_lone_thief_without_a_licence_who_has_a_clone_counts(told: dict[str, Any]) -> None:
    """Another thief in the same cell is another experiment."""
    others = [{**one, "deployment": one["deployment"] | told} for one in records()]
    assert interactions(records())
    assert interactions(others) == []


def test_outcomes_by_hand() -> None:
    """Queries up to the first alarm; nobody escapes whom the monitor or the mark gives away."""
    cell = ("none", "scores", "mmd", 0)
    seen = {"accuracy": 0.5, "queries": 900, "evidence": 1.0, "detected": 0.0, "escapes": 1.0}
    assert outcomes(record(cell, "jbda", 0.5)) == seen
    assert outcomes(record(cell, "jbda", 0.5, alarm={"queries": None})) == seen
    assert outcomes(record(cell, "jbda", 0.5, alarm={"queries": 120})) == {
        **seen,
        "queries": 120,
        "escapes": 0.0,
    }
    found = record(cell, "jbda", 0.5)
    found["deployment"]["clone"]["detected"] = True
    assert outcomes(found) == {**seen, "detected": 1.0, "escapes": 0.0}


def test_more_together_is_what_the_owner_would_pay_for() -> None:
    rising = {
        name: Effect(
            ("digits",), "steal", name, ("dawn", None, "mmd"), 0.1, 0.05, 0.15, 9, -4.0, -3.0
        ).verdict
        for name in OUTCOMES
    }
    assert {name for name, verdict in rising.items() if verdict == "more than the sum"} == {
        "evidence",
        "detected",
    }
    assert {name for name, verdict in rising.items() if verdict == "less than the sum"} == {
        *("accuracy", "queries", "escapes")
    }


def test_levels_are_read_off_the_settings() -> None:
    one = record(("dawn", "scores", "mmd", 0), "jbda", 0.5)
    assert levels(one) == ("dawn", "scores", "mmd")
    one["config"]["deployment"] |= {
        "defences": {"n": {"_target_": "x.Noise"}},
        "on_alarm": "log",
        "decimals": 2,
    }
    assert levels(one) == ("dawn", "2 decimals, noise", "mmd, log")
    named = labelled(
        {**one, "overrides": ["+defence@deployment.defences.n=noise", "deployment.grants=[labels]"]}
    )
    assert named["choices"]["deployment"] == "d defences.n=noise grants=[labels]"
    assert named["choices"]["verification"] == "v"


def test_the_export_is_a_csv_and_a_page(tmp_path: Path) -> None:
    path, page = export(records(), "interactions", tmp_path / "board.interactions.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == len(interactions(records()))
    pair = next(
        r
        for r in rows
        if (r["attack"], r["outcome"], r["watermark"], r["monitor"]) == ("jbda", "accuracy", "dawn", "mmd")
    )
    assert float(pair["effect"]) == pytest.approx(-0.3, abs=0.01)
    assert pair["order"] == "2"
    assert float(pair["first_alone"]) == pytest.approx(-0.05, abs=0.01)
    text = page.read_text()
    assert text.index("best attack of each cell") < text.index("attack jbda")
    assert re.search(
        r"\| watermark dawn \| monitor mmd \| -[45]\.\d\d \| -(19|20)\.\d\d \| -5[45]\.", text
    ), "pp"
    assert "more than the sum" in interactions_markdown(interactions(records())).decode()
    with pytest.raises(ConfigError, match="assay suite factorial"):
        export([records()[0]], "interactions", path)


def test_the_suite_names_every_combination() -> None:
    """9 deployments x 3 marks x 2 thieves x 3 seeds; where labels alone are told, the thief who needs scores is blocked."""
    blocks = grid("factorial", [CONF])
    points = [math.prod(map(len, axes.values())) for axes in blocks]
    assert points == [90, 36, 36]
    assert sum(points) - 3 * 3 * 3 <= 150

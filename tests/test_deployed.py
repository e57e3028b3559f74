"""What the board says of deployments: fidelity, alarms, accused customers, and what stealing costs there."""

import math
from typing import Any

import pages
import pytest

from assay.leaderboard.deployed import NONE, baselines, multiplier, rows, summary
from assay.leaderboard.ranking import Record
from assay.leaderboard.scores import scores
from assay.leaderboard.view import view


def undeployed() -> list[Record]:
    """The real records, as a version before deployments wrote them."""
    return [{name: value for name, value in r.items() if name != "deployment"} for r in pages.quick()]


def record(
    deployment: str, curve: list[tuple[int, float]], seed: int = 0, adversary: str = "standard", **told: Any
) -> Record:
    """A theft of uchida, with such points of queries and fidelity."""
    base = pages.found(undeployed(), "uchida", "distill")
    made = pages.renamed(base, seed, attack="steal", deployment=deployment, adversary=adversary)
    point = base["curve"][0]
    points = [{**point, "agreement": f, "cost": {**point["cost"], "queries": q}} for q, f in curve]
    last = {
        "queries": curve[-1][0],
        "fidelity": curve[-1][1],
        "accuracy": 0.9,
        "log10_p": -1.0,
        "detected": False,
    }
    block: Record = {
        "accounts": 1,
        "licensed": False,
        "simulation": None,
        "stopped": None,
        "alarm": None,
        "benign": None,
    }
    block |= {"utility": None, "clone": last, "book": {"entries": 1, "head": ""}, **told}
    return {**made, "curve": points, "deployment": block, "id": f"{made['id']}{adversary}"}


def alarm(queries: int | None) -> Record:
    return {
        "monitor": "mmd",
        "on_alarm": "revoke",
        "queries": queries,
        "leaked": 0,
        "degraded": 0,
        "accounts": 1,
    }


def benign(everyday: int, frames: int) -> Record:
    kinds = {
        "everyday": {"customers": 20, "alarmed": everyday},
        "frames": {"customers": 20, "alarmed": frames},
    }
    return {"fpr": 0.05, "customers": 40, "alarmed": everyday + frames, "kinds": kinds, "worst": {}}


FREE = record("api_scores", [(50, 0.5), (100, 0.81), (200, 0.9)])
SLOW = record("monitored_mmd", [(50, 0.4), (100, 0.6), (300, 0.82)], alarm=alarm(120), benign=benign(1, 4))
STOPPED = record("monitored_mmd", [(60, 0.5)], 1, alarm=alarm(60), benign=benign(0, 1), stopped="revoked")


def test_a_multiplier_compares_the_same_thief() -> None:
    known = baselines([SLOW, FREE, STOPPED])
    assert list(known.values()) == [FREE], "the others are watched"
    assert multiplier(SLOW, known) == 3, "0.81 is 90 % of 0.9: after 100 queries, and after 300"
    assert multiplier(FREE, known) == 1
    assert multiplier(STOPPED, known) is None, "of another seed"
    other = {**SLOW, "choices": {**SLOW["choices"], "watermark": "adi"}}
    assert multiplier(other, known) is None, "of another mark"
    sybil = record("monitored_mmd", [(200, 0.85)], adversary="sybil_4", accounts=4, alarm=alarm(None))
    assert multiplier(sybil, known) == 2, "his accounts cost nothing where nothing stops him"
    assert multiplier({**STOPPED, "seed": 0}, known) == math.inf


@pytest.mark.parametrize(
    "told",
    [
        {"utility": {}},
        {"alarm": alarm(None)},
        {"accounts": 4},
        {"licensed": True},
        {"simulation": "played"},
        {"stopped": "revoked"},
    ],
)
def test_who_is_hindered_or_helped_is_no_baseline(told: Record) -> None:
    assert not baselines([record("api_scores", [(1, 0.5)], **told)])


def test_a_row_per_deployment() -> None:
    ((_, found),) = rows([SLOW, FREE, {**STOPPED}, undeployed()[0]]).items()
    assert [row["deployment"] for row in found] == ["api_scores", "monitored_mmd"]
    free, watched = found
    assert (free["trials"], free["watched"], free["benign_fpr_worst"], free["cost_multiplier"]) == (
        1,
        0,
        None,
        1,
    )
    assert watched["clone_fidelity"] == pytest.approx((0.82 + 0.5) / 2)
    assert watched["clone_attack"] == "steal"
    assert (watched["queries_to_alarm"], watched["alarmed"], watched["watched"]) == (90, 2, 2)
    assert (watched["benign_fpr_worst"], watched["benign_worst_kind"]) == (5 / 40, "frames"), (
        "both seeds' customers"
    )
    assert (watched["cost_multiplier"], watched["cost_never"], watched["cost_trials"]) == (3, 0, 1)


def test_customers_of_a_seed_count_once_whatever_the_attack() -> None:
    again = {**SLOW, "choices": {**SLOW["choices"], "attack": "extract"}}
    found = summary([SLOW, again], {})
    assert found["benign_fpr_worst"] == 4 / 20


def test_thieves_who_never_get_there_have_no_number() -> None:
    known = {**baselines([FREE]), **baselines([{**FREE, "seed": 1}])}
    found = summary([STOPPED, {**STOPPED, "seed": 0}, SLOW], known)
    assert (found["cost_multiplier"], found["cost_never"], found["cost_trials"]) == (None, 2, 3)


def test_records_without_deployments_say_nothing() -> None:
    assert summary(undeployed(), {}) == NONE
    assert rows(undeployed()) == {}
    (row, *_) = scores(undeployed())
    assert {name: row[name] for name in NONE} == NONE


def test_the_page_and_the_ranking_have_the_columns() -> None:
    records = [*undeployed(), FREE, SLOW, STOPPED]
    shown = [board["deployments"] for board in view(records)["boards"]]
    assert sum(map(len, shown)) == 2
    ranked = next(row for row in scores(records) if row["clone_fidelity"] is not None)
    assert (ranked["watermark"], ranked["clone_fidelity"], ranked["alarmed"]) == ("uchida", 0.9, 2)

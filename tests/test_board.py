"""The ranking is what the protocol says, and the page is told every trial. The page itself: test_page.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from assay.leaderboard.columns import QUANTILES, digits, spread
from assay.leaderboard.page import write_board
from assay.leaderboard.ranking import Record, accused, accuses, controls, outcome, ranking
from assay.leaderboard.store import SCHEMA
from assay.leaderboard.view import command, view

STRONG, WEAK = -30.0, -0.5
MEASURED = """{
 "declared": {
  "watermark": {"family": "trigger", "reads": "labels", "derivation": "derived", "nulls": [], "embeds": true, "paper": "A"},
  "attack": {"needs": "weights", "data": "labelled", "axis": "epochs", "scheme_known": false, "key_known": "none", "paper": "B"}},
 "environment": {"versions": {"python": "3.11"}, "threads": 1},
 "finished": "2026-01-02T03:04:05+00:00",
 "owner": {"unmarked_accuracy": 0.96, "victim_seconds": 3.0, "embedding_seconds": 4.0, "embeds": true},
 "nulls": {"independent_models": [10.0, null, 14.0], "random_keys": []}}"""
EVIDENCE = """{"statistic": 99.0, "unit": "trigger hits", "trials": 128, "source": "binomial", "fpr": 0.01,
 "random_keys": {"count": 20, "exceed": 0, "log10_p": -1.3, "highest": 70.0}, "independent_models": null}"""
POINT = """{"agreement": 0.97, "cost": {"seconds": 1.5, "queries": 0, "examples": 288, "steps": 10}}"""


def evidence(log10_p: float, detected: bool | None, accuracy: float = 0.95) -> Record:
    return {"accuracy": accuracy, **json.loads(EVIDENCE), "log10_p": log10_p, "detected": detected}


def stolen(loss_pp: float, log10_p: float = STRONG, detected: bool | None = True) -> Record:
    """A surrogate that lost so much of the marked model's 95 %."""
    return {"strength": 1.0, **evidence(log10_p, detected, 0.95 - loss_pp / 100), **json.loads(POINT)}


def unfinished(
    scheme: str = "adi", attack: str = "prune", *, seed: int = 0, status: str, reason: str
) -> Record:
    """As of a trial whose process died: no declarations, nothing measured."""
    choices = {"task": "digits", "model": "cnn", "watermark": scheme, "deployment": "open", "attack": attack}
    name = "-".join([*choices.values(), f"s{seed}"])
    choices |= dict.fromkeys(("adversary", "verification", "trainer"), "standard")
    config = {"seed": seed, "attack": {"shares": [0.5, 1.0]}}
    head = {"schema": SCHEMA, "id": name, "choices": choices, "seed": seed, "config": config}
    return {**head, "status": status, "reason": reason}


def trial(
    scheme: str = "adi", attack: str = "prune", seed: int = 0, curve: list[Record] | None = None
) -> Record:
    """A finished trial; by default one surrogate that survives."""
    record = unfinished(scheme, attack, seed=seed, status="ok", reason="")
    del record["reason"]
    names = ("marked_by_rival", "key_of_rival")
    controls = {"unmarked": None, **{name: evidence(WEAK, False) for name in names}}
    record |= {"marked": evidence(STRONG, True), "controls": controls, **json.loads(MEASURED)}
    return {**record, "curve": [stolen(0.5)] if curve is None else curve}


def claimed(record: Record) -> Record:
    record["controls"]["key_of_rival"]["detected"] = True
    return record


REMOVED = [stolen(1.0), stolen(1.5, WEAK, False)]
UNDECIDED = [stolen(0.1), stolen(1.0, -1.3, None)]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([stolen(-3.0), stolen(1.0, -12.0)], ("survives", -12.0)),
        ([stolen(1.0), stolen(2.0, -12.0)], ("survives", -12.0)),  # exactly the budget is within it
        ([stolen(1.0), stolen(2.1, WEAK, False)], ("survives", STRONG)),  # beyond the budget nothing counts
        (REMOVED, ("removed", WEAK)),
        (UNDECIDED, ("undecided", -1.3)),
        ([*UNDECIDED, stolen(1.0, WEAK, False)], ("removed", WEAK)),
        ([stolen(2.1), stolen(40.0, WEAK, False)], ("too_costly", None)),
        ([], ("too_costly", None)),
    ],
)
def test_outcome_is_read_off_the_curve(curve: list[Record], expected: tuple[str, float]) -> None:
    assert outcome(trial(curve=curve)) == expected


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([stolen(0.0, WEAK, False), stolen(0.0, STRONG, True)], ("forged", STRONG)),
        ([stolen(0.0, WEAK, False), stolen(0.0, -1.0, False)], ("survives", -1.0)),
        ([stolen(0.0, WEAK, False), stolen(0.0, -1.0, None)], ("undecided", -1.0)),
    ],
)
def test_an_accusers_evidence_speaks_against_the_scheme(
    curve: list[Record], expected: tuple[str, float]
) -> None:
    record = trial(attack="forge", curve=curve)
    record["declared"]["attack"]["goal"] = "claim"
    assert outcome(record) == expected
    (row,) = ranking([trial(), record])
    assert row["decided"] - row["survived"] == (expected[0] == "forged")
    assert row["weakest_attack"] == "prune"


def test_of_a_search_among_deposited_keys_all_of_it_counts() -> None:
    """Each of six p is valid for a number of deposits that was fixed in advance; the least of them is none."""
    record = trial(attack="hill_climb", curve=[stolen(0.0, STRONG, True), stolen(0.0, -1.0, False)])
    record["declared"]["attack"]["goal"] = "claim"
    for point, deposits in zip(record["curve"], (100, 1000), strict=True):
        point["claimed"] = {"deposits": deposits}
    assert outcome(record) == ("survives", -1.0)


@pytest.mark.parametrize("status", ["blocked", "not_applicable", "failed"])
def test_what_could_not_run_is_counted_and_never_scored(status: str) -> None:
    bad = unfinished(attack="distill", status=status, reason="why")
    assert outcome(bad) == (status, None)
    (row,) = ranking([trial(), bad])
    assert (row[status], row["survived"], row["decided"], row["family"]) == (1, 1, 1, "trigger")
    (alone,) = ranking([bad])
    assert [alone[name] for name in ("rank", "cost_pp", "weakest_log10_p", "family")] == [None] * 4


def ranks(records: list[Record]) -> list[tuple[str, int | None]]:
    return [(row["watermark"], row["rank"]) for row in ranking(records)]


def test_equal_results_share_a_rank_and_the_next_is_skipped() -> None:
    records = [trial("b"), trial("a"), trial("c", curve=REMOVED), trial("d", curve=UNDECIDED), trial("none")]
    assert ranks(records) == [("a", 1), ("b", 1), ("c", 3), ("d", None)]


def test_undecided_schemes_do_not_push_others_down() -> None:
    records = [trial("a"), trial("b", curve=UNDECIDED), claimed(trial("c"))]
    assert ranks(records) == [("a", 1), ("c", 2), ("b", None)]


def test_a_false_claim_stands_behind_all_that_made_none() -> None:
    assert ranks([claimed(trial("strong")), trial("weak", curve=REMOVED)]) == [("weak", 1), ("strong", 2)]


def test_controls_count_once_a_seed() -> None:
    records = [claimed(trial(attack=attack, seed=seed)) for attack in ("prune", "distill") for seed in (0, 1)]
    assert controls(records[0]) == {"marked_by_rival": False, "key_of_rival": True}
    assert [(row["false_claims"], row["controls"], row["seeds"]) for row in ranking(records)] == [(2, 4, 2)]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("other", [False, None])
def test_a_claim_under_one_attack_is_a_claim_of_its_seed(order: int, other: bool | None) -> None:
    """An API mark's key is another after every theft; what came of the others hides nothing."""
    quiet = trial(attack="distill")
    quiet["controls"]["key_of_rival"]["detected"] = other
    (row,) = ranking([claimed(trial()), quiet][::order])
    assert (row["false_claims"], row["controls"], row["accused"]) == (1, 2, 1)


def test_many_keys_of_a_seed_claim_oftener_by_chance() -> None:
    """14 keys at 1 % claim one of three controls in a third of all seeds."""

    def tried(key: int, claims: list[bool]) -> Record:
        found = {str(name): {"detected": claim} for name, claim in enumerate(claims)}
        return {"seed": 0, "controls": found, "nulls": {"independent_models": [key], "random_keys": []}}

    rng = np.random.default_rng(0)
    sims = [rng.random((14, 3)) < 0.01 for _ in range(2000)]
    several = [accused([tried(k, claims) for k, claims in enumerate(c.tolist())], 0.01) for c in sims]
    assert 0 < np.mean(several) <= 0.065, "a calibrated scheme is refuted in 5 % at most"
    one = [accused([tried(0, claims) for claims in c.tolist()], 0.01) for c in sims]
    assert np.mean(one) > 0.3, "as if all trials had one key"


def test_as_many_false_claims_as_declared_move_no_rank() -> None:
    """At 5 %, one of 3 controls happens once in 7; at 1 % once in 33."""
    assert not accuses(1, 3, 0.05)
    assert accuses(1, 3, 0.01)
    assert accuses(2, 3, 0.05)
    rng = np.random.default_rng(0)
    for tried in (3, 9, 15, 300):
        found = [accuses(int(claimed), tried, 0.01) for claimed in rng.binomial(tried, 0.01, 2000)]
        assert np.mean(found) <= 0.065, "a calibrated scheme is refuted in 5 % at most"


def test_a_null_without_rivals_says_nothing_of_them() -> None:
    """Two groups of null models or an exact law do."""
    of_nobody = claimed(trial("a"))
    of_nobody["controls"]["key_of_rival"] |= {"source": "independent_models", "rivals": None}
    mixed = claimed(trial("b"))
    mixed["controls"]["key_of_rival"] |= {"source": "independent_models", "rivals": {"count": 99}}
    rows = {row["watermark"]: row for row in ranking([of_nobody, mixed])}
    assert [rows["a"][name] for name in ("rank", "false_claims", "controls", "claims_on_rivals")] == [
        1,
        0,
        1,
        1,
    ]
    assert [rows["b"][name] for name in ("rank", "false_claims", "controls", "claims_on_rivals")] == [
        2,
        1,
        2,
        0,
    ]


def test_few_attacks_earn_no_rank() -> None:
    """An API mark that one theft of four reaches would stand first for it; half of them are enough."""
    attacks = ("w", "x", "y", "z")
    wide = [trial("wide", attack, curve=REMOVED if attack == "z" else None) for attack in attacks]
    half = [trial("half", attack) for attack in attacks[:2]]
    gone = [unfinished("api", a, status="not_applicable", reason="takes the weights") for a in attacks[1:]]
    records = [*wide, *half, trial("api", "w"), *gone]
    assert ranks(records) == [("half", 1), ("wide", 2), ("api", None)]
    assert [(row["cells"], row["board_cells"]) for row in ranking(records)] == [(2, 4), (4, 4), (1, 4)]


def test_the_worst_attack_goes_before_the_mean() -> None:
    pairs = [(attack, seed) for attack in "wxyz" for seed in (0, 1)]
    even = [trial("even", attack, seed, REMOVED if seed else None) for attack, seed in pairs]
    broken = [trial("broken", attack, seed, REMOVED if attack == "z" else None) for attack, seed in pairs]
    rows = [(row["watermark"], row["worst"], row["survived"]) for row in ranking([*broken, *even])]
    assert rows == [("even", 0.5, 4), ("broken", 0.0, 6)]


def test_of_equal_worst_attacks_the_larger_share_goes_first_and_then_the_more_trials() -> None:
    def scheme(name: str, worst: int, other: list[bool]) -> list[Record]:
        bad = [trial(name, "w", seed, None if seed % 2 else REMOVED) for seed in range(2 * worst)]
        return bad + [trial(name, "x", seed, None if kept else REMOVED) for seed, kept in enumerate(other)]

    few, many, lower = [True] * 2, [True] * 4, [True, True, True, False]
    records = [*scheme("a", 3, lower), *scheme("b", 1, few), *scheme("c", 2, many)]
    rows = [(row["watermark"], row["rank"], row["worst"], row["survived"]) for row in ranking(records)]
    assert rows == [("c", 1, 0.5, 6), ("b", 2, 0.5, 3), ("a", 3, 0.5, 6)]


def test_an_undecided_trial_is_no_trial_of_the_worst_attack() -> None:
    (row,) = ranking([trial(seed=0), trial(seed=1, curve=UNDECIDED), trial(attack="x", curve=UNDECIDED)])
    assert (row["worst"], row["survived"], row["decided"], row["cells"]) == (1.0, 1, 1, 1)


def test_boards_of_other_tasks_and_verifications_are_ranked_apart() -> None:
    other = trial("b")
    other["choices"]["task"] = "fashion"
    strict = trial("c", curve=REMOVED)
    strict["choices"]["verification"] = "strict"
    assert ranks([trial("a"), other, strict]) == [("a", 1), ("c", 1), ("b", 1)]


def test_cost_and_weakest_evidence_name_their_unit_and_attack() -> None:
    (row,) = ranking([trial(), trial(attack="distill", curve=REMOVED)])
    assert row["cost_pp"] == pytest.approx(1.0)
    assert (row["weakest_log10_p"], row["weakest_attack"]) == (WEAK, "distill")


def test_a_mark_in_answers_costs_what_customers_are_told() -> None:
    told, older = trial("b", seed=0), trial("b", seed=1)
    for record in (told, older):
        record["declared"]["watermark"]["family"] = "output"
    told["marked"]["answered"] = 0.92
    (row,) = ranking([told, older])
    assert row["cost_pp"] == pytest.approx(4.0), "the older record tells nothing"
    (row,) = ranking([older])
    assert row["cost_pp"] is None


def test_command_comes_from_the_record() -> None:
    record = trial("my mark")
    expected = "assay run task=digits model=cnn 'watermark=my mark' deployment=open attack=prune"
    assert command(record) == f"{expected} adversary=standard verification=standard trainer=standard seed=0"


def test_shared_parts_are_sent_once() -> None:
    data = view([trial(attack=f"attack{i}") for i in range(20)])
    assert len(set(data["trials"]["controls"])) == 1
    assert len(data["pool"]) < 45  # 20 names of attacks among them


def test_a_trial_is_told_whole_and_in_few_digits() -> None:
    points = [
        stolen(0.5),
        {
            **stolen(1.0, -1.23456),
            "overwriter": {"surrogate": evidence(-9.0, True), "marked": evidence(WEAK, False)},
        },
    ]
    data = view([trial(attack="a", curve=points), trial(attack="b", curve=[stolen(3.0, WEAK, False)])])
    trials, pool = data["trials"], data["pool"]
    curves = trials["curves"]
    assert trials["points"] == [2, 1]
    assert curves["log10_p"] == [-30, -1.235, -0.5]
    assert curves["detected"] == [1, 1, 0]
    assert curves["keys_beyond"] == [0, 0, 0]
    assert [pool[i] for i in curves["keys"]] == [[20, 20], [20]]
    assert list(curves["extras"]) == [1]
    assert curves["extras"][1]["overwriter"]["surrogate"]["log10_p"] == -9
    assert [data["outcomes"][i] for i in trials["outcome"]] == ["survives", "too_costly"]
    assert [pool[i] for i in trials["axes"]["attack"]] == ["a", "b"]
    assert trials["id"] == ["digits-cnn-adi-open-a-s0", "digits-cnn-adi-open-b-s0"]


def test_what_decides_and_rivals_are_told_of_every_point() -> None:
    models, rivals = {"count": 201, "exceed": 0}, {"count": 99, "exceed": 2}
    point = {
        **stolen(0.5),
        "source": "rivals",
        "random_keys": None,
        "independent_models": models,
        "rivals": rivals,
    }
    data = view([trial(attack="a", curve=[point, stolen(1.0)])])
    curves, pool = data["trials"]["curves"], data["pool"]
    assert [pool[i] for i in curves["source"]] == ["rivals", "binomial"]
    assert curves["models_beyond"] == [0, None]
    assert curves["rivals_beyond"] == [2, None]
    assert [pool[i] for i in curves["rivals"]] == [[99, None]]


def test_boards_stand_by_the_numbers_in_their_names() -> None:
    names = ["data_1", "data_5", "data_20", "queries_100", "queries_1k", "queries_10k", "standard"]
    records = [trial() for _ in names]
    for record, name in zip(records, sorted(names), strict=True):
        record["choices"]["adversary"] = name
    data = view(records)
    assert [board["names"][2] for board in data["boards"]] == names
    assert [data["boards"][i]["names"][2] for i in data["trials"]["board"]] == sorted(names)


def test_an_id_is_sent_without_what_choices_and_seed_say() -> None:
    record = trial()
    (short,) = view([{**record, "id": f"{record['id']}-0123456789ab"}])["trials"]["id"]
    assert short == "-0123456789ab"
    (whole,) = view([{**record, "id": "another"}])["trials"]["id"]
    assert whole == "another"


def test_null_scores_come_down_to_quantiles() -> None:
    scores = [None, *(float(i) for i in range(101))]
    assert spread(scores) == {"count": 102, "quantiles": [100 * q for q in QUANTILES]}
    assert spread([None]) == {"count": 1, "quantiles": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (0.0, 0), (-0.0, 0), (123456.0, 123500), (0.012344, 0.01234), (-1e-9, -1e-9)],
)
def test_digits(value: float | None, expected: float | None) -> None:
    assert digits(value, 4) == expected


def test_frontiers_are_steps_in_percentage_points() -> None:
    data = view([trial(), trial(seed=1, curve=[stolen(0.0), stolen(4.0, WEAK, False)])])
    (board,) = data["boards"]
    found = board["frontiers"]["adi"]
    assert found["loss_pp"] == [0, 0.5, 4, 10]
    assert found["least"] == [1, 1, 0.5, 0.5]


def test_records_are_read_one_by_one_and_left_as_they_were(tmp_path: Path) -> None:
    record = trial()
    before = json.dumps(record)
    assert write_board(iter([record, trial(seed=1)]), tmp_path / "board.html") == (2, [])
    assert json.dumps(record) == before


def test_a_trial_with_other_settings_is_another_scheme_and_its_command_says_so() -> None:
    changed = {
        **trial("uchida"),
        "id": "changed",
        "overrides": ["watermark.bits=64", "verification.fpr=0.001"],
    }
    rows = ranking([trial("uchida"), changed])
    assert {row["watermark"] for row in rows} == {"uchida", "uchida bits=64"}
    assert len({row["verification"] for row in rows}) == 2
    assert "watermark=uchida " in command(changed)
    assert command(changed).endswith("watermark.bits=64 verification.fpr=0.001")
    assert {row["watermark"] for board in view([changed])["boards"] for row in board["rows"]["all"]} == {
        "uchida bits=64"
    }

"""From records to a ranking. Reads records only; knows no scheme.

A trial's outcome is read off its curve within the accuracy budget (2 pp of one-sided stealing loss):
  survives    every surrogate still carries evidence at the declared false-positive rate
  removed     some surrogate does not
  forged      an accuser's key finds a model he did not mark; a claim that fails survives
  undecided   the null is too small to decide
  too_costly  no surrogate stays within the budget: the attack destroys what it steals
and otherwise blocked, not_applicable or failed, as its record says; those are shown and never scored.

A board holds trials of one class: the same task, model, adversary and verification. On it a scheme's score is its
worst attack, the share of seeds it survived; the share of all decided trials orders equal worst cases. A worst case over few
attacks is no match for one over many: a scheme with less than half of the attacks that the board decides has no rank. False
claims in more negative controls than the declared rate explains put a scheme behind all others; a control of a seed is claimed
where any of the seed's trials claimed it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

Record = dict[str, Any]
Cell = tuple[str, str]
"""Attack and deployment."""
BUDGET = 0.02
BOARD = ("task", "model", "adversary", "verification")
OUTCOMES = ("survives", "removed", "forged", "undecided", "too_costly", "blocked", "not_applicable", "failed")
CONTROL = "none"
"""The watermark that is none: shown, never ranked."""
DECIDED = ("survives", "removed", "forged")
COVERAGE = 0.5
"""Of the attacks and deployments that a board decides for any scheme, the share that a rank asks for."""
SIGNIFICANT = 0.05
"""Of false claims against the declared rate, in one scheme."""
OF_RIVALS = ("marked_by_rival", "key_of_rival")


def labelled(record: Record) -> Record:
    """The record with its overrides in the names of its choices: a trial with watermark.bits=64 is another scheme on the board
    than the default one. The options themselves stay in `options`."""
    if "options" in record or not record.get("overrides"):
        return record
    named = dict(record["choices"])
    for setting in dict.fromkeys(record["overrides"]):  # a word said twice says no more
        # +defence@deployment.defences.noise=noise is a setting of the deployment
        axis, _, rest = setting.lstrip("+").rpartition("@")[2].partition(".")
        if axis in named:
            named[axis] += f" {rest}"
        else:
            named["verification"] = f"{named.get('verification', '')} {setting}".strip()
    return {**record, "choices": named, "options": record["choices"]}


def losses(record: Record) -> list[float]:
    """What each surrogate lost against the marked model, as a share of the test split; negative where it gained."""
    return [record["marked"]["accuracy"] - point["accuracy"] for point in record["curve"]]


def outcome(record: Record, budget: float = BUDGET) -> tuple[str, float | None]:
    """The trial's outcome, and the weakest log10 p of a surrogate within the budget."""
    if record["status"] != "ok":
        return record["status"], None
    if is_claim(record):
        return _claim_outcome(record)
    # 1e-9: accuracies are shares of a test split, and a loss of exactly 2 pp is within the budget
    within = [p for p, loss in zip(record["curve"], losses(record), strict=True) if loss <= budget + 1e-9]
    if not within:
        return "too_costly", None
    weakest = max(point["log10_p"] for point in within)
    verdicts = [point["detected"] for point in within]
    if False in verdicts:
        return "removed", weakest
    return ("undecided" if None in verdicts else "survives"), weakest


def blind(record: Record, budget: float = BUDGET) -> bool | None:
    """Whether the mark survives a thief who sees no evidence: he takes the strongest surrogate that loses no more than the budget
    on his own data. None where he has none, where nothing was decided, and in records that don't say what he sees."""
    if record["status"] != "ok" or is_claim(record):
        return None
    seen = [(point, point.get("seen")) for point in record["curve"]]
    taken = [point for point, his in seen if his and his["marked"] - his["accuracy"] <= budget + 1e-9]
    return taken[-1]["detected"] if taken else None


def _claim_outcome(record: Record) -> tuple[str, float | None]:
    """Of an accuser's keys: here evidence speaks against the scheme, and the strongest p is the weak point. Of a search among keys
    that had to be deposited in advance the last point counts, the best of all: he cannot choose afterwards how many to deposit."""
    shown = record["curve"]
    if any((point.get("claimed") or {}).get("deposits", 1) > 1 for point in shown):
        shown = shown[-1:]
    verdicts = [point["detected"] for point in shown]
    strongest = min(point["log10_p"] for point in shown)
    if True in verdicts:
        return "forged", strongest
    return ("undecided" if None in verdicts else "survives"), strongest


def controls(record: Record, covered: bool = True) -> dict[str, bool]:
    """Whether ownership was found, by decided negative control; a control may be null: a fingerprint's unmarked model is its
    victim. Where models decide and none is a rival's, the null says nothing of rivals' models and marks: not `covered`."""
    found = {name: c for name, c in record.get("controls", {}).items() if c and c["detected"] is not None}
    return {name: c["detected"] for name, c in found.items() if _covered(name, c) == covered}


def _covered(name: str, control: Record) -> bool:
    of_nobody = control.get("source") == "independent_models" and not control.get("rivals")
    return not (name in OF_RIVALS and of_nobody)


def claimed_controls(done: Iterable[Record], covered: bool = True) -> dict[tuple[int, str], bool]:
    """Of every seed and negative control, whether any trial claimed it. Where the key settles on what the thief asked, trials of a
    seed differ; else they agree, and count once."""
    found: dict[tuple[int, str], bool] = {}
    for record in done:
        for name, claimed in controls(record, covered).items():
            found[record["seed"], name] = claimed or found.get((record["seed"], name), False)
    return found


def accused(done: Sequence[Record], fpr: float | None) -> bool:
    """Whether false claims refute the declared rate, of which a seed with n different keys has n times as much at most."""
    found = claimed_controls(done)
    if fpr is None or not any(found.values()):
        return False
    keys = different_keys(done)
    mean = sum(keys[seed] for seed, _ in found) / len(found)
    return accuses(sum(found.values()), len(found), min(1.0, fpr * mean))


def different_keys(done: Iterable[Record]) -> dict[int, int]:
    """How many keys of the owner a seed's trials settled on: 1 where the key is the same under every attack. Keys are told apart by
    their null scores."""
    found: dict[int, set[tuple[float | None, ...]]] = defaultdict(set)
    for record in done:
        nulls = record["nulls"]
        found[record["seed"]].add((*nulls["independent_models"], *nulls["random_keys"]))
    return {seed: len(scores) for seed, scores in found.items()}


def accuses(claimed: int, tried: int, fpr: float | None) -> bool:
    """Whether so many false claims in so many controls refute the declared rate (exact binomial test, 5 %)."""
    if not claimed or fpr is None:
        return False
    fewer = sum(math.comb(tried, k) * fpr**k * (1 - fpr) ** (tried - k) for k in range(claimed))
    return 1 - fewer < SIGNIFICANT


def cell_of(record: Record) -> Cell:
    return record["choices"]["attack"], record["choices"].get("deployment", "")


def board_of(record: Record) -> tuple[str, ...]:
    return tuple(record["choices"].get(axis, "") for axis in BOARD)


def schemes(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """The labelled records of every board and scheme, (*board_of(record), name), in order; without the control's."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in map(labelled, records):
        if record["choices"]["watermark"] != CONTROL:
            groups[*board_of(record), record["choices"]["watermark"]].append(record)
    return dict(sorted(groups.items()))


def is_claim(record: Record) -> bool:
    """An accuser's trial, where evidence speaks against the scheme; for all others it is a theft's."""
    return bool(record.get("declared", {}).get("attack", {}).get("goal") == "claim")


def ranking(records: Iterable[Record], budget: float = BUDGET) -> list[Record]:
    """A row per board and scheme, best first. Equal results share a rank; schemes that too few attacks decide come last, with
    none. cells: how many attacks and deployments decide the scheme; board_cells: any scheme of its board; accused: 1 where
    false claims refute the declared rate."""
    rows = [_row(members, budget) for members in schemes(records).values()]
    decided: dict[tuple[str, ...], set[Cell]] = defaultdict(set)
    for row in rows:
        decided[_board(row)] |= row["cells"]
    merits: dict[tuple[str, ...], list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        row |= {"cells": len(row["cells"]), "board_cells": len(decided[_board(row)])}
        merits[_board(row)].append(_merit(row))
    for row in rows:
        mine = _merit(row)
        row["rank"] = sum(other > mine for other in merits[_board(row)]) + 1 if mine[0] else None
    return sorted(rows, key=lambda row: (_board(row), [-value for value in _merit(row)], row["watermark"]))


def _board(row: Record) -> tuple[str, ...]:
    return tuple(row[axis] for axis in BOARD)


def _merit(row: Record) -> tuple[float, ...]:
    """Larger is better. Of equal shares, the one over more survived trials."""
    if not row["decided"]:
        return False, False
    ranked = row["cells"] >= COVERAGE * row["board_cells"]
    share = row["survived"] / row["decided"]
    return (
        ranked,
        True,
        not row["accused"],
        row["worst"],
        share,
        row["survived"],
    )


def _row(records: list[Record], budget: float) -> Record:
    """One scheme on one board."""
    found = [(record, *outcome(record, budget)) for record in records]
    counts = Counter(result for _, result, _ in found)
    done = [record for record in records if record["status"] == "ok"]
    declared: Record = next((r["declared"]["watermark"] for r in records if "declared" in r), {})
    evidence = [(p, r["choices"]["attack"]) for r, _, p in found if p is not None and not is_claim(r)]
    unseeing = [kept for record in records if (kept := blind(record, budget)) is not None]
    weakest, attack = max(evidence, default=(None, None), key=lambda pair: pair[0])
    tried, fpr = claimed_controls(done), next((r["marked"]["fpr"] for r in done), None)
    return {
        **dict(zip(BOARD, board_of(records[0]), strict=True)),
        "watermark": records[0]["choices"]["watermark"],
        **{name: declared.get(name) for name in ("family", "reads", "derivation", "paper")},
        "cost_pp": _cost(done),
        "survived": counts["survives"],
        "decided": sum(counts[name] for name in DECIDED),
        "cells": {cell_of(record) for record, result, _ in found if result in DECIDED},
        **{name: counts[name] for name in OUTCOMES[1:]},
        "worst": _worst(found),
        "blind_survived": sum(unseeing),
        "blind_decided": len(unseeing),
        "weakest_log10_p": weakest,
        "weakest_attack": attack,
        "false_claims": sum(tried.values()),
        "controls": len(tried),
        "accused": int(accused(done, fpr)),
        "fpr": fpr,
        "claims_on_rivals": sum(claimed_controls(done, covered=False).values()),
        "seeds": len({record["seed"] for record in done}),
    }


def cost_of(record: Record) -> float:
    """The owner's cost in pp of accuracy: of a mark in answers, that of what customers are told; nan where an older record does not
    tell."""
    marked, scheme = record["marked"], record.get("declared", {}).get("watermark", {})
    served = marked.get("answered", math.nan if scheme.get("family") == "output" else marked["accuracy"])
    return float(100 * (record["owner"]["unmarked_accuracy"] - served))


def _cost(done: list[Record]) -> float | None:
    """Each seed counted once; None before any trial ended."""
    costs = {r["seed"]: cost for r in done if not math.isnan(cost := cost_of(r))}
    return sum(costs.values()) / len(costs) if costs else None


def _worst(found: list[tuple[Record, str, float | None]]) -> float | None:
    """The smallest share of decided trials survived under any attack and deployment; None where nothing was decided."""
    survived: dict[Cell, list[bool]] = defaultdict(list)
    for record, result, _ in found:
        if result in DECIDED:
            survived[cell_of(record)].append(result == "survives")
    return min((sum(trials) / len(trials) for trials in survived.values()), default=None)

"""From records to a ranking. Reads records only; knows no scheme.

A cell is one scheme under one attack and seed. Within the accuracy budget (2 pp of one-sided stealing loss, protocol 9) it is
  survives    every surrogate still carries evidence at the declared false-positive rate
  removed     some surrogate does not
  undecided   the null is too small to decide
  too_costly  no surrogate stays within the budget: the attack destroys what it steals
and otherwise blocked, not_applicable or failed, as its record says; those are shown and never scored.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
BUDGET = 0.02


def outcome(record: Record, budget: float = BUDGET) -> tuple[str, float | None]:
    """The cell's outcome, and the weakest log10 p of a surrogate within the budget."""
    if record["status"] != "ok":
        return record["status"], None
    reference = record["marked"]["accuracy"]
    # 1e-9: accuracies are shares of a test split, and a loss of exactly 2 pp is within the budget
    within = [p for p in record["curve"] if reference - p["accuracy"] <= budget + 1e-9]
    if not within:
        return "too_costly", None
    weakest = max(p["log10_p"] for p in within)
    verdicts = [p["detected"] for p in within]
    if False in verdicts:
        return "removed", weakest
    return ("undecided" if None in verdicts else "survives"), weakest


def false_claims(record: Record) -> int:
    """Negative controls in which ownership was found."""
    controls = record.get("controls", {}).values()
    return sum(found is not None and found["detected"] is True for found in controls)


def ranking(records: Iterable[Record], budget: float = BUDGET) -> list[Record]:
    """A row per task, model and scheme, best first; equal results share a rank, schemes without a decided cell have none."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        choices = record["choices"]
        if choices["watermark"] != "none":
            groups[choices["task"], choices["model"], choices["watermark"]].append(record)
    rows = [_row(names, members, budget) for names, members in groups.items()]
    rows.sort(key=_order)
    for i, row in enumerate(rows):
        tied = i > 0 and _order(row)[:4] == _order(rows[i - 1])[:4]
        same_board = [r for r in rows[:i] if (r["task"], r["model"]) == (row["task"], row["model"])]
        row["rank"] = (rows[i - 1]["rank"] if tied else len(same_board) + 1) if row["decided"] else None
    return rows


def _order(row: Record) -> tuple[Any, ...]:
    share = row["survived"] / row["decided"] if row["decided"] else -1.0
    return row["task"], row["model"], row["false_claims"] > 0, -share, row["watermark"]


def _row(names: tuple[str, ...], records: list[Record], budget: float) -> Record:
    cells = [(record, *outcome(record, budget)) for record in records]
    counts: dict[str, int] = defaultdict(int)
    for _, result, _ in cells:
        counts[result] += 1
    weakest = max(((p, r) for r, _, p in cells if p is not None), key=lambda pair: pair[0], default=None)
    done = [r for r in records if r["status"] == "ok"]
    costs = [r["owner"]["unmarked_accuracy"] - r["marked"]["accuracy"] for r in done]
    declared = next((r["declared"]["watermark"] for r in records if "declared" in r), {})
    return {
        "task": names[0],
        "model": names[1],
        "watermark": names[2],
        "family": declared.get("family"),
        "reads": declared.get("reads"),
        "derivation": declared.get("derivation"),
        "paper": declared.get("paper"),
        "cost_pp": 100 * sum(costs) / len(costs) if costs else None,
        "survived": counts["survives"],
        "removed": counts["removed"],
        "decided": counts["survives"] + counts["removed"],
        **{name: counts[name] for name in ("undecided", "too_costly", "blocked", "not_applicable", "failed")},
        "weakest_log10_p": weakest[0] if weakest else None,
        "weakest_attack": weakest[1]["choices"]["attack"] if weakest else None,
        "false_claims": sum(false_claims(r) for r in done),
        "seeds": len({r["seed"] for r in done}),
    }

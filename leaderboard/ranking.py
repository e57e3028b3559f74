"""From records to a ranking. Reads records only; knows no scheme.

A trial's outcome is read off its curve within the accuracy budget (2 pp of one-sided stealing loss):
  survives    every surrogate still carries evidence at the declared false-positive rate
  removed     some surrogate does not
  forged      an accuser's key finds a model he did not mark; a claim that fails survives
  undecided   the null is too small to decide
  too_costly  no surrogate stays within the budget: the attack destroys what it steals
and otherwise blocked, not_applicable or failed, as its record says; those are shown and never scored.

A board holds trials of one class: the same task, model, adversary and verification. On it a scheme's score is its
worst attack, the share of seeds it survived; the share of all decided trials orders equal worst cases, and a false
claim in a negative control puts a scheme behind all that made none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
BUDGET = 0.02
BOARD = ("task", "model", "adversary", "verification")
OUTCOMES = ("survives", "removed", "forged", "undecided", "too_costly", "blocked", "not_applicable", "failed")
CONTROL = "none"
"""The watermark that is none: shown, never ranked."""


def labelled(record: Record) -> Record:
    """The record with its overrides in the names of its choices: a trial with watermark.bits=64 is another scheme on the board
    than the default one. The options themselves stay in `options`."""
    if "options" in record or not record.get("overrides"):
        return record
    named = dict(record["choices"])
    for setting in record["overrides"]:
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
    """Of an accuser's keys: here evidence speaks against the scheme, and the strongest p is the weak point."""
    verdicts = [point["detected"] for point in record["curve"]]
    strongest = min(point["log10_p"] for point in record["curve"])
    if True in verdicts:
        return "forged", strongest
    return ("undecided" if None in verdicts else "survives"), strongest


def claims(record: Record) -> set[str]:
    """The negative controls in which ownership was found. A control may be null: a fingerprint's unmarked model is its victim."""
    controls = record.get("controls", {})
    return {name for name, found in controls.items() if found is not None and found["detected"] is True}


def false_claims(record: Record) -> int:
    """Negative controls in which ownership was found."""
    return len(claims(record))


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
    """A row per board and scheme, best first. Equal results share a rank; schemes without a decided trial come last, with none."""
    rows = [_row(members, budget) for members in schemes(records).values()]
    for row in rows:
        better = sum(_board(other) == _board(row) and _merit(other) > _merit(row) for other in rows)
        row["rank"] = better + 1 if row["decided"] else None
    return sorted(rows, key=lambda row: (_board(row), [-value for value in _merit(row)], row["watermark"]))


def _board(row: Record) -> tuple[str, ...]:
    return tuple(row[axis] for axis in BOARD)


def _merit(row: Record) -> tuple[float, ...]:
    """Larger is better. Of equal shares, the one over more survived trials."""
    if not row["decided"]:
        return (False,)
    share = row["survived"] / row["decided"]
    return True, not row["false_claims"], row["worst"], share, row["survived"]


def _row(records: list[Record], budget: float) -> Record:
    """One scheme on one board."""
    found = [(record, *outcome(record, budget)) for record in records]
    counts = Counter(result for _, result, _ in found)
    done = [record for record in records if record["status"] == "ok"]
    declared: Record = next((r["declared"]["watermark"] for r in records if "declared" in r), {})
    evidence = [(p, r["choices"]["attack"]) for r, _, p in found if p is not None and not is_claim(r)]
    unseeing = [kept for record in records if (kept := blind(record, budget)) is not None]
    weakest, attack = max(evidence, default=(None, None), key=lambda pair: pair[0])
    return {
        **dict(zip(BOARD, board_of(records[0]), strict=True)),
        "watermark": records[0]["choices"]["watermark"],
        **{name: declared.get(name) for name in ("family", "reads", "derivation", "paper")},
        "cost_pp": _cost(done),
        "survived": counts["survives"],
        "decided": counts["survives"] + counts["removed"] + counts["forged"],
        **{name: counts[name] for name in OUTCOMES[1:]},
        "worst": _worst(found),
        "blind_survived": sum(unseeing),
        "blind_decided": len(unseeing),
        "weakest_log10_p": weakest,
        "weakest_attack": attack,
        # A seed's controls are the same under every attack: each counts once.
        "false_claims": len({(record["seed"], name) for record in done for name in claims(record)}),
        "seeds": len({record["seed"] for record in done}),
    }


def _cost(done: list[Record]) -> float | None:
    """The owner's cost in pp of accuracy, each seed counted once; None before any trial ended."""
    costs = {r["seed"]: r["owner"]["unmarked_accuracy"] - r["marked"]["accuracy"] for r in done}
    return 100 * sum(costs.values()) / len(costs) if costs else None


def _worst(found: list[tuple[Record, str, float | None]]) -> float | None:
    """The smallest share of decided trials survived under any attack and deployment; None where nothing was decided."""
    survived: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for record, result, _ in found:
        if result in ("survives", "removed", "forged"):
            attack = record["choices"]["attack"], record["choices"].get("deployment", "")
            survived[attack].append(result == "survives")
    return min((sum(trials) / len(trials) for trials in survived.values()), default=None)

"""What a preset's trials say of its paper: readings of records, prediction intervals over seeds, verdicts.

A published number is one draw, not a mean, so it is held against Student's prediction interval for a new seed, mean +- t(n - 1) s
sqrt(1 + 1/n). "reproduced" is said only of numbers that were read in the paper, inside an interval over at least 5 seeds of a
configuration that does not differ from the paper's.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from ...leaderboard.ranking import BUDGET
from .preset import QUANTITIES, Claim, Inequality, Measure, Number, inequality

Record = dict[str, Any]
Records = Mapping[tuple[str, str], Mapping[int, Record | str]]
"""Per trial (row, theft) and seed: its record, or why there is none."""
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
CONFIDENCE, ENOUGH = 0.95, 5
COUNTED = {"trigger": ("hits", "answered", "labels"), "bit": ("bits", "signs")}
"""The last word of the unit of a statistic that counts them."""


class Unmeasured(Exception):
    """Why a record says nothing of what is asked."""


@dataclass(frozen=True)
class Measured:
    """A reading over seeds, in its quantity's unit. missing: why a seed has none."""

    values: dict[int, float]
    missing: dict[int, str]
    percent: bool

    @property
    def mean(self) -> float:
        return math.fsum(self.values.values()) / len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """For a new seed; None where nothing was seen to vary. Percentages end at 0 and 100."""
        found = prediction(list(self.values.values()))
        if found is None or not self.percent:
            return found
        return max(found[0], 0.0), min(found[1], 100.0)


def prediction(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Student's interval for one more draw of the same normal law; None for fewer than two draws, and for equal ones."""
    n = len(values)
    if n < 2 or max(values) == min(values):
        return None
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * spread * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def measured(measure: Measure, records: Records) -> Measured:
    values, missing = {}, {}
    for seed, record in records[measure.row, measure.theft].items():
        try:
            values[seed] = read(measure, record)
        except Unmeasured as reason:
            missing[seed] = str(reason)
    return Measured(values, missing, QUANTITIES[measure.quantity] == "%")


def read(measure: Measure, record: Record | str) -> float:
    """Unmeasured says why there is no such number."""
    if isinstance(record, str):
        raise Unmeasured(record)
    if record["status"] != "ok":
        raise Unmeasured(f"{record['status']}: {record['reason']}")
    found = place(record, measure.point)
    quantity = measure.quantity
    if quantity in ("accuracy", "error", "loss", "agreement"):
        return _utility(record, found, quantity, measure.point)
    value = found["detected"] if quantity == "detected" else found["statistic"]
    if value is None:
        cause = "the null is too small to decide" if quantity == "detected" else "the model cannot be read"
        raise Unmeasured(cause)
    if quantity == "detected":
        return 100.0 if value else 0.0
    return float(found[quantity]) if quantity in ("statistic", "log10_p") else _share(found, quantity)


def place(record: Record, point: str) -> Record:
    """The part of the record that a point names."""
    if point == "marked":
        return dict(record["marked"])
    if point in ("unmarked", "rival"):
        found = record["controls"]["unmarked" if point == "unmarked" else "marked_by_rival"]
        return dict(found or {"statistic": None, "detected": None})
    curve: list[Record] = record["curve"]
    if point in ("first", "last"):
        return curve[0 if point == "first" else -1]
    if point == "worst":
        least = record["marked"]["accuracy"] - BUDGET - 1e-9
        within = [p for p in curve if p["accuracy"] >= least and p["statistic"] is not None]
        if not within:
            raise Unmeasured("no surrogate within 2 pp")
        return min(within, key=lambda p: float(p["statistic"]))
    at = [p for p in curve if math.isclose(p["strength"], float(point))]
    if not at:
        strengths = ", ".join(f"{p['strength']:g}" for p in curve)
        raise Unmeasured(f"no surrogate of strength {point}; there are {strengths}")
    return at[0]


def _utility(record: Record, found: Record, quantity: str, point: str) -> float:
    unmarked = float(record["owner"]["unmarked_accuracy"])
    value: float | None = found.get("agreement" if quantity == "agreement" else "accuracy")
    if point == "unmarked" and quantity != "agreement":
        value = unmarked
    if value is None:
        raise Unmeasured(f"no {quantity} of the {point} model is recorded")
    before = unmarked if point in ("marked", "unmarked") else float(record["marked"]["accuracy"])
    return 100.0 * {"error": 1 - value, "loss": before - value}.get(quantity, value)


def _share(found: Record, quantity: str) -> float:
    kind = quantity.partition("_")[0]
    if not found["trials"] or found["unit"].split()[-1] not in COUNTED[kind]:
        raise Unmeasured(f"the scheme counts {found['unit']}, no {kind}s")
    share = found["statistic"] / found["trials"]
    return float(100.0 * (1 - share if quantity == "bit_error_rate" else share))


@dataclass(frozen=True)
class JudgedNumber:
    number: Number
    found: Measured | None
    verdict: str


@dataclass(frozen=True)
class JudgedClaim:
    """held: the seeds in which the inequality holds, of those in which both sides were measured."""

    claim: Claim
    inequality: Inequality
    left: Measured
    right: Measured | None
    held: int
    seeds: int
    verdict: str


def judge_number(number: Number, records: Records, same: bool) -> JudgedNumber:
    """same: the configuration does not differ from the paper's."""
    if number.measure is None:
        return JudgedNumber(number, None, f"not measured: {number.table.unmeasured}")
    found = measured(number.measure, records)
    return JudgedNumber(number, found, _number_verdict(number, found, same))


def _number_verdict(number: Number, found: Measured, same: bool) -> str:
    if not found.values:
        return f"not measured: {_reasons(found)}"
    if found.interval is None:
        return "no interval: one seed" if len(found.values) == 1 else "no interval: all seeds are equal"
    low, high = found.interval
    if not low <= number.value <= high:
        return "outside"
    sure = same and number.table.provenance == "verified" and len(found.values) >= ENOUGH
    return "inside the interval: reproduced" if sure else "inside the interval"


def judge_claim(claim: Claim, records: Records) -> JudgedClaim:
    """It holds when it holds in every seed; a seed without a number leaves it open."""
    asked = inequality(claim)
    left = measured(asked.left, records)
    right = None if asked.right is None else measured(asked.right, records)
    seeds = [s for s in left.values if right is None or s in right.values]

    def holds(seed: int) -> bool:
        other = asked.margin + (0.0 if right is None else right.values[seed])
        return RELATIONS[asked.relation](round(left.values[seed], 9), round(other, 9))

    held = sum(map(holds, seeds))
    open_ = [side for side in (left, right) if side is not None and side.missing]
    if held < len(seeds):
        verdict = "does not hold"
    elif open_ or not seeds:
        verdict = f"not measured: {_reasons(*open_)}"
    else:
        verdict = "qualitative claim holds"
    return JudgedClaim(claim, asked, left, right, held, len(seeds), verdict)


def _reasons(*sides: Measured) -> str:
    return "; ".join(dict.fromkeys(reason for side in sides for reason in side.missing.values()))

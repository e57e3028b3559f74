"""A scheme's true-positive rate at smaller false-positive rates than the declared one, from the p-values that records hold.

An empirical null of n scores gives no p below 1 / (1 + n). Below the least p that a scheme's nulls give there is no rate, and
`least_log10_p` says it. An exact law gives whatever p the suspect earns.
"""

import math
from collections.abc import Sequence
from functools import partial

from .frontier import survival, thefts
from .ranking import BUDGET, Record, is_claim, losses

STRICTER = {"tpr_1e3": -3, "tpr_1e6": -6}
"""Columns, and the log10 of their false-positive rates."""
BEHIND = {
    "random_keys": ("random_keys",),
    "independent_models": ("independent_models", "rivals"),
    "rivals": ("independent_models", "rivals"),
    "none": (),
}
"""By what decides, the empirical nulls; of several the larger p counts. All other sources are exact laws."""
ROUNDING = 1e-9


def stricter(records: Sequence[Record]) -> Record:
    """Of one scheme on one board: least_log10_p (None: an exact law, or nothing stolen), and per rate what `tpr` is at the declared
    one, None where no null of a theft within the budget supports it."""
    least = min(map(least_log10_p, _stolen(records)), default=math.nan)
    out: Record = {"least_log10_p": least if math.isfinite(least) else None}
    for name, log10_rate in STRICTER.items():
        rate = survival(thefts(records, partial(detected, log10_rate=log10_rate)))
        for end in ("least", "most", "low", "high"):
            out[f"{name}_{end}"] = getattr(rate, end) if least <= log10_rate + ROUNDING else None
    return out


def detected(point: Record, log10_rate: float) -> bool | None:
    """The decision at a rate; None where the null is too small for it."""
    if point["log10_p"] <= log10_rate + ROUNDING:
        return True
    return False if least_log10_p(point) <= log10_rate + ROUNDING else None


def least_log10_p(point: Record) -> float:
    """The least that what decides of a point can give; 0 where nothing decides, -inf of an exact law."""
    source = point.get("source", "none")
    if source not in BEHIND:
        return -math.inf
    counts = [null["count"] for name in BEHIND[source] if (null := point.get(name))]
    return max((-math.log10(1 + count) for count in counts), default=0.0)


def _stolen(records: Sequence[Record]) -> list[Record]:
    """The surrogates within the budget."""
    return [
        point
        for record in records
        if record["status"] == "ok" and not is_claim(record)
        for point, loss in zip(record["curve"], losses(record), strict=True)
        if round(loss, 9) <= BUDGET
    ]

"""A claim's numbers against ours. A reported number is one draw, not a mean, so it is held against an interval for a new draw.

Numbers: Student's prediction interval over seeds (paperjudge.py). Where all seeds give one number, only that number agrees.
Shares of detected thefts: k of our n against r of their m; the interval holds every r that Fisher's exact test of k of n against
r of m does not refuse at 5 %, two-sided by the smaller tail doubled (Thatcher, J. R. Statist. Soc. B 1964).
"""

import math
from collections.abc import Mapping

from ...leaderboard.store import Record
from ..paper.judge import measured
from .claim import Claim, Found, Reported, Verdict, measure_of

SAME = 1e-6
"""Percentages that differ by less are the same number."""


def judged(claim: Claim, records: Mapping[str, Mapping[int, Record | str]]) -> dict[str, Found]:
    """records: per trial and seed, the record or why there is none."""
    by_row = {("", trial): by_seed for trial, by_seed in records.items()}
    out = {}
    for number in claim.all_numbers:
        found = measured(measure_of(number), by_row)
        values = list(found.values.values())
        if found.missing:
            seed, why = next(iter(found.missing.items()))
            out[number.reads] = Found(values, None, None, None, "failed", f"seed {seed}: {why}")
        elif measure_of(number).quantity == "detected":
            out[number.reads] = _share(number, values)
        else:
            low, high = found.interval or (None, None)
            out[number.reads] = _number(number, values, low, high)
    return out


def overall(found: Mapping[str, Found]) -> Verdict:
    """The worst of the numbers' verdicts."""
    verdicts = {one.verdict for one in found.values()}
    order: tuple[Verdict, ...] = ("failed", "differs", "verified", "measured")
    return next(verdict for verdict in order if verdict in verdicts)


def _number(number: Reported, values: list[float], low: float | None, high: float | None) -> Found:
    mean = math.fsum(values) / len(values)
    if number.reported is None:
        return Found(values, mean, low, high, "measured")
    if low is None or high is None:
        agrees = abs(number.reported - mean) <= SAME
        why = f"all {len(values)} seeds are equal: no interval can be estimated"
        return Found(values, mean, None, None, "verified" if agrees else "differs", why)
    agrees = low - SAME <= number.reported <= high + SAME
    return Found(values, mean, low, high, "verified" if agrees else "differs")


def _share(number: Reported, values: list[float]) -> Found:
    hits, count = sum(value == 100 for value in values), len(values)
    mean = 100 * hits / count
    if number.reported is None or number.runs is None:
        return Found(values, mean, None, None, "measured")
    low, high = (100 * end / number.runs for end in shares(hits, count, number.runs))
    agrees = low - SAME <= round(number.reported * number.runs / 100) * 100 / number.runs <= high + SAME
    return Found(values, mean, low, high, "verified" if agrees else "differs")


def shares(hits: int, count: int, runs: int, alpha: float = 0.05) -> tuple[int, int]:
    """The least and the most of `runs` further trials that agree with hits of count."""
    agree = [r for r in range(runs + 1) if min(_tails(r, runs, hits + r, count + runs)) > alpha / 2]
    return min(agree), max(agree)


def _tails(r: int, drawn: int, good: int, total: int) -> tuple[float, float]:
    """P[X <= r] and P[X >= r] of the good among `drawn` of `total` without replacement, from whole numbers."""

    def ways(places: range) -> int:
        return sum(math.comb(good, i) * math.comb(total - good, drawn - i) for i in places)

    every = math.comb(total, drawn)
    return ways(range(r + 1)) / every, ways(range(r, drawn + 1)) / every

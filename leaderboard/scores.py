"""A scheme's scores, one flat row per board and scheme: the ranking's columns (ranking.py) and those of docs/statistics.md.

Intervals are at 95 %: `_low` and `_high` beside a score, none where seeds are too few for one (compare.py); `_least` and `_most`
bound it where trials are undecided. None: not measured, or not estimable. What a seed has once (its marked model, its controls) is
counted once, not once per attack.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from .compare import DRAWS, Interval, area_intervals, mean_interval, ranks, worst_interval
from .deployed import baselines, summary
from .frontier import Floats, Rate, areas, forging, forging_verdict, survival, thefts, worst
from .ranking import (
    BOARD,
    BUDGET,
    Record,
    cell_of,
    cost_of,
    different_keys,
    is_claim,
    losses,
    ranking,
    schemes,
)
from .stricter import stricter

WIDE = 0.1
"""The longer of the two ranges of the area under the frontier; the shorter is the budget."""
SURVIVES, SURELY = 0.95, 0.8
"""A scheme survives with this rate and this lower bound (Assay's protocol, rule 17)."""
NULLS = ("independent_models", "random_keys")
EXACT = ("low", "high")


def scores(records: Iterable[Record], draws: int = DRAWS, seed: int = 0) -> list[Record]:
    """In the ranking's order. tied_best, tied_worst: the ranks that the intervals of `survival` leave open; none without a rank."""
    records = list(records)
    groups, unhindered = schemes(records), baselines(records)
    rows = []
    for row in ranking(records):
        members = groups[*(row[axis] for axis in BOARD), row["watermark"]]
        rows.append({**row, **_scores(members, draws, seed), **summary(members, unhindered)})
    return _tied(rows)


def _tied(rows: list[Record]) -> list[Record]:
    """Ranks among the ranked schemes of a board of which some theft is decided. Accused ones come after all others, whatever their
    intervals say."""
    out = [{**row, "tied_best": None, "tied_worst": None} for row in rows]
    for board in {tuple(row[axis] for axis in BOARD) for row in rows}:
        before = 0
        for accused in (0, 1):
            here = [r for r in out if tuple(r[axis] for axis in BOARD) == board and r["accused"] == accused]
            here = [r for r in here if r["rank"] is not None and r["survival_low"] is not None]
            found = ranks([(r["survival_low"], r["survival_high"]) for r in here])
            for row, (best, last) in zip(here, found, strict=True):
                row |= {"tied_best": before + best, "tied_worst": before + last}
            before += len(here)
    return out


def _scores(records: list[Record], draws: int, seed: int) -> Record:
    found = thefts(records)
    rate, forged = survival(found), forging(records)
    out = {
        **_rate("tpr", rate),
        **_rate("forging", forged),
        "forging": forging_verdict(forged),
        **_subject(rate, forging_verdict(forged)),
        **stricter(records),
    }
    intervals = area_intervals(found, (BUDGET, WIDE), draws, seed)
    for name, upto, interval in zip(("area_narrow", "area_wide"), (BUDGET, WIDE), intervals, strict=True):
        out |= _named(name, ("least", "most", *EXACT), (*areas(found, upto), *interval))
    done = sorted((r for r in records if r["status"] == "ok"), key=lambda record: str(record["id"]))
    return out | _separation(done, draws, seed) | _costs(done) | _message(done) | _size(done)


def _rate(name: str, rate: Rate) -> Record:
    """Without a trial the interval is no finding: None. equals: how many other attacks are as bad as the one that is named."""
    bounds = (rate.least, rate.most, rate.low, rate.high) if rate.cell else (math.nan,) * 4
    attack, deployment = rate.cell or (None, None)
    where: Record = {f"{name}_attack": attack, f"{name}_deployment": deployment}
    where |= {f"{name}_seeds": rate.seeds, f"{name}_equals": rate.equals}
    return {**_named(name, ("least", "most", *EXACT), bounds), **where}


def worst_attack(attack: str | None, least: float | None, equals: int) -> str:
    """In words, for tables and figures: empty where every theft was detected, under which no attack is the worst."""
    if attack is None or least == 1:
        return ""
    return f"{attack} +{equals}" if equals else attack


def _subject(rate: Rate, forged: str) -> Record:
    """survival: the detection rate, void (0) where more than 1 % of claims are surely forged. survives: yes, no, or open
    where seeds or null models are too few to say, or claims too few to show that at most 1 % are forged."""
    void = forged == "exceeded" and rate.cell is not None
    bounds = (0.0,) * 4 if void else (rate.least, rate.most, rate.low, rate.high)
    if rate.cell is None:
        return {**_named("survival", ("least", "most", *EXACT), (math.nan,) * 4), "survives": None}
    verdict = "open"
    if void or rate.most < SURVIVES:
        verdict = "no"
    elif rate.least >= SURVIVES and rate.low >= SURELY and forged == "within":
        verdict = "yes"
    return {**_named("survival", ("least", "most", *EXACT), bounds), "survives": verdict}


def _separation(done: list[Record], draws: int, seed: int) -> Record:
    """AUROC of a suspect against the null scores of its seed, averaged over seeds: of the marked model, and of the weakest
    surrogate within the budget under the worst attack."""
    null = next((n for n in NULLS if any((r["marked"].get(n) or {}).get("count") for r in done)), None)
    once = _once(done, lambda r: _above(r["marked"], r, null))
    attacked = _by_cell(done, lambda r: _weakest(r, lambda point: _above(point, r, null)))
    out = {"auroc_null": null}
    for name, value_SC in (("auroc_marked", once[:, None]), ("auroc", attacked)):
        out |= _named(name, ("", *EXACT), (_lowest(value_SC), *worst_interval(value_SC, draws, seed)))
    return out


def _above(found: Record, record: Record, null: str | None) -> float:
    """P[null < suspect] + P[equal] / 2 over one seed's nulls, from the counts of the evidence, which know whether a test is
    two-sided; of nobody's models and rivals' over those of which more exceed the suspect. Equal scores are seen in the null
    scores of the owner's key; of random keys on other suspects they are not recorded and count against the owner."""
    groups = ("independent_models", "rivals") if null == "independent_models" else (null,)
    there = {name: result for name in groups if name and (result := found.get(name)) and result["count"]}
    if not there:
        return math.nan
    name, result = max(there.items(), key=lambda pair: pair[1]["exceed"] / pair[1]["count"])
    known = name != "random_keys" or found is record["marked"]
    alike = (record["nulls"].get(name) or []) if known and found["statistic"] is not None else []
    equal = alike.count(found["statistic"])
    return float(1 - (result["exceed"] - equal / 2) / result["count"])


def _costs(done: list[Record]) -> Record:
    """pp of accuracy (the mean is the ranking's cost_pp), seconds, and what one verification takes where records tell."""
    cost_S = _once(done, cost_of)
    seconds_S = _once(done, lambda r: r["owner"]["embedding_seconds"])
    told = {
        "verification_queries": ("verification", "queries"),
        "verification_seconds": ("verification", "seconds"),
        "detectability_auc": ("detectability", "auc"),
    }
    owners = {name: _number(_mean(_once(done, partial(_owners, *place)))) for name, place in told.items()}
    interval = mean_interval(cost_S)
    return {
        **_named("cost", ("pp_low", "pp_high"), interval),
        "embedding_seconds": _number(_mean(seconds_S)),
        **owners,
    }


def _owners(group: str, name: str, record: Record) -> float:
    """What records may tell of the owner's side: `owner.verification` (queries, seconds of one verification of the marked
    model) and `owner.detectability` (auc of the best detector)."""
    value = (record["owner"].get(group) or {}).get(name)
    return math.nan if value is None else float(value)


def _message(done: list[Record]) -> Record:
    """Capacity: bits of the payload, and the share read right, in the marked model and after the worst attack within the budget."""

    def read(found: Record) -> float:
        return found["message"]["accuracy"] if found.get("message") else math.nan

    bits = {r["marked"]["message"]["bits"] for r in done if r["marked"].get("message")}
    attacked = _by_cell(done, lambda r: _weakest(r, read))
    return {
        "bits": max(bits, default=None),
        "bit_accuracy": _number(_mean(_once(done, lambda r: read(r["marked"])))),
        "bit_accuracy_attacked": _number(_lowest(attacked)),
    }


def _size(done: list[Record]) -> Record:
    """The false-positive rate of strangers' keys on models of nobody, in each seed's worst trial: they differ where keys settle on
    what the thief asked. Cells of one key, or one model, are not independent: the interval counts the scarcer of models, the
    same for all seeds, and keys; its lower end is Bonferroni's over the keys that a seed's trials settled on."""
    sized = [r for r in done if r.get("size") and r["size"]["cells"]]
    worst_of = {r["seed"]: r for r in sorted(sized, key=lambda r: r["size"]["claims"] / r["size"]["cells"])}
    declared = next((r["marked"]["fpr"] for r in done), None)
    if not worst_of:
        return {"fpr": declared, "size_cells": 0, **_named("size", ("", *EXACT), (math.nan,) * 3)}
    from ..core.statistics import clustered_rate  # scipy takes a second to import

    cells, found = (sum(r["size"][name] for r in worst_of.values()) for name in ("cells", "claims"))
    nulls = [r["nulls"] for r in worst_of.values()]
    models = max(sum(score is not None for score in null["independent_models"]) for null in nulls)
    keys = sum(len(null["random_keys"]) for null in nulls)
    units = max(1, min(models, keys, cells))
    settled = different_keys(done)
    chosen = math.prod(settled[seed] for seed in worst_of)
    low = clustered_rate(found, cells, units, 1 - 0.05 / chosen)[0]
    high = clustered_rate(found, cells, units)[1]
    return {"fpr": declared, "size_cells": cells, **_named("size", ("", *EXACT), (found / cells, low, high))}


def _once(done: list[Record], value: Callable[[Record], float]) -> Floats:
    """(S,): of each seed's first record that has it."""
    found: dict[int, float] = {}
    for record in done:
        if math.isnan(found.get(record["seed"], math.nan)):
            found[record["seed"]] = value(record)
    return np.array([found[seed] for seed in sorted(found)])


def _by_cell(done: list[Record], value: Callable[[Record], float]) -> Floats:
    """(S, C) of thefts, runs averaged; nan where there is none."""
    runs: dict[Any, list[float]] = {}
    for record in done:
        if not is_claim(record) and not math.isnan(found := value(record)):
            runs.setdefault((record["seed"], cell_of(record)), []).append(found)
    seeds, cells = sorted({seed for seed, _ in runs}), sorted({cell for _, cell in runs})
    out_SC = np.full((len(seeds), len(cells)), math.nan)
    for (seed, cell), values in runs.items():
        out_SC[seeds.index(seed), cells.index(cell)] = sum(values) / len(values)
    return out_SC


def _weakest(record: Record, value: Callable[[Record], float]) -> float:
    """The smallest value of a surrogate within the budget; nan without one."""
    pairs = zip(record["curve"], losses(record), strict=True)
    found = [value(point) for point, loss in pairs if round(loss, 9) <= BUDGET]
    return min((v for v in found if not math.isnan(v)), default=math.nan)


def _lowest(value_SC: Floats) -> float:
    if not value_SC.size:
        return math.nan
    return float(worst(value_SC[..., None], np.ones((1, len(value_SC))))[0, 0])


def _mean(value_S: Floats) -> float:
    there_S = value_S[~np.isnan(value_S)]
    return float(there_S.mean()) if len(there_S) else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _named(name: str, ends: tuple[str, ...], values: tuple[float, ...] | Interval) -> Record:
    keys = [f"{name}_{end}" if end else name for end in ends]
    return {key: _number(value) for key, value in zip(keys, values, strict=True)}

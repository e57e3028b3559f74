"""What deployments do to thieves, from the records' `deployment` (docs/deployments.md): a row per deployment of a board, and the
same four numbers for a scheme.

clone_fidelity      agreement with the victim of the last clone: the attack with the largest mean over runs
queries_to_alarm    samples answered before the first alarm: the median over trials that raised one, `alarmed` of `watched`
benign_fpr_worst    of further honest customers of one kind, the share accused; the kind (and monitor) with the largest
cost_multiplier     queries to reach 90 % of the fidelity that the same thief ends with where nothing stops him, over the queries he
                    needs there: the median over trials; None where half of them never reach it (`cost_never` of `cost_trials`)
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from .ranking import Record, board_of, labelled

TARGET = 0.9
Baselines = dict[tuple[Any, ...], Record]
NONE: Record = {
    "clone_fidelity": None,
    "clone_attack": None,
    "queries_to_alarm": None,
    "alarmed": 0,
    "watched": 0,
    "benign_fpr_worst": None,
    "benign_worst_kind": None,
    "cost_multiplier": None,
    "cost_never": 0,
    "cost_trials": 0,
}


def rows(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """Of every board with such records, by deployment. The control counts: what it costs to steal does not need a mark."""
    known = list(map(labelled, records))
    unhindered, groups = baselines(known), defaultdict(list)
    for record in filter(_told, known):
        groups[board_of(record), record["choices"].get("deployment", "")].append(record)
    out: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for (board, name), members in sorted(groups.items()):
        out[board].append({"deployment": name, "trials": len(members), **summary(members, unhindered)})
    return dict(out)


def summary(records: Iterable[Record], unhindered: Baselines) -> Record:
    told = list(filter(_told, records))
    if not told:
        return dict(NONE)
    alarms = [alarm for r in told if (alarm := r["deployment"]["alarm"]) is not None]
    first = [alarm["queries"] for alarm in alarms if alarm["queries"] is not None]
    return {
        **_fidelity(told),
        "queries_to_alarm": float(median(first)) if first else None,
        "alarmed": len(first),
        "watched": len(alarms),
        **_accused(told),
        **_cost(told, unhindered),
    }


def _told(record: Record) -> bool:
    return record["status"] == "ok" and record.get("deployment") is not None


def _fidelity(told: list[Record]) -> Record:
    """Of the cell of attack and deployment with the largest mean; a board has one adversary."""
    cells = _grouped([r for r in told if r["deployment"]["clone"]], lambda r: _cell(r)[:2])
    means = {
        cell: sum(r["deployment"]["clone"]["fidelity"] for r in members) / len(members)
        for cell, members in cells.items()
    }
    best = max(means, key=lambda cell: means[cell], default=None)
    return {"clone_fidelity": None if best is None else means[best], "clone_attack": best and best[0]}


def _accused(told: list[Record]) -> Record:
    """Customers are the same under every attack: each seed of a scheme and deployment counts once."""
    once = {(*_cell(r)[1:], r["choices"]["watermark"]): r["deployment"]["benign"] for r in told}
    kinds: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for (deployment, *_), benign in once.items():
        for kind, found in (benign or {"kinds": {}})["kinds"].items():
            kinds[deployment, kind][0] += found["alarmed"]
            kinds[deployment, kind][1] += found["customers"]
    rates = {place: alarmed / count for place, (alarmed, count) in kinds.items()}
    worst = max(rates, key=lambda place: rates[place], default=None)
    return {
        "benign_fpr_worst": None if worst is None else rates[worst],
        "benign_worst_kind": None if worst is None else worst[1],
    }


def baselines(records: Iterable[Record]) -> Baselines:
    """Thieves whom nothing hinders: no monitor, no filter, one account, no licence."""
    out: Baselines = {}
    for record in filter(_told, map(labelled, records)):
        d = record["deployment"]
        free = d["alarm"] is None and d["utility"] is None and d["stopped"] is None and not d["simulation"]
        if free and d["accounts"] == 1 and not d["licensed"] and record["curve"]:
            out.setdefault(_thief(record), record)
    return out


def _cost(told: list[Record], unhindered: Baselines) -> Record:
    found = [cost for r in told if (cost := multiplier(r, unhindered)) is not None]
    middle = median(found) if found else math.inf
    return {
        "cost_multiplier": None if math.isinf(middle) else middle,
        "cost_never": sum(map(math.isinf, found)),
        "cost_trials": len(found),
    }


def multiplier(record: Record, unhindered: Baselines) -> float | None:
    """Infinite where the thief never gets there; None without a thief to compare him with."""
    plain = unhindered.get(_thief(record)) or unhindered.get(_thief(record, "standard"))
    if plain is None:
        return None
    target = TARGET * plain["curve"][-1]["agreement"]
    here, there = (_queries(r, target) for r in (record, plain))
    return here / there if there else None


def _queries(record: Record, fidelity: float) -> float:
    """The fewest at which a clone is so faithful, of those that were measured."""
    reached = [p["cost"]["queries"] for p in record["curve"] if p["agreement"] >= fidelity]
    return min(reached, default=math.inf)


def _thief(record: Record, adversary: str | None = None) -> tuple[Any, ...]:
    choices = record["choices"]
    names = (choices.get(axis) for axis in ("task", "model", "watermark", "attack"))
    return (*names, adversary or choices.get("adversary"), record["seed"])


def _cell(record: Record) -> tuple[str, str, int]:
    return record["choices"]["attack"], record["choices"].get("deployment", ""), record["seed"]


def _grouped(found: list[Record], name: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    out: dict[Any, list[Record]] = defaultdict(list)
    for record in found:
        out[name(record)].append(record)
    return out

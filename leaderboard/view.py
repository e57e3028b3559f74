"""What the page is told: the boards with their rankings, scores and frontiers, and every trial."""

import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from . import deployed
from .columns import QUANTILES, Pool, digits, lean, rounded, trials
from .compare import Pair, pairs
from .frontier import Frontier, frontier, thefts
from .ranking import BOARD, BUDGET, CONTROL, OUTCOMES, Record, board_of, labelled, ranking, schemes
from .scores import WIDE, scores
from .screen import screened
from .store import Excluded

Board = tuple[str, ...]


def view(found: Iterable[Record | Excluded], claims: Sequence[Record] = ()) -> Record:
    """The page's data. boards: one per class of trials, with the scores over all seeds and a ranking for each; excluded: what
    does not count, and why (screen.py); claims: as claims_in gives them (claims.py)."""
    memory: dict[bytes, Any] = {}
    pool = Pool()
    known = screened(item if isinstance(item, Excluded) else lean(labelled(item), memory) for item in found)
    records = sorted(known.records, key=_order)
    members: dict[Board, list[Record]] = defaultdict(list)
    for record in records:
        members[board_of(record)].append(record)
    boards = sorted(members, key=lambda names: [*map(_natural, names)])
    place = {names: i for i, names in enumerate(boards)}
    scored = {names: list(rows) for names, rows in groupby(scores(records), key=_names)}
    frontiers = _frontiers(records)
    deployments = deployed.rows(records)
    wins = {names: list(rows) for names, rows in groupby(pairs(records), key=lambda pair: pair.board)}
    return {
        "budget_pp": 100 * BUDGET,
        "wide_pp": 100 * WIDE,
        "quantiles": QUANTILES,
        "control": CONTROL,
        "outcomes": OUTCOMES,
        "boards": [
            _board(names, members[names], scored.get(names, []))
            | {"frontiers": frontiers.get(names, {}), "wins": _wins(wins.get(names, []))}
            | {"deployments": rounded(deployments.get(names, []))}
            for names in boards
        ],
        "excluded": [[one.kind, one.file, one.because] for one in known.excluded],
        "unsigned": known.unsigned,
        "claims": list(claims),
        "trials": trials(records, [place[board_of(record)] for record in records], pool),
        "pool": pool.values,
    }


def _order(record: Record) -> tuple[str, ...]:
    """Neighbours that are alike compress best: an attack's trials have the same strengths and costs."""
    choices = record["choices"]
    return choices["attack"], choices["watermark"], str(record["id"])


def _natural(name: str) -> list[str | int]:
    """A key by which numbers count as numbers: data_5, data_20; queries_100, queries_1k, queries_10k."""
    parts = re.split(r"(\d+k\b|\d+)", name)
    return [int(part.replace("k", "000")) if i % 2 else part for i, part in enumerate(parts)]


def _names(row: Record) -> Board:
    return tuple(row[axis] for axis in BOARD)


def _board(names: Board, records: list[Record], scored: list[Record]) -> Record:
    seeds = sorted({record["seed"] for record in records})
    by_seed = {str(seed): ranking(r for r in records if r["seed"] == seed) for seed in seeds}
    return {"names": names, "seeds": seeds, "rows": rounded({"all": scored, **by_seed})}


def _wins(found: list[Pair]) -> Record:
    """The paired comparisons of a board (compare.py) as columns; first and second are places in names."""
    names = list(dict.fromkeys(name for pair in found for name in (pair.first, pair.second)))
    counts = ("wins", "losses", "equal", "ahead", "behind")
    return {
        "names": names,
        **{end: [names.index(getattr(pair, end)) for pair in found] for end in ("first", "second")},
        **{name: [getattr(pair, name) for pair in found] for name in counts},
        **{p: [digits(getattr(pair, p), 6) for pair in found] for p in ("log10_p", "holm_log10_p")},
    }


def _frontiers(records: list[Record]) -> dict[Board, dict[str, Record]]:
    """Of every board's schemes."""
    out: dict[Board, dict[str, Record]] = {}
    for (*names, scheme), members in schemes(records).items():
        found = thefts(members)
        if found.seeds:
            out.setdefault(tuple(names), {})[scheme] = steps(frontier(found, WIDE))
    return out


def steps(found: Frontier) -> Record:
    """The losses (pp) at which the frontier or its interval changes, and the values from there on; null: nothing is stolen."""
    names = ("least", "most", "low", "high")
    values = list(zip(*(map(_shown, getattr(found, f"{name}_X")) for name in names), strict=True))
    last = len(values) - 1
    kept = [i for i, value in enumerate(values) if i in (0, last) or value != values[i - 1]]
    losses = [round(100 * float(found.losses_X[i]), 4) for i in kept]
    return {"loss_pp": losses, **{name: [values[i][n] for i in kept] for n, name in enumerate(names)}}


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


def command(record: Record) -> str:
    """What runs this trial again: its options, seed and overrides. The page writes the same (details.js)."""
    options: dict[str, Any] = record.get("options") or record["choices"]
    parts = [f"{axis}={option}" for axis, option in options.items()]
    return shlex.join(["assay", "run", *parts, f"seed={record['seed']}", *record.get("overrides", [])])

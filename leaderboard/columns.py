"""Trials as columns for the page: a column is one JSON array, and what several trials share is sent once.

Ten thousand trials then take 60 bytes each after compression; as objects they took 2,000.
"""

import marshal
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from .ranking import OUTCOMES, Record, outcome

SHARED = ("choices", "declared", "environment", "owner", "marked", "controls", "nulls", "size", "overrides")
"""Fields of a record that are the same in many."""
GIVEN = ("strength", "queries", "examples", "steps", "keys", "models", "rivals")
"""Of a curve, the vectors that depend on the attack more than on the scheme: each vector once."""
MEASURED = {"accuracy": 6, "agreement": 4, "statistic": 5, "log10_p": 4}
"""Of a point, the columns, with their significant digits."""
GROUPS = {"keys": "random_keys", "models": "independent_models", "rivals": "rivals"}
"""The page's word for each empirical null, and the record's."""
EXTRAS = ("claimed", "tracing", "overwriter")
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def _bytes(value: Any) -> bytes:
    """Equal ones for equal values, as version 2 writes no references; several times faster than JSON."""
    return marshal.dumps(value, 2)


class Pool:
    """Values, each once, in the order of first use."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.places: dict[bytes, int] = {}
        self.known: dict[tuple[int, Callable[[Any], Any]], int] = {}

    def put(self, value: Any) -> int:
        place = self.places.setdefault(_bytes(value), len(self.values))
        if place == len(self.values):
            self.values.append(value)
        return place

    def put_shared(self, value: Any, shown: Callable[[Any], Any]) -> int:
        """Of an object that share() returned and that outlives this pool's use: it is looked at once."""
        key = id(value), shown
        if key not in self.known:
            self.known[key] = self.put(shown(value))
        return self.known[key]


def lean(record: Record, memory: dict[bytes, Any]) -> Record:
    """The record, holding one copy of what others in memory hold too: of 10,000 records' settings and nulls a few hundred stay."""

    def first(value: Any) -> Any:
        return memory.setdefault(_bytes(value), value)

    shared = {name: first(record[name]) for name in SHARED if name in record}
    config = {name: first(value) for name, value in record.get("config", {}).items()}
    return {**record, **shared, "config": config}


def trials(records: list[Record], boards: list[int], pool: Pool) -> Record:
    """A column per field; the point columns of all curves stand one behind the other, `points` to a trial."""
    times = [finished_minute(record) for record in records]
    start = min((time for time in times if time is not None), default=0)
    rows = [_row(record, board, pool) for record, board in zip(records, boards, strict=True)]
    axes = dict.fromkeys(axis for record in records for axis in record["choices"])
    groups = dict.fromkeys(group for record in records for group in record["config"])
    return {
        **_transposed(rows),
        "axes": {axis: [pool.put(r["choices"].get(axis)) for r in records] for axis in axes},
        "config": {
            name: [pool.put_shared(r["config"].get(name), rounded) for r in records] for name in groups
        },
        "start": start,
        "finished": [None if time is None else time - start for time in times],
        "curves": _points(records, pool),
    }


def finished_minute(record: Record) -> int | None:
    """Minutes since 1970."""
    time = record.get("finished")
    return None if time is None else int(datetime.fromisoformat(time).timestamp()) // 60


def _row(record: Record, board: int, pool: Pool) -> Record:
    result, weakest = outcome(record)
    declared = record.get("declared") or {}
    options = record.get("options") or record["choices"]
    return {
        "board": board,
        "seed": record["seed"],
        "id": _short_id(record, options),
        "outcome": OUTCOMES.index(result),
        "weakest": digits(weakest, 4),
        "seconds": digits(record.get("spent", {}).get("seconds"), 3),
        "points": len(record.get("curve", ())),
        "options": pool.put(record.get("options")),
        "reason": pool.put(record.get("reason")),
        "traceback": pool.put(record.get("traceback")),
        "scheme": pool.put(declared.get("watermark")),
        "attack": pool.put(declared.get("attack")),
        "nulls": pool.put_shared(record.get("nulls"), _spreads),
        **{
            n: pool.put_shared(record.get(n), rounded)
            for n in ("environment", "owner", "marked", "controls", "overrides")
        },
    }


def prefix(options: dict[str, str], seed: int) -> str:
    """What an id begins with (docs/records.md)."""
    axes = ("task", "model", "watermark", "deployment", "attack")
    return "-".join([*(options.get(axis, "") for axis in axes), f"s{seed}"])


def _short_id(record: Record, options: dict[str, str]) -> str:
    """The id without what choices and seed say; the page puts the prefix back where a dash leads."""
    start, name = prefix(options, record["seed"]), str(record["id"])
    return name.removeprefix(start) if name.startswith(f"{start}-") else name


def _points(records: list[Record], pool: Pool) -> Record:
    curves = [record.get("curve", ()) for record in records]
    points = [point for curve in curves for point in curve]
    given = [{name: pool.put(values) for name, values in _given(curve).items()} for curve in curves]
    measured = {name: _shortened([p[name] for p in points], places) for name, places in MEASURED.items()}
    extras = {i: {name: point[name] for name in EXTRAS if point.get(name)} for i, point in enumerate(points)}
    return {
        **_transposed(given, GIVEN),
        **measured,
        "seconds": _shortened([p["cost"]["seconds"] for p in points], 2),
        "detected": [{True: 1, False: 0, None: 2}[p["detected"]] for p in points],
        "source": [pool.put(p.get("source")) for p in points],
        **{f"{name}_beyond": [_null(p, of, "exceed") for p in points] for name, of in GROUPS.items()},
        "bits": [_bits(point) for point in points],
        "extras": {i: rounded(found) for i, found in extras.items() if found},
    }


def _bits(point: Record) -> float | None:
    """The share of the payload's bits read right, unless the statistic says it: so many of the trials."""
    found = (point.get("message") or {}).get("accuracy")
    statistic, trials = point["statistic"], point["trials"]
    told = None not in (found, statistic) and trials and found == statistic / trials
    return None if told else digits(found, 4)


def _given(curve: Sequence[Record]) -> dict[str, list[Any]]:
    """Strengths, costs that are counts, and how many keys, models and rivals' models stood against each point."""
    costs = [point["cost"] for point in curve]
    return {
        "strength": [digits(point["strength"], 6) for point in curve],
        **{name: [cost[name] for cost in costs] for name in ("queries", "examples", "steps")},
        **{name: [_null(point, of, "count") for point in curve] for name, of in GROUPS.items()},
    }


def _null(point: Record, of: str, what: str) -> int | None:
    """Of a point's null: records from before rivals were a group of their own do not name them."""
    found: int | None = (point.get(of) or {}).get(what)
    return found


def _transposed(rows: list[Record], names: Iterable[str] = ()) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else names)}


def _spreads(nulls: Record | None) -> Record:
    return {name: spread(nulls[name]) for name in GROUPS.values() if nulls and name in nulls}


def spread(values: list[float | None]) -> Record:
    """Count and quantiles of null scores; an unreadable suspect has none."""
    read = sorted(value for value in values if value is not None)
    at = [digits(read[round(q * (len(read) - 1))], 5) for q in QUANTILES] if read else None
    return {"count": len(values), "quantiles": at}


def _shortened(values: list[float | None], places: int) -> list[float | None]:
    """digits() of each, worked out once for equal ones."""
    short = {value: digits(value, places) for value in set(values)}
    return [short[value] for value in values]


@lru_cache(maxsize=1 << 16)
def digits(value: float | None, places: int) -> float | None:
    """To so many significant digits, as an integer where it is one."""
    if value is None or value == 0:
        return None if value is None else 0
    short = float(f"{value:.{places}g}")
    return int(short) if short.is_integer() else short


def rounded(value: Any) -> Any:
    """Seven digits are more than any count, accuracy or p here has."""
    if isinstance(value, float):
        return digits(value, 7)
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
